"""Tissue and glass."""

import warnings

import anndata as ad
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

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


# ---- fluorescence ---------------------------------------------------------------------------------------------------

HEIGHT, WIDTH = 300, 400


def stained(ground=5, brightness=150, seed=0):
    """A round section of nuclei on dark glass with noise, and where it is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    tissue = (x - 160) ** 2 + (y - 150) ** 2 < 110**2
    nuclei = gaussian_filter(rng.gamma(1.5, 1, (HEIGHT, WIDTH)) * (rng.random((HEIGHT, WIDTH)) < 0.02), 2)
    signal = brightness * (0.15 + nuclei / np.quantile(nuclei[tissue], 0.99)) * tissue
    return (ground + signal + rng.normal(0, ground / 4, tissue.shape)).clip(0, 255).astype(np.uint8), tissue


def overlap(mask, tissue):
    return (mask & tissue).sum() / (mask | tissue).sum()


FLUORESCENCE = {
    "grey": lambda grey: grey,
    "faint": lambda grey: grey // 4,
    "one colour": lambda grey: np.dstack([0 * grey, 0 * grey, grey]),
    "two colours": lambda grey: np.dstack([grey // 2, 0 * grey, grey]),
    "uint16": lambda grey: grey.astype(np.uint16) * 257,
    "float": lambda grey: grey / 255,
    "channels": lambda grey: im.open_image(np.stack([grey, grey // 3]).astype(np.uint16), channels=[1]),
    "a crop": lambda grey: im.ImageSource(grey, "yx", offset=(-70.0, -40.0)),
}


@pytest.mark.parametrize("kind", FLUORESCENCE)
@pytest.mark.parametrize("ground", [0, 5, 20])
def test_tissue_on_dark_glass_is_what_is_bright(kind, ground):
    grey, tissue = stained(ground)
    mask, scale = im.tissue_mask(FLUORESCENCE[kind](grey))
    assert scale == 1
    found = mask[-HEIGHT:, -WIDTH:]  # a crop lies within a frame of no pixels
    assert overlap(found, tissue) > 0.9
    assert mask.sum() == found.sum()


def test_subspots_on_dark_glass_are_removed():
    grey, tissue = stained()
    x, y = np.meshgrid(np.arange(20.0, WIDTH, 30), np.arange(20.0, HEIGHT, 30))
    adata = ad.AnnData(np.ones((x.size, 3), dtype=np.float32))
    adata.obsm["spatial"] = np.column_stack([x.ravel(), y.ravel()])
    pp.subspots(adata, 9)
    with pytest.warns(UserWarning, match="no subspot on tissue"):
        im.mask_subspots(adata, grey)
    exposure, subspots = adata.obsm["subspot_exposure"], adata.obsm["subspots"]
    border = ((exposure > 0).sum(axis=1) < 9) & (exposure > 0).any(axis=1)
    left = subspots[border][exposure[border] > 0].astype(int)
    assert border.sum() > 5
    assert tissue[left[:, 1], left[:, 0]].mean() > 0.9


@pytest.mark.parametrize(("margin", "grey"), [(0, False), (60, False), (0, True)])
def test_stained_sections_keep_their_bright_glass(margin, grey):
    """Also beside a black margin, as of a padded image, and if the section is opened with `channels`."""
    image = np.full((HEIGHT, WIDTH, 3), 243, dtype=np.uint8)
    image[80:200, 100:300] = (170, 90, 150)
    image = image.mean(axis=2).astype(np.uint8) if grey else image
    padding = ((0, 0), (margin, margin), *([] if grey else [(0, 0)]))
    mask, _ = im.tissue_mask(np.pad(image, padding))
    inner = mask[:, margin : margin + WIDTH]
    assert inner[90:190, 110:290].all()
    assert not inner[:70].any()
    opened = im.open_image(image, channels=[0])
    assert im.tissue_mask(opened)[0][90:190, 110:290].all()
