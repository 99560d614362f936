import os
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr
from PIL import Image
from skimage.color import hed_from_rgb

import soscope_scverse.im as im
from soscope_scverse.im.encoders import registry

HEIGHT, WIDTH = 150, 190
PITCH, DIAMETER = 30.0, 20.0
DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def section(spots=None, *, n_side=2, uns=True):
    """Spots on a square lattice of 30 pixels, each divided into n_side x n_side subspots."""
    if spots is None:
        spots = [(x, y) for y in (45.0, 75.0, 105.0) for x in (45.0, 75.0, 105.0, 135.0)]
    spots = np.array(spots, dtype=float)
    steps = (np.arange(n_side) - (n_side - 1) / 2) * PITCH / n_side
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    adata = ad.AnnData(np.ones((len(spots), 1), dtype=np.float32))
    adata.obsm["spatial"] = spots
    adata.obsm["subspots"] = spots[:, None] + offsets
    if uns:
        adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"spot_diameter_fullres": DIAMETER}}}
    return adata


def tissue(height=HEIGHT, width=WIDTH, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def computed(adata, image, **kwargs):
    return im.features(adata, image, copy=True, **kwargs).obsm["subspot_features"]


def column(adata, name):
    return adata.obsm["subspot_features"][..., list(adata.uns["subspot_features"]["feature_names"]).index(name)]


def mean_colour(tiles):
    return tiles.mean(axis=(1, 2))


# What is written


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
    told = read.uns["subspot_features"]
    assert told["encoder"] == "texture"
    assert len(set(told["feature_names"])) == written.shape[2]
    assert told["context"] == pytest.approx(4 * (PITCH / 2) / (DIAMETER / 2))
    np.testing.assert_allclose(told["patch_pixels"], 4 * PITCH / 2)


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


# Texture encoder: closed forms


def test_constant_image_has_its_colour_and_no_texture():
    colour = np.array([200, 100, 150])
    adata = section()
    im.features(adata, np.full((HEIGHT, WIDTH, 3), colour, dtype=np.uint8))
    density = -np.log10(colour / 255)
    for window in ("0.125", "0.25", "0.5", "1"):
        np.testing.assert_allclose(column(adata, f"red_mean_{window}"), 200 / 255, rtol=1e-5)
        np.testing.assert_allclose(column(adata, f"blue_mean_{window}"), 150 / 255, rtol=1e-5)
        np.testing.assert_allclose(column(adata, f"darkness_mean_{window}"), density.mean(), rtol=1e-5)
        np.testing.assert_allclose(
            column(adata, f"haematoxylin_mean_{window}"), density @ hed_from_rgb[:, 0], rtol=1e-4
        )
    for name in adata.uns["subspot_features"]["feature_names"]:
        if "mean" not in name:
            np.testing.assert_allclose(column(adata, name), 0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_extreme_images_stay_finite(value):
    assert np.isfinite(computed(section(), np.full((HEIGHT, WIDTH), value, dtype=np.uint8))).all()


def test_windows_average_exactly_what_they_cover():
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    image[:, 90:] = 255
    adata = section([(90.0, 75.0), (95.0, 75.0), (60.0, 75.0), (120.0, 75.0)], n_side=1)
    im.features(adata, image, context=4)  # 40 pixels; windows of 5, 10, 20 and 40
    np.testing.assert_allclose(column(adata, "red_mean_1")[:, 0], [0.5, 25 / 40, 0, 1], atol=1e-6)
    np.testing.assert_allclose(column(adata, "red_mean_0.5")[:, 0], [0.5, 15 / 20, 0, 1], atol=1e-6)
    np.testing.assert_allclose(column(adata, "red_mean_0.25")[:, 0], [0.5, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(column(adata, "red_std_0.5")[:, 0], [0.5, np.sqrt(3) / 4, 0, 0], atol=1e-4)
    edges = column(adata, "darkness_edges0_0.5")[:, 0]
    assert edges[0] > 0
    assert edges[2] == edges[3] == 0


def test_fine_texture_survives_the_reduction():
    adata = section([(200.0, 300.0), (600.0, 300.0)], n_side=1)
    image = np.full((600, 800), 128, dtype=np.uint8)
    image[:, 400:] = np.indices((600, 400)).sum(axis=0) % 2 * 255
    im.features(adata, image, context=25.6)  # 256 pixels: blocks of 4 x 4
    np.testing.assert_allclose(column(adata, "red_std_0.5")[:, 0], [0, 0.5], atol=1e-3)
    np.testing.assert_allclose(column(adata, "red_mean_0.5")[:, 0], [128 / 255, 0.5], atol=1e-3)
    assert column(adata, "darkness_edges0_0.5")[1, 0] > 1
    np.testing.assert_allclose(column(adata, "darkness_coarse_std_0.5"), 0, atol=1e-3)


def test_shifting_image_and_coordinates_changes_nothing():
    image = tissue(900, 900)
    adata, moved = section([(400.0, 420.0), (460.0, 470.0)]), section([(363.0, 399.0), (423.0, 449.0)])
    kwargs = {"context": 26.0}  # 260 pixels: blocks of 4 x 4
    np.testing.assert_array_equal(computed(adata, image, **kwargs), computed(moved, image[21:, 37:], **kwargs))


def test_features_depend_on_the_tissue_nearby_only():
    image, other = tissue(), tissue()
    other[:, 120:] = 0
    adata = section([(45.0, 75.0), (135.0, 75.0)])
    first, second = computed(adata, image), computed(adata, other)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=1e-5)
    assert np.abs(first[1] - second[1]).max() > 0.1


def test_borders_are_mirrored():
    image = tissue()
    adata, moved = section([(5.0, 3.0), (35.0, 3.0)]), section([(105.0, 103.0), (135.0, 103.0)])
    mirrored = np.pad(image, ((100, 100), (100, 100), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(computed(adata, image), computed(moved, mirrored))
    np.testing.assert_array_equal(
        im.open_image(image).read(-100, HEIGHT + 100, -100, WIDTH + 100),
        mirrored,
    )


def test_many_rows_of_small_blocks_equal_few(monkeypatch):
    adata, image = section(n_side=1), tissue()
    whole = computed(adata, image, context=1)
    for limit in ("_BAND_BLOCKS", "_READ_PIXELS", "_WORK_PIXELS"):
        monkeypatch.setattr(f"soscope_scverse.im.encoders.texture.{limit}", 1)
    np.testing.assert_allclose(computed(adata, image, context=1), whole, rtol=1e-4, atol=1e-5)


# Kinds of images


def as_file(folder, name, image, **kwargs):
    path = folder / name
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, image, **kwargs)
    else:
        Image.fromarray(image).save(path)
    return path


def image_container(image):
    from squidpy.im import ImageContainer

    return ImageContainer(image, layer="image")


def spatialdata_element(image, **kwargs):
    from spatialdata.models import Image2DModel

    return Image2DModel.parse(np.moveaxis(image, 2, 0), dims=("c", "y", "x"), **kwargs)


KINDS = {
    "dask": lambda p, f: da.from_array(p, chunks=(64, 64, 3)),
    "dask, channels first": lambda p, f: da.from_array(np.moveaxis(p, 2, 0), chunks=(1, 64, 64)),
    "xarray": lambda p, f: xr.DataArray(p, dims=("y", "x", "channels")),
    "xarray, channels first": lambda p, f: xr.DataArray(np.moveaxis(p, 2, 0), dims=("c", "y", "x")),
    "xarray with z": lambda p, f: xr.DataArray(p[:, :, None], dims=("y", "x", "z", "c")),
    "PNG": lambda p, f: as_file(f, "a.png", p),
    "path as text": lambda p, f: str(as_file(f, "a.png", p)),
    "TIFF": lambda p, f: as_file(f, "a.tif", p, photometric="rgb"),
    "TIFF in tiles": lambda p, f: as_file(f, "a.tiff", p, photometric="rgb", tile=(32, 48)),
    "TIFF in planes": lambda p, f: as_file(
        f, "a.tif", np.moveaxis(p, 2, 0), photometric="rgb", planarconfig="separate"
    ),
    "ImageContainer": lambda p, f: image_container(p),
    "SpatialData": lambda p, f: spatialdata_element(p),
    "SpatialData, multi-scale": lambda p, f: spatialdata_element(p, scale_factors=[2]),
    "RGBA": lambda p, f: np.dstack([p, np.full(p.shape[:2], 255, dtype=np.uint8)]),
    "RGBA PNG": lambda p, f: as_file(f, "a.png", np.dstack([p, np.full(p.shape[:2], 255, dtype=np.uint8)])),
    "uint16": lambda p, f: p.astype(np.uint16) * 257,
    "float": lambda p, f: p / 255,
    "float32": lambda p, f: (p / 255).astype(np.float32),
    "opened": lambda p, f: im.open_image(p),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_all_kinds_of_one_image_read_alike(kind, tmp_path):
    pixels = tissue()
    image = KINDS[kind](pixels, tmp_path)
    source = im.open_image(image)
    assert (source.height, source.width, source.scale) == (HEIGHT, WIDTH, 1.0)
    np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH), pixels)
    np.testing.assert_array_equal(source.read(17, 80, 100, 141), pixels[17:80, 100:141])
    adata = section()
    np.testing.assert_array_equal(computed(adata, image), computed(adata, pixels))


def test_jpeg_reads_as_it_is_decoded(tmp_path):
    path = as_file(tmp_path, "a.jpg", tissue())
    source = im.open_image(path)
    with Image.open(path) as decoded:
        np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH), np.asarray(decoded))


def test_palette_png_gives_its_colours(tmp_path):
    palette = Image.fromarray(tissue()).convert("P")
    palette.save(tmp_path / "a.png")
    read = im.open_image(tmp_path / "a.png").read(0, HEIGHT, 0, WIDTH)
    np.testing.assert_array_equal(read, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["array", "one channel", "PNG", "16-bit PNG", "TIFF", "xarray", "bool"])
def test_grey_becomes_three_equal_channels(kind, tmp_path):
    grey = tissue()[..., 0] // 128 * 255 if kind == "bool" else tissue()[..., 0]
    image = {
        "array": lambda: grey,
        "one channel": lambda: grey[..., None],
        "PNG": lambda: as_file(tmp_path, "a.png", grey),
        "16-bit PNG": lambda: as_file(tmp_path, "a.png", grey.astype(np.uint16) * 257),
        "TIFF": lambda: as_file(tmp_path, "a.tif", grey),
        "xarray": lambda: xr.DataArray(grey, dims=("y", "x")),
        "bool": lambda: grey > 0,
    }[kind]()
    np.testing.assert_array_equal(im.open_image(image).read(0, HEIGHT, 0, WIDTH), np.dstack([grey] * 3))


def test_transparency_lies_over_white():
    image = np.zeros((4, 5, 4), dtype=np.uint8)
    image[0, :, 3] = 255
    image[1, :, 3] = 51
    read = im.open_image(image).read(0, 4, 0, 5)
    assert (read[0] == 0).all()
    assert (read[1] == 204).all()
    assert (read[2:] == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_files_neither_warn_nor_change_the_limit(suffix, tmp_path, monkeypatch):
    path = as_file(tmp_path, f"a.{suffix}", tissue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert im.open_image(path).read(0, HEIGHT, 0, WIDTH).shape == (HEIGHT, WIDTH, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_dask_images_are_read_in_part_only():
    def tile(block_info=None):
        (top, _), (left, _), _ = block_info[None]["array-location"]
        assert (top, left) == (0, 0), "read more than the tissue around the subspots"
        return np.full((1000, 1000, 3), 100, dtype=np.uint8)

    image = da.map_blocks(tile, chunks=((1000, 1000), (1000, 1000), (3,)), dtype=np.uint8, meta=np.empty((0, 0, 0)))
    assert np.isfinite(computed(section(), image)).all()


@pytest.mark.parametrize("shape", [(20, 30, 2), (20, 30, 5), (0, 30, 3), (20,), (1, 20, 30, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"image.*found shape"):
        im.open_image(np.zeros(shape, dtype=np.uint8))


def test_other_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found int64"):
        im.open_image(np.zeros((20, 30), dtype=np.int64))
    with pytest.raises(ValueError, match=r"0\.\.1, found values from 0 to 255"):
        im.open_image(np.array([[0.0, 255.0]])).read(0, 1, 0, 2)
    with pytest.raises(ValueError, match="found values from nan"):
        im.open_image(np.array([[0.0, np.nan]])).read(0, 1, 0, 2)
    with pytest.raises(TypeError, match="found list"):
        im.open_image([[0, 1]])
    with pytest.raises(ValueError, match="`scale` to be above 0"):
        im.open_image(tissue(), scale=0)
    with pytest.raises(ValueError, match="dimensions 'y', 'x'"):
        im.open_image(xr.DataArray(np.zeros((2, 20, 30)), dims=("z", "y", "x")))
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="JPEG, PNG or TIFF"):
        im.open_image(tmp_path / "a.gif")
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 20, 30), dtype=np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match="one grey, RGB or RGBA image"):
        im.open_image(tmp_path / "stack.tif")
    with pytest.raises(FileNotFoundError):
        im.open_image(tmp_path / "missing.tif")


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_image_container_brings_its_scale():
    from squidpy.im import ImageContainer

    container = ImageContainer(tissue(), layer="image", scale=0.5)
    assert im.open_image(container).scale == 0.5
    assert im.open_image(container, scale=1).scale == 1


# Scale and embedded images


def halved(image):
    return image.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)


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


# Sections


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


# Coordinates and image


def test_coordinates_may_poke_out_by_a_pitch():
    adata = section([(0.0, 0.0), (PITCH, 0.0), (2 * PITCH, 0.0)])
    im.check_coordinates(adata, tissue())
    assert np.isfinite(computed(adata, tissue())).all()
    adata.obsm["subspots"] -= PITCH
    with pytest.raises(ValueError, match="of 12 outside"):
        im.check_coordinates(adata, tissue())


@pytest.mark.parametrize("has_subspots", [True, False])
def test_wrong_scale_names_the_factor_that_fits(has_subspots):
    adata = section()
    adata.uns["spatial"]["s1"]["scalefactors"] |= {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.05}
    if not has_subspots:
        del adata.obsm["subspots"]
    small = np.zeros((HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"image_scale=0\.1`, the `tissue_hires_scalef`") as error:
        im.check_coordinates(adata, small)
    assert "19 wide and 15 high" in str(error.value)
    im.check_coordinates(adata, small, image_scale=0.1)


def test_wrong_scale_without_factors_is_estimated():
    adata = section([(1000.0, 1000.0), (1900.0, 1500.0)], uns=False)
    with pytest.raises(ValueError, match=r"`image_scale`.*at most 0\.099"):
        im.check_coordinates(adata, tissue(), image_scale=1)


def test_exchanged_axes_are_told():
    adata = section([(75.0, 10.0), (75.0, 40.0), (75.0, 780.0)])
    with pytest.raises(ValueError, match="exchange x and y"):
        im.check_coordinates(adata, tissue(150, 800))


def test_features_checks_before_reading():
    class Unreadable:
        shape, dtype = (15, 19, 3), np.dtype(np.uint8)

        def __getitem__(self, window):
            raise AssertionError

    with pytest.raises(ValueError, match="outside"):
        im.features(section(), Unreadable())


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


# Encoders


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


def test_registry(monkeypatch):
    monkeypatch.setattr(registry, "_ENCODERS", dict(registry._ENCODERS))

    @im.register_encoder("flat")
    class Flat(im.Encoder):
        def encode(self, source, centres, width):
            return np.full((len(centres), 1), width, dtype=np.float32), ["width"]

    assert im.encoder_names() == ["flat", "inception_v3", "texture"]
    assert isinstance(im.get_encoder("flat"), Flat)
    np.testing.assert_allclose(computed(section(), tissue(), encoder="flat", context=2), 20)
    with pytest.raises(ValueError, match="registered already"):
        im.register_encoder("flat")
    with pytest.raises(ValueError, match=r"\['flat', 'inception_v3', 'texture'\], found 'resnet'"):
        im.get_encoder("resnet")
    with pytest.raises(TypeError, match="found int"):
        im.get_encoder(3)


def test_import_is_light():
    heavy = "{'torch', 'torchvision', 'timm', 'distributed', 'squidpy', 'spatialdata'}"
    code = f"import sys, soscope_scverse.im; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.realdata
def test_breast_tumour_section():
    folder = DATA / "her2st"
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; set SOSCOPE_TEST_DATA")
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
