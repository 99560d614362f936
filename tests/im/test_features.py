"""Features of the subspots: what is written, and where the image comes from."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import soscope_scverse.im as im
from images import DIAMETER, PITCH, computed, halved, section, tissue


def test_features_writes_float32_slots_that_survive_a_file(tmp_path):
    adata = section()
    assert im.features(adata, tissue()) is None
    written = adata.obsm["subspot_features"]
    assert written.shape[:2] == (12, 4)
    assert 60 <= written.shape[2] <= 100
    assert written.dtype == np.float32
    assert np.isfinite(written).all()
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(read.obsm["subspot_features"], written)
    record = read.uns["subspot_features"]
    assert record["encoder"] == "texture"
    assert len(set(record["feature_names"])) == written.shape[2]
    assert record["context"] == pytest.approx(4 * (PITCH / 2) / (DIAMETER / 2))
    np.testing.assert_allclose(record["patch_pixels"], 4 * PITCH / 2)


def test_copy_and_key_added_leave_the_input_alone():
    adata = section()
    result = im.features(adata, tissue(), key_added="mine", copy=True)
    assert "mine" in result.obsm
    assert "mine" in result.uns
    assert "mine" not in adata.obsm
    assert "mine" not in adata.uns


def test_padded_subspots_are_zero_and_change_no_other():
    adata = section()
    whole = computed(adata, tissue(), context=6)
    adata.obsm["subspots"][3, 2:] = np.nan
    adata.obsm["subspots"][5] = np.nan
    padded = computed(adata, tissue(), context=6)
    assert (padded[3, 2:] == 0).all()
    assert (padded[5] == 0).all()
    kept = ~np.isnan(adata.obsm["subspots"]).any(axis=2)
    np.testing.assert_allclose(padded[kept], whole[kept], rtol=1e-5, atol=1e-6)


def test_scale_maps_coordinates_to_pixels():
    image, adata = tissue(), section()
    enlarged = image.repeat(2, axis=0).repeat(2, axis=1)
    adata_large = section(2 * adata.obsm["spatial"])
    adata_large.obsm["subspots"] = 2 * adata.obsm["subspots"]
    adata_large.uns["spatial"]["s1"]["scalefactors"]["spot_diameter_fullres"] = 2 * DIAMETER
    expected = computed(adata, image)
    np.testing.assert_allclose(computed(adata_large, image, image_scale=0.5), expected, rtol=1e-5, atol=1e-5)
    colours = slice(0, 6)
    np.testing.assert_allclose(
        computed(adata, enlarged, image_scale=2)[..., colours], expected[..., colours], atol=1e-5
    )


def test_embedded_image_and_its_factor_are_the_default():
    adata, small = section(), halved(tissue())
    entry = adata.uns["spatial"]["s1"]
    entry["scalefactors"] |= {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.25}
    entry["images"] |= {"hires": small / 255, "lowres": small[::2, ::2]}
    image, scale = im.embedded_image(adata)
    assert scale == 0.5
    assert image is entry["images"]["hires"]
    np.testing.assert_array_equal(computed(adata, None), computed(adata, small, image_scale=0.5))
    del entry["images"]["hires"]
    assert im.embedded_image(adata, "s1")[1] == 0.25


def test_without_any_image():
    assert im.embedded_image(section()) is None
    assert im.embedded_image(section(uns=False)) is None
    with pytest.raises(ValueError, match="Pass the image as `image`"):
        im.features(section(), None)


def test_without_a_diameter_the_radius_is_a_quarter_of_the_pitch():
    result = im.features(section(uns=False), tissue(), context=8, copy=True)
    np.testing.assert_allclose(result.uns["subspot_features"]["patch_pixels"], 8 * PITCH / 4)


def two_sections():
    adata = ad.concat([section(), section()], keys=["a", "b"], label="library", index_unique="-")
    adata.uns["spatial"] = {name: section().uns["spatial"]["s1"] for name in ("a", "b")}
    return adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()


def test_every_section_reads_its_own_image():
    adata = two_sections()
    images = {"a": tissue(seed=1), "b": tissue(seed=2)}
    result = im.features(adata, images, library_key="library", copy=True)
    for name, image in images.items():
        rows = (adata.obs["library"] == name).to_numpy()
        np.testing.assert_array_equal(result.obsm["subspot_features"][rows], computed(adata[rows].copy(), image))
    assert list(result.uns["subspot_features"]["sections"]) == ["a", "b"]


def test_embedded_images_of_sections():
    adata = two_sections()
    images = {"a": tissue(seed=1), "b": tissue(seed=2)}
    expected = computed(adata, images, library_key="library")
    for name, image in images.items():
        entry = adata.uns["spatial"][name]
        entry["images"]["lowres"], entry["scalefactors"]["tissue_lowres_scalef"] = image, 1.0
    np.testing.assert_array_equal(computed(adata, None, library_key="library"), expected)
    with pytest.raises(ValueError, match=r"found \['a', 'b'\]"):
        im.features(adata)


def test_sections_without_image_or_name_are_refused():
    adata = two_sections()
    with pytest.raises(ValueError, match="image of section 'b'"):
        im.features(adata, {"a": tissue()}, library_key="library")
    with pytest.raises(ValueError, match="`library_key`"):
        im.features(adata, {"a": tissue()})
    with pytest.raises(ValueError, match="found 'batch'"):
        im.features(adata, tissue(), library_key="batch")
    adata.obs["library"] = pd.Series(np.nan, index=adata.obs_names, dtype=object)
    with pytest.raises(ValueError, match="section for every spot"):
        im.features(adata, tissue(), library_key="library")


def test_broken_subspots_are_refused():
    adata = section()
    adata.obsm["subspots"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="found 1 of 48 neither"):
        im.features(adata, tissue())
    adata.obsm["subspots"] = adata.obsm["subspots"][:, 0]
    with pytest.raises(ValueError, match=r"found shape \(12, 2\)"):
        im.features(adata, tissue())
    del adata.obsm["subspots"]
    with pytest.raises(ValueError, match=r"pp\.subspots"):
        im.features(adata, tissue())
    with pytest.raises(ValueError, match="positive `context`"):
        im.features(section(), tissue(), context=0)


@pytest.mark.realdata
def test_breast_tumour_section(data_dir):
    folder = data_dir / "her2st"
    adata = ad.read_h5ad(folder / "C2.h5ad")
    steps = np.array([-1, 0, 1]) * 290.656 / 3
    adata.obsm["subspots"] = adata.obsm["spatial"][:, None] + np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        im.features(adata, folder / "C2_HE.jpg")
    written = adata.obsm["subspot_features"]
    assert written.shape == (adata.n_obs, 9, len(adata.uns["subspot_features"]["feature_names"]))
    assert np.isfinite(written).all()
    assert (written.std(axis=(0, 1)) > 1e-3).all()
    within = written - written.mean(axis=1, keepdims=True)
    assert (within.std(axis=(0, 1)) > 1e-4).all()
