"""Tissue and glass."""

import warnings

import numpy as np
import pytest

import soscope_scverse as sos
from soscope_scverse import im, pp


def slide(section, edge):
    """The image of the section with white glass to the left of an edge, in pixels."""
    image = section.image.copy()
    image[:, :edge] = 255
    return image


@pytest.fixture
def halved(section):
    """Spots with subspots, and an image with glass from the middle of a spot on."""
    pp.subspots(section.adata)
    x = np.sort(np.unique(section.adata.obsm["spatial"][:, 0].round()))
    return section.adata, slide(section, int(x[len(x) // 2])), int(x[len(x) // 2])


def test_the_mask_is_where_the_colour_is():
    image = np.full((300, 400, 3), 250, dtype=np.uint8)
    image[100:200, 150:250] = (180, 100, 160)
    mask, scale = im.tissue_mask(image, size=200)
    assert (scale, mask.shape) == (0.5, (150, 200))
    expected = np.zeros((150, 200), dtype=bool)
    expected[50:100, 75:125] = True
    assert (mask != expected).mean() < 0.02
    grey = image.mean(axis=2).astype(np.uint8)
    np.testing.assert_array_equal(im.tissue_mask(grey, size=200)[0], expected)
    assert not im.tissue_mask(np.full((30, 40), 250, dtype=np.uint8))[0].any()


def test_shares_go_to_the_subspots_on_tissue(halved):
    adata, image, edge = halved
    before = adata.obsm["subspots"].copy()
    with pytest.warns(UserWarning, match="spots have no subspot on tissue"):
        im.mask_subspots(adata, image)
    exposure, subspots = adata.obsm["subspot_exposure"], adata.obsm["subspots"]
    np.testing.assert_allclose(exposure.sum(axis=1), 1)
    np.testing.assert_array_equal(np.isnan(subspots).all(axis=2), exposure == 0)
    left = before[..., 0] < edge - 3
    some = ~left.all(axis=1) & left.any(axis=1) & (exposure == 0).any(axis=1)
    assert some.any()
    assert (exposure[some][left[some]] == 0).all()
    bare = (before[..., 0] < edge - 20).all(axis=1)
    assert bare.any()
    assert (exposure[bare] > 0).all()


def test_the_model_trains_on_what_is_left(halved):
    adata, image, _ = halved
    with pytest.warns(UserWarning, match="no subspot on tissue"):
        im.mask_subspots(adata, image)
    n_left = int((adata.obsm["subspot_exposure"] > 0).sum())
    assert n_left < adata.obsm["subspot_exposure"].size
    im.features(adata, image)
    pp.spot_graph(adata)
    sos.SoScope.setup_anndata(adata)
    model = sos.SoScope(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=1, accelerator="cpu")
    enhanced = model.get_enhanced()
    assert enhanced.n_obs == n_left
    assert np.isfinite(enhanced.X).all()


@pytest.mark.filterwarnings("ignore:.*no subspot on tissue")  # The image has no glass.
def test_the_order_of_steps_is_checked(section):
    with pytest.raises(ValueError, match=r"`pp.subspots`, `im.mask_subspots` and `im.features`"):
        im.mask_subspots(section.adata, section.image)
    pp.subspots(section.adata)
    copied = im.mask_subspots(section.adata, section.image, copy=True)
    np.testing.assert_allclose(copied.obsm["subspot_exposure"].sum(axis=1), 1)
    im.features(section.adata, section.image)
    with pytest.raises(ValueError, match="no image features yet"):
        im.mask_subspots(section.adata, section.image)
