"""Statistics of cells, which join the texture where pixels are known to be small enough."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest

import soscope_scverse.im as im
from images import column, computed, section, tissue

BACKGROUND, NUCLEUS = (235, 215, 230), (90, 60, 150)


def sized(adata, microns):
    adata.uns["spatial"]["s1"]["scalefactors"]["microns_per_pixel"] = microns
    return adata


def names(adata):
    return list(adata.uns["subspot_features"]["feature_names"])


def stained(height=400, width=400, *, spacing=24, radius=4):
    """Nuclei on a lattice, in the left half."""
    y, x = np.indices((height, width))
    inside = ((y % spacing - spacing / 2) ** 2 + (x % spacing - spacing / 2) ** 2 < radius**2) & (x < width / 2)
    return np.where(inside[..., None], NUCLEUS, BACKGROUND).astype(np.uint8)


@pytest.mark.parametrize("microns", [1.0, 6.0, None, "unknown", 0.0, np.nan])
def test_coarse_and_unknown_pixels_change_nothing(microns):
    expected = computed(section(), tissue())
    np.testing.assert_array_equal(computed(sized(section(), microns), tissue()), expected)


def test_cells_are_described_where_pixels_are_small():
    adata = sized(section(), 0.5)
    im.features(adata, tissue())
    expected = computed(section(), tissue())
    np.testing.assert_array_equal(adata.obsm["subspot_features"][..., :76], expected)
    assert adata.obsm["subspot_features"].shape[2] == 118
    assert adata.uns["subspot_features"]["cell_features"]
    assert {"nuclei2_mean_0.25", "edges8_coherence_1", "pattern0_share_1"} < set(names(adata))
    assert "pattern0_share_0.5" not in names(adata)
    patterns = [column(adata, f"pattern{i}_share_1") for i in range(10)]
    np.testing.assert_allclose(np.sum(patterns, axis=0), 1, rtol=1e-5)


def test_nuclei_are_seen_where_they_are():
    adata = sized(section([(100.0, 200.0), (300.0, 200.0)], n_side=1), 0.75)  # radius of 3 um
    im.features(adata, stained(), context=8)
    for radius in (2, 4.5):
        with_nuclei, without = column(adata, f"nuclei{radius:g}_mean_1")[:, 0]
        assert with_nuclei > 0.01
        assert without < 1e-3


def test_the_size_is_in_micrometres():
    """Nuclei of 3 um at three resolutions."""
    responses = []
    for microns, radius, spacing in ((1.5, 2, 12), (0.75, 4, 24), (0.375, 8, 48)):
        adata = sized(section([(100.0, 200.0)], n_side=1), microns)
        encoder = im.get_encoder("texture", cell_features=True)
        im.features(adata, stained(spacing=spacing, radius=radius), encoder=encoder, context=14)
        responses.append(column(adata, "nuclei4.5_mean_1")[0, 0])
    np.testing.assert_allclose(responses, responses[1], rtol=0.3)


def test_stripes_are_coherent():
    stripes = np.where(np.indices((400, 400))[1][..., None] % 16 < 8, BACKGROUND, NUCLEUS).astype(np.uint8)
    spots = [(150.0, 150.0), (250.0, 250.0)]
    adata, spotted = sized(section(spots, n_side=1), 0.9), sized(section(spots, n_side=1), 0.9)
    im.features(adata, stripes, context=8)
    im.features(spotted, tissue(400, 400), context=8)
    assert column(adata, "edges8_coherence_1").min() > 0.95
    assert column(spotted, "edges8_coherence_1").max() < 0.5
    assert column(adata, "edges2_strength_1").min() > 0.01


def test_shifting_image_and_coordinates_changes_nothing():
    image = tissue(900, 900)
    adata, moved = section([(400.0, 420.0), (460.0, 470.0)]), section([(363.0, 399.0), (423.0, 449.0)])
    features = [
        computed(sized(adata, 0.3), image, context=26.0),
        computed(sized(moved, 0.3), image[21:, 37:], context=26.0),
    ]
    np.testing.assert_array_equal(*features)


def test_positions_that_are_described_together_or_alone():
    source = replace(im.open_image(tissue(1300, 900)), microns=0.6)
    centres = np.stack(np.meshgrid([40.3, 430.0, 820.0], [50.0, 333.3, 640.0, 1210.0]), axis=-1).reshape(-1, 2)
    encoder = im.get_encoder("texture", cell_features=True).anchored(centres.min(axis=0))
    together, listed = encoder.encode(source, centres, 40.0)
    for centre, expected in zip(centres[::3], together[::3], strict=True):
        alone, same = encoder.encode(source, centre[None], 40.0)
        assert same == listed
        np.testing.assert_allclose(alone[0], expected, rtol=1e-3, atol=1e-5)


def test_one_section_of_unknown_resolution_decides_for_all():
    spots = [(x, y) for y in (45.0, 75.0) for x in (45.0, 75.0)]
    parts = {"a": sized(section(spots), 0.5), "b": section(spots)}
    libraries = {name: part.uns["spatial"]["s1"] for name, part in parts.items()}
    adata = ad.concat(parts, label="library", index_unique="_")
    for b_known, n_features in ((False, 76), (True, 118)):
        if b_known:
            libraries["b"]["scalefactors"]["microns_per_pixel"] = 0.9
        adata.uns["spatial"] = libraries
        im.features(adata, dict.fromkeys("ab", tissue()), library_key="library")
        assert adata.obsm["subspot_features"].shape[2] == n_features
        again = im.features_at(
            adata, adata.obsm["spatial"][:4], dict.fromkeys("ab", tissue()), library_id="a", library_key="library"
        )
        assert again.shape == (4, n_features)


def test_cells_of_unknown_size_are_refused():
    encoder = im.get_encoder("texture", cell_features=True)
    with pytest.raises(ValueError, match="known pixel size for `cell_features`"):
        im.features(section(), tissue(), encoder=encoder)
    fine = sized(section(), 0.5)
    im.features(fine, tissue(), encoder=im.get_encoder("texture", cell_features=False))
    assert fine.obsm["subspot_features"].shape[2] == 76


def test_the_level_of_a_pyramid_shows_cells(tmp_path):
    """Wide patches are read on a coarse level, unless cells would vanish there."""
    fine = tissue(1200, 1200)
    source = replace(im.open_image(fine), levels=(fine[::2, ::2], fine[::4, ::4], fine[::8, ::8]), microns=0.5)
    texture = im.get_encoder("texture")
    assert texture.at_resolution(None).level(source, 2048).width == 150
    assert texture.at_resolution(2.0).level(source, 2048).width == 150
    assert texture.at_resolution(0.5).level(source, 2048).width == 600  # 1 um; 2 um at the next
    assert texture.at_resolution(0.5).level(source, 256).width == 1200
