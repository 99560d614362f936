"""Encoders of the user: functions of tiles, and classes that are registered."""

import numpy as np
import pytest

import soscope_scverse.im as im
from images import HEIGHT, WIDTH, computed, mean_colour, section, tissue


def test_function_of_tiles_sees_the_patch_around_each_subspot():
    image, seen = tissue(), []

    def encoder(tiles):
        seen.append(tiles)
        return mean_colour(tiles)

    adata = section([(5.0, 75.0), (75.0, 75.0)], n_side=1)
    im.features(adata, image, encoder=encoder, context=2)
    (tiles,) = seen
    assert tiles.shape == (2, 20, 20, 3)
    assert tiles.dtype == np.uint8
    mirrored = np.pad(image, ((0, 0), (20, 0), (0, 0)), mode="symmetric")
    written = adata.obsm["subspot_features"][:, 0]
    np.testing.assert_allclose(written[0], mirrored[65:85, 15:35].mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(written[1], image[65:85, 65:85].mean(axis=(0, 1)), rtol=1e-5)
    assert adata.uns["subspot_features"]["encoder"] == "encoder"
    assert list(adata.uns["subspot_features"]["feature_names"]) == ["encoder_0", "encoder_1", "encoder_2"]


def test_batches_of_tiles_keep_their_order():
    spots = [(x, y) for x in range(40, 120, 8) for y in range(40, 120, 8)]
    adata = section(spots[::-1], n_side=1)
    image = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    im.features(adata, image, encoder=mean_colour, context=1)
    np.testing.assert_allclose(adata.obsm["subspot_features"][:, 0, :2], adata.obsm["spatial"] - 0.5)


def test_wrong_functions_are_refused():
    with pytest.raises(ValueError, match="rows of finite features"):
        im.features(section(), tissue(), encoder=lambda tiles: tiles)
    with pytest.raises(ValueError, match="not finite"):
        im.features(section(), tissue(), encoder=lambda tiles: mean_colour(tiles) * np.nan)


def test_registry():
    before = im.encoder_names()
    assert {"inception_v3", "texture"} <= set(before)

    @im.register_encoder("flat")
    class Flat(im.Encoder):
        def encode(self, source, centres, width):
            return np.full((len(centres), 1), width, dtype=np.float32), ["width"]

    assert im.encoder_names() == sorted([*before, "flat"])
    assert isinstance(im.get_encoder("flat"), Flat)
    np.testing.assert_allclose(computed(section(), tissue(), encoder="flat", context=2), 20)
    with pytest.raises(ValueError, match="registered already"):
        im.register_encoder("flat")
    with pytest.raises(ValueError, match=r"'flat', .*'inception_v3', .*'texture'\], found 'resnet'"):
        im.get_encoder("resnet")
    with pytest.raises(TypeError, match="found int"):
        im.get_encoder(3)
