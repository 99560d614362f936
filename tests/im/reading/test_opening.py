"""All kinds of images read alike, and what is no image is refused."""

import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image

import soscope_scverse.im as im
from helpers import image_element
from images import HEIGHT, WIDTH, computed, section, tissue


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
    "SpatialData": lambda p, f: image_element(p),
    "SpatialData, multi-scale": lambda p, f: image_element(p, scale_factors=[2]),
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


# ---- images of Pillow, paths and addresses --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "CMYK", "YCbCr", "HSV", "LAB", "1", "I;16", "I", "F"])
def test_images_of_pillow_are_read(mode):
    image = Image.fromarray(tissue())
    if mode in ("I;16", "I", "F"):
        grey = tissue()[..., 0]
        image = Image.fromarray(grey / np.float32(255) if mode == "F" else grey.astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    elif mode == "LAB":
        image = Image.merge(mode, [Image.fromarray(tissue()[..., i]) for i in range(3)])
    else:
        image = image.convert(mode)
    expected = np.dstack([tissue()[..., 0]] * 3) if mode[0] in "IF" else np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(im.open_image(image).read(0, HEIGHT, 0, WIDTH), expected)


def test_a_file_opened_by_pillow_is_read(tmp_path):
    path = as_file(tmp_path, "a.png", tissue())
    with Image.open(path) as image:
        np.testing.assert_array_equal(im.open_image(image).read(0, HEIGHT, 0, WIDTH), tissue())


@pytest.mark.parametrize("as_text", [True, False])
def test_paths_begin_at_the_home_folder(as_text, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "slides").mkdir()
    as_file(tmp_path / "slides", "a.png", tissue())
    path = "~/slides/a.png"
    source = im.open_image(path if as_text else Path(path))
    np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH), tissue())


def test_a_name_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_file(tmp_path, "~section.png", tissue())
    assert im.open_image("~section.png").width == WIDTH


@pytest.mark.parametrize("address", ["https://a.org/b.tif", "s3://bucket/b.png", Path("http://a.org/b.jpg")])
def test_addresses_are_to_be_downloaded(address):
    with pytest.raises(ValueError, match=r"found the address.*Download the file"):
        im.open_image(address)


def test_what_is_no_file_is_refused_with_advice(tmp_path):
    with pytest.raises(ValueError, match=r"Pass the part after 'file://'"):
        im.open_image(f"file://{tmp_path}/a.png")
    with pytest.raises(FileNotFoundError, match=r"found nothing at 'no\.png' \(in the folder"):
        im.open_image("no.png")
    with pytest.raises(ValueError, match=r"folder.*Name a file in it"):
        im.open_image(tmp_path)
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match=r"folder.*spatialdata\.read_zarr"):
        im.open_image(tmp_path)


def test_tensors_are_to_be_converted():
    import torch

    with pytest.raises(TypeError, match=r"found Tensor\. Convert it with `numpy\.asarray`"):
        im.open_image(torch.zeros((9, 9, 3), dtype=torch.uint8))
