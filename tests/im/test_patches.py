"""Patches of the image around subspots, read when needed or stored."""

import anndata as ad
import numpy as np
import pytest
import zarr

from soscope_scverse import im, pp


@pytest.fixture
def divided(section):
    pp.subspots(section.adata)
    return section


def test_patches_are_the_pixels_around_the_subspots(divided):
    patches = im.patches(divided.adata, divided.image, context=2)  # of spots of 36 pixels
    assert patches.shape == (420, 36, 36, 3)
    assert patches.dtype == np.uint8
    xy = divided.adata.obsm["subspots"].reshape(-1, 2)
    for row in (30, 199):
        x, y = np.rint(xy[row] - 18).astype(int)
        np.testing.assert_array_equal(patches[row].compute(), divided.image[y : y + 36, x : x + 36])


def test_patches_have_the_pixels_that_are_asked_for(divided):
    patches = im.patches(divided.adata, divided.image, context=2, pixels=9).compute()
    assert patches.shape == (420, 9, 9, 3)
    full = im.patches(divided.adata, divided.image, context=2).compute()
    np.testing.assert_allclose(patches.mean(axis=(1, 2)), full.mean(axis=(1, 2)), atol=4)


def test_patches_are_those_that_an_encoder_gets(divided):
    seen = []
    im.features(divided.adata, divided.image, encoder=lambda p: seen.append(p) or p.mean(axis=(1, 2)), context=2)
    means = im.patches(divided.adata, divided.image, context=2).mean(axis=(1, 2)).compute()
    features = divided.adata.obsm["subspot_features"].reshape(-1, 3)
    np.testing.assert_allclose(means, features, rtol=1e-5)


def test_stored_patches_are_the_lazy_ones(divided, tmp_path):
    out = tmp_path / "patches.zarr"
    stored = im.patches(divided.adata, divided.image, pixels=8, out=out)
    assert isinstance(stored, zarr.Array)
    np.testing.assert_array_equal(stored[:], im.patches(divided.adata, divided.image, pixels=8).compute())
    assert [path.name for path in tmp_path.iterdir()] == ["patches.zarr"]
    with pytest.raises(ValueError, match="new path"):
        im.patches(divided.adata, divided.image, out=out)
    im.patches(divided.adata, divided.image, pixels=4, out=out, overwrite=True)
    assert zarr.open_array(out, mode="r").shape == (420, 4, 4, 3)


def test_padding_has_no_patch_and_sections_are_in_the_order_of_the_spots(divided):
    adata = divided.adata
    positions = adata.obsm["subspots"].copy()
    positions[::3, 4:] = np.nan
    pp.subspots(adata, positions=positions)
    alone = im.patches(adata, divided.image, context=2).compute()
    assert len(alone) == 360
    adata.obs["section"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    adata.uns["spatial"] = dict.fromkeys("ab", next(iter(adata.uns["spatial"].values())))
    mixed = im.patches(adata, {"a": divided.image, "b": divided.image}, context=2, library_key="section")
    np.testing.assert_array_equal(mixed.compute(), alone)
    images = {"a": divided.image, "b": im.open_image(divided.image[::2, ::2], scale=0.5)}
    with pytest.raises(ValueError, match=r"one width, found \[18, 36\] pixels .*`pixels=`"):
        im.patches(adata, images, context=2, library_key="section")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": 0}, "`pixels` to be at least 1"),
        ({"context": [2, 4]}, "one width of the patches, found 2"),
        ({"context": 1e9}, "times as wide as the image"),
        ({"out": "patches.npy"}, "to end in '.zarr'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(divided, options, message):
    with pytest.raises(ValueError, match=message):
        im.patches(divided.adata, divided.image, **options)


def test_subspots_are_needed(section):
    with pytest.raises(ValueError, match=r"pp\.subspots"):
        im.patches(section.adata, section.image)
    with pytest.raises(TypeError, match="Expected an AnnData"):
        im.patches(section.adata.X, section.image)
    assert isinstance(section.adata, ad.AnnData)
