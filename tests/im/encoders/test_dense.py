"""One run over strips of the image, against one run for every patch."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import soscope_scverse.im as im

RADIUS = 10.0


def image(height=700, width=900):
    """Smooth structure of two sizes, so that features differ from place to place."""
    rng = np.random.default_rng(0)
    layers = [gaussian_filter(rng.normal(size=(height, width, 3)), (size, size, 0)) for size in (3, 20)]
    return (128 + 40 * sum(layer / layer.std() for layer in layers)).clip(0, 255).astype(np.uint8)


def section(spots):
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = np.array(spots, dtype=float)
    adata.obsm["subspots"] = adata.obsm["spatial"][:, None]
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 2 * RADIUS}}}
    return adata


SPOTS = [(x, y) for y in np.arange(40.0, 680, 60) for x in np.arange(50.3, 880, 60)]


def computed(image, encoder, width, spots=SPOTS, **kwargs):
    adata = section(spots)
    im.features(adata, image, encoder=encoder, context=width / RADIUS, **kwargs)
    return adata.obsm["subspot_features"][:, 0]


class Blocks(torch.nn.Module):
    """Mean colours of blocks of 8 x 8 pixels: what the patch and the strip see is the same."""

    def forward(self, tiles):
        return torch.nn.functional.avg_pool2d(tiles.float(), 8)


class Convolutions(torch.nn.Module):
    """A small network that pads, with strides."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 7, stride=2, padding=3),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(3, 2, 1),
                torch.nn.Conv2d(8, 16, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(16, 16, 3, stride=2, padding=1),
            )

    def forward(self, tiles):
        return self.layers(tiles / 255)


def correlation(a, b):
    """Of every feature that varies over the positions, the median."""
    varies = (np.ptp(a, axis=0) > 0) & (np.ptp(b, axis=0) > 0)
    a, b = a[:, varies], b[:, varies]
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.median((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)))


def test_blocks_that_match_the_patches_are_the_same():
    spots = [(x, y) for y in (104.0, 304.0) for x in (104.0, 112.0, 360.0)]  # Whole blocks apart.
    patch, dense = (computed(image(), Blocks(), 64, spots, mode=mode) for mode in ("patch", "dense"))
    np.testing.assert_allclose(dense, patch, rtol=1e-5)


def test_cells_count_for_the_part_that_the_patch_covers():
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    spots = [(60.0, 100.0), (62.0, 100.0), (63.5, 100.0)]
    dense = computed(ramp, Blocks(), 64, spots, mode="dense")
    # Halves of the blocks at both ends, so that a ramp is averaged up to the steps of blocks.
    np.testing.assert_allclose(dense[:, 0], [59.5, 61.5, 63.0], atol=0.01)


def test_a_padded_network_agrees_with_the_patches():
    patch, dense = (computed(image(), Convolutions(), 128, mode=mode) for mode in ("patch", "dense"))
    assert correlation(patch, dense) > 0.95  # The patch is padded, the strip is not.


def test_strips_of_any_size_share_the_grid():
    """As wide as one patch, as a band of the section, or as the section."""
    source, centres = im.open_image(image()), np.array(SPOTS)
    encoder = im.ModuleEncoder(Convolutions()).dense().anchored(centres.min(axis=0))
    whole, _ = encoder.encode(source, centres, 128)
    for rows in ([7], [100], range(14, 42), range(0, len(centres), 20)):
        np.testing.assert_allclose(encoder.encode(source, centres[list(rows)], 128)[0], whole[list(rows)], atol=1e-5)


def test_shifting_image_and_coordinates_changes_nothing():
    inner = [(x, y) for x, y in SPOTS if 250 < x < 650 and 250 < y < 450]
    moved = [(x - 37, y - 21) for x, y in inner]
    expected = computed(image(), Convolutions(), 128, inner, mode="dense")
    np.testing.assert_allclose(
        computed(image()[21:, 37:], Convolutions(), 128, moved, mode="dense"), expected, atol=1e-5
    )


@pytest.fixture
def weights(inception):
    return inception[1]


def test_inception_averages_its_last_map(weights):
    """Of one tile as an image, the mean of the map is the last pooling of torchvision."""
    encoder = im.InceptionV3(weights=weights, device="cpu")
    tile = image(299, 299)[None]
    np.testing.assert_allclose(encoder.feature_map(tile).mean(axis=(2, 3)), encoder.describe(tile), atol=1e-4)
    (grid,) = encoder.dense()._grids
    assert (grid.stride, grid.window(299)) == (32, 8)
    assert grid.first == pytest.approx(21.5 / 32)  # Its layers without padding see 75 pixels around a cell.


@pytest.mark.slow
def test_inception_agrees_with_the_patches(weights):
    spots = [(x, 350.0) for x in np.arange(150.0, 800, 100)]
    mixed = image()
    mixed[:, 450:] = 255 - mixed[:, 450:] // 2
    modes = [
        computed(mixed, "inception_v3", 150, spots, mode=mode, weights=weights, device="cpu")
        for mode in ("patch", "dense")
    ]
    assert modes[1].shape == (len(spots), 2048)
    # Nearly all cells of a tile feel its padding, which a random network is not trained to bear.
    assert correlation(*modes) > 0.65
    assert correlation(*modes) > correlation(modes[0], np.roll(modes[1], 1, axis=0)) + 0.1


def test_what_is_recorded_and_cached(tmp_path):
    for mode in ("patch", "dense", "dense"):
        adata = section(SPOTS)
        im.features(adata, image(), encoder=Convolutions(), context=12, mode=mode, cache=tmp_path)
        assert adata.uns["subspot_features"]["mode"] == mode
        np.testing.assert_array_equal(
            adata.obsm["subspot_features"][:, 0], computed(image(), Convolutions(), 120, mode=mode)
        )


@pytest.mark.parametrize("encoder", ["texture", lambda tiles: tiles.mean(axis=(1, 2))])
def test_encoders_without_a_map_are_refused(encoder):
    with pytest.raises(ValueError, match=r"'inception_v3' and a `torch.nn.Module`"):
        computed(image(), encoder, 64, mode="dense")


def test_modules_without_a_map_are_refused():
    pooled = torch.nn.Sequential(Convolutions(), torch.nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match="found 1 and 1 cells across"):
        computed(image(), pooled, 64, mode="dense")
    with pytest.raises(ValueError, match=r"found shape \(1, 16\)"):
        computed(image(), torch.nn.Sequential(pooled, torch.nn.Flatten()), 64, mode="dense")
    with pytest.raises(ValueError, match="no `batch_size`"):
        computed(image(), Convolutions(), 64, mode="dense", batch_size=3)
    with pytest.raises(ValueError, match="`mode` to be one of"):
        computed(image(), Convolutions(), 64, mode="fast")
