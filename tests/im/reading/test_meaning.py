"""What channels and values mean: opacity, the range of uint16."""

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
from PIL import Image

import soscope_scverse.im as im
from helpers import image_element
from images import HEIGHT, WIDTH, computed, section, tissue

ADVICE = r"im\.open_image\(\.\.\., channels="
OVER = np.array([[0, 0, 0, 255], [0, 0, 0, 51], [200, 100, 0, 0]], dtype=np.uint8)


def shown(image, **kwargs):
    source = im.open_image(image, **kwargs)
    return source.read(0, source.height, 0, source.width)


def with_opacity(n_transparent=40, opaque=255, dtype=np.uint8):
    """An image that is transparent on its left, and the image over white."""
    opacity = np.full((HEIGHT, WIDTH), opaque, dtype)
    opacity[:, :n_transparent] = 0
    over_white = tissue()
    over_white[:, :n_transparent] = 255
    return np.dstack([tissue().astype(dtype) * dtype(opaque // 255), opacity]), over_white


def stains(dtype=np.uint16, n=4, seed=0):
    """Channels of fluorescence, channels first: none is an opacity."""
    values = np.random.default_rng(seed).gamma(1.5, 400, (n, HEIGHT, WIDTH))
    return (values.clip(0, 4000) / 4000 * np.iinfo(dtype).max / 2).astype(dtype)


# ---- opacity that is stated -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "expected"), [("unassalpha", [0, 204, 255]), ("assocalpha", [0, 204, 255])])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tags_state_the_opacity(tag, expected, planar, tmp_path):
    pixels = np.broadcast_to(OVER[:, None], (3, 20, 4)).copy()
    if tag == "assocalpha":
        pixels[2] = 0
    stored = np.moveaxis(pixels, 2, 0) if planar == "separate" else pixels
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=[tag], planarconfig=planar)
    assert shown(path)[:, 5].tolist() == [[value] * 3 for value in expected]


def test_colours_that_are_multiplied_by_their_opacity_are_not_multiplied_again(tmp_path):
    pixels = np.broadcast_to(np.array([60, 30, 0, 102], dtype=np.uint8), (9, 9, 4))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    with pytest.warns(UserWarning, match=f"^81 of 81 pixels are partly transparent.*states.*{ADVICE}"):
        assert shown(tmp_path / "a.tif")[0, 0].tolist() == [213, 183, 153]


def test_a_fourth_channel_that_is_not_stated_to_be_opacity_is_ignored(tmp_path):
    pixels, _ = with_opacity()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
    with pytest.warns(UserWarning, match=f"not stated to be opacity.*{ADVICE}"):
        read = shown(tmp_path / "a.tif")
    np.testing.assert_array_equal(read, tissue())


def test_grey_with_opacity(tmp_path):
    grey = np.dstack([tissue()[..., 0], with_opacity()[0][..., 3]])
    expected = np.repeat(np.where(grey[..., 1:], grey[..., :1], 255), 3, axis=2)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="minisblack", extrasamples=["unassalpha"])
    Image.merge("LA", [Image.fromarray(band) for band in np.moveaxis(grey, 2, 0)]).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        source = im.open_image(tmp_path / name)
        np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH), expected)
        np.testing.assert_array_equal(im.open_image(source).read(0, HEIGHT, 0, WIDTH), expected)
    assert im.open_image(tmp_path / "a.tif").is_grey


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array", "element"])
def test_an_image_that_is_transparent_everywhere_is_shown(kind, tmp_path):
    pixels = np.dstack([tissue(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    if kind == "PNG":
        Image.fromarray(pixels).save(tmp_path / "a.png")
    if kind == "TIFF":
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    image = {"PNG": tmp_path / "a.png", "TIFF": tmp_path / "a.tif", "array": pixels}.get(kind)
    with pytest.warns(UserWarning, match=r"pixels are transparent by the last channel.*ignored"):
        read = shown(image_element(pixels) if image is None else image)
    np.testing.assert_array_equal(read, tissue())


@pytest.mark.parametrize("names", [("r", "g", "b", "a"), ("Red", "Green", "Blue", "Alpha")])
def test_names_state_the_opacity(names):
    pixels, over_white = with_opacity()
    image = xr.DataArray(pixels, dims=("y", "x", "c"), coords={"c": list(names)})
    np.testing.assert_array_equal(shown(image), over_white)


# ---- four channels without a word about them ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "channels first", "dask", "element", "uint16", "float"])
def test_an_array_that_looks_like_rgba_is_read_so_with_a_warning(kind):
    pixels, over_white = with_opacity()
    image = {
        "array": lambda: pixels,
        "channels first": lambda: np.moveaxis(pixels, 2, 0),
        "dask": lambda: da.from_array(pixels, chunks=(50, 60, 4)),
        "element": lambda: image_element(pixels),
        "uint16": lambda: with_opacity(opaque=65535, dtype=np.uint16)[0],
        "float": lambda: pixels / 255,
    }[kind]()
    with pytest.warns(UserWarning, match=f"transparent by the fourth channel.*read as opacity.*{ADVICE}"):
        read = shown(image)
    np.testing.assert_array_equal(read, over_white)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["array", "element", "named", "CYX.ome.tif", "samples.tif"])
def test_four_channels_of_fluorescence_are_refused(kind, dtype, tmp_path):
    from spatialdata.models import Image2DModel

    pixels, path = stains(dtype), tmp_path / kind
    names = ["DAPI", "CD45", "18S", "Vimentin"]
    if kind == "CYX.ome.tif":
        tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}})
    if kind == "samples.tif":
        tifffile.imwrite(path, np.moveaxis(pixels, 0, 2), photometric="minisblack", planarconfig="contig")
    image = {
        "array": pixels,
        "element": Image2DModel.parse(pixels, dims=("c", "y", "x")),
        "named": Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=names),
    }.get(kind, path)
    with pytest.raises(ValueError, match=ADVICE) as refused:
        im.open_image(image)
    assert ("DAPI, CD45, 18S, Vimentin" in str(refused.value)) == (kind in ("named", "CYX.ome.tif"))
    assert shown(image, channels=[3]).max() == 255


def test_channels_last_of_uint8_are_read_as_colours_if_the_fourth_is_no_opacity():
    pixels = np.moveaxis(stains(np.uint8), 0, 2)
    with pytest.warns(UserWarning, match=f"partly transparent by the fourth channel.*ignored.*{ADVICE}"):
        read = shown(pixels)
    np.testing.assert_array_equal(read, pixels[..., :3])


# ---- fewer bits than the type has -----------------------------------------------------------------------------------


def deep(bits, kind="RGB"):
    """An image of uint16 whose values take some bits, and what it is with 8."""
    eight = tissue()[..., 0] if kind == "grey" else tissue()
    eight[0, :9] = 255
    return np.rint(eight / 255 * (2**bits - 1)).astype(np.uint16), eight


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", ["RGB", "grey"])
@pytest.mark.parametrize("container", ["array", "dask", "TIFF", "PNG", "element", "Pillow"])
def test_values_of_fewer_bits_are_read_by_their_range(bits, kind, container, tmp_path):
    pixels, eight = deep(bits, kind)
    if (kind, container) == ("RGB", "Pillow"):
        pytest.skip("Pillow has no colours of 16 bits")
    path = tmp_path / ("a.tif" if container == "TIFF" else "a.png")
    if container == "TIFF":
        tifffile.imwrite(path, pixels, photometric="rgb" if kind == "RGB" else "minisblack", tile=(64, 64))
    if container == "PNG":
        png = pytest.importorskip("imagecodecs").png_encode(pixels) if kind == "RGB" else None
        path.write_bytes(png) if png else Image.fromarray(pixels).save(path)
    image = {
        "array": lambda: pixels,
        "dask": lambda: da.from_array(pixels, chunks=50),
        "element": lambda: image_element(pixels if kind == "RGB" else pixels[..., None]),
        "Pillow": lambda: Image.fromarray(pixels),
    }.get(container, lambda: path)()
    highest = int(pixels.max())
    with pytest.warns(UserWarning, match=rf"^{highest} of 65535 is the highest value.*those of {bits} bits.*uint8"):
        source = im.open_image(image)
    expected = eight if kind == "RGB" else np.dstack([eight] * 3)
    np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH), expected)


def test_features_of_fewer_bits_are_those_of_eight():
    pixels, eight = deep(8)
    with pytest.warns(UserWarning, match="those of 8 bits"):
        features = computed(section(), pixels)
    np.testing.assert_array_equal(features, computed(section(), eight))


@pytest.mark.parametrize("highest", [16_384, 40_000, 65_535])
def test_values_of_sixteen_bits_keep_their_range(highest):
    pixels = deep(16)[0].clip(0, 300)
    pixels[-1, -1] = highest
    np.testing.assert_array_equal(shown(pixels), (pixels.astype(np.uint32) + 128) // 257)


def test_sixteen_bits_of_a_png_are_read_in_full(tmp_path):
    png_encode = pytest.importorskip("imagecodecs").png_encode
    pixels = np.random.default_rng(0).integers(0, 2**16, (30, 40, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png_encode(pixels))
    np.testing.assert_array_equal(shown(tmp_path / "a.png"), (pixels.astype(np.uint32) + 128) // 257)
    opaque = np.dstack([pixels, np.full((30, 40), 65535, np.uint16)])
    (tmp_path / "b.png").write_bytes(png_encode(opaque))
    np.testing.assert_array_equal(shown(tmp_path / "b.png"), shown(tmp_path / "a.png"))


@pytest.mark.parametrize("bits", [10, 12])
def test_bits_that_are_stated_need_no_warning(bits, tmp_path):
    pixels = (deep(bits, "grey")[0] // 8).astype(np.uint16)  # dark
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata={"axes": "YX", "SignificantBits": bits})
    expected = np.rint(pixels / (2**bits - 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(shown(tmp_path / "a.ome.tif")[..., 0], expected)


def test_the_range_of_a_pyramid_is_looked_up_in_its_finest_level(tmp_path):
    """A spot of 4,000 on a ground of 900 is averaged away in the coarser level."""
    pixels = np.full((1200, 1600), 900, dtype=np.uint16)
    pixels[700:703, 1000:1003] = 4000
    coarse = pixels.reshape(75, 16, 100, 16).mean(axis=(1, 3)).astype(np.uint16)
    assert 900 < coarse.max() < 1024
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels, tile=(64, 64), subifds=1, photometric="minisblack")
        file.write(coarse, tile=(64, 64), subfiletype=1, photometric="minisblack")
    with pytest.warns(UserWarning, match=r"4000 of 65535.*12 bits"):
        im.open_image(tmp_path / "a.tif")


def test_the_meaning_of_values_is_part_of_the_identity_of_an_image():
    pixels, _ = deep(8)
    with pytest.warns(UserWarning, match="8 bits"):
        source = im.open_image(pixels)
    assert source.fingerprint() != im.ImageSource(pixels, "yxc").fingerprint()
    assert im.open_image(source).values == source.values
