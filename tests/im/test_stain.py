"""Sections of another stain, normalised to a reference."""

import warnings

import numpy as np
import pytest

from soscope_scverse import im, pp
from soscope_scverse.im.reading.source import Recolouring


@pytest.fixture
def stained(section):
    """Spots, their image with glass beside it, and the same in another stain: other optical densities."""
    pp.subspots(section.adata)
    image = section.image.copy()
    image[-image.shape[0] // 8 :] = 250
    density = -np.log10(np.maximum(image, 1) / 255)
    other = 255 * 10 ** -(density * [0.6, 0.85, 0.7])
    return section.adata, image, other.round().astype(np.uint8)


def means(adata, image):
    """Colours of the subspots."""
    adata = im.features(adata, image, encoder=lambda tiles: tiles.mean(axis=(1, 2)), context=1, copy=True)
    return adata.obsm["subspot_features"].reshape(-1, 3)


def test_features_come_close_to_those_of_the_reference(stained):
    adata, image, other = stained
    expected = means(adata, image)
    before = np.abs(means(adata, other) - expected).mean()
    after = np.abs(means(adata, im.normalize_stain(other, image)) - expected).mean()
    assert before > 10
    assert after < before / 5


def test_the_reference_itself_hardly_changes(stained):
    _, image, _ = stained
    height, width = image.shape[:2]
    read = im.normalize_stain(image, image).read(0, height, 0, width)
    assert np.abs(read.astype(int) - image).max() <= 1


def test_it_is_read_lazily_and_known_to_the_cache(stained):
    _, image, other = stained
    normalised = im.normalize_stain(other, image)
    whole = normalised.read(0, 60, 0, 60)
    np.testing.assert_array_equal(normalised.read(10, 30, 5, 45), whole[10:30, 5:45])
    assert normalised.pixels is other
    assert normalised.fingerprint() != im.open_image(other).fingerprint()
    again = im.normalize_stain(normalised, image)
    np.testing.assert_array_equal(again.read(0, 60, 0, 60), whole)


def test_colours_that_no_screen_shows_are_cut_off():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = Recolouring((1.0, 3.0, 3.0), (-40.0, 0.0, 0.0))(np.eye(3, dtype=np.uint8)[None] * np.uint8(255))
    assert shown.dtype == np.uint8


def test_glass_alone_is_refused(stained):
    _, image, _ = stained
    glass = np.full((40, 50, 3), 250, dtype=np.uint8)
    with pytest.raises(ValueError, match="tissue in `reference`"):
        im.normalize_stain(image, glass)
    with pytest.raises(ValueError, match="tissue in `image`"):
        im.normalize_stain(glass, image)
