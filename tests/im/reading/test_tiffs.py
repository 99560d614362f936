"""TIFF files: colours other than RGB, pixel sizes, and files that belong together."""

import logging
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

import soscope_scverse.im as im
from images import HEIGHT, WIDTH, tissue


def shown(path, **kwargs):
    source = im.open_image(path, **kwargs)
    return source.read(0, source.height, 0, source.width)


# ---- luma and chroma ------------------------------------------------------------------------------------------------


def smooth():
    """An image whose colours survive the conversion to luma and chroma."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.dstack([y, 255 - x, 60 + x // 2]).astype(np.uint8)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "jpeg"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_luma_and_chroma_are_converted_once(compression, planar, tmp_path):
    path, rgb = tmp_path / "a.tif", smooth()
    if compression == "jpeg":  # the decoder converts
        if planar == "separate":
            pytest.skip("JPEG in TIFF is not in planes")
        tifffile.imwrite(path, rgb, photometric="rgb", compression="jpeg", tile=(64, 64), subsampling=(1, 1))
    else:
        stored = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
        stored = np.moveaxis(stored, 2, 0) if planar == "separate" else stored
        tifffile.imwrite(path, stored, photometric="ycbcr", compression=compression, planarconfig=planar)
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.YCBCR
    np.testing.assert_allclose(shown(path).astype(int), rgb, atol=16 if compression == "jpeg" else 3)
    part = im.open_image(path).read(20, 60, 30, 90)
    np.testing.assert_array_equal(part, shown(path)[20:60, 30:90])
    red = im.open_image(path, channels=[0])
    assert np.corrcoef(red.read(0, HEIGHT, 0, WIDTH)[..., 0].ravel(), rgb[..., 0].ravel())[0, 1] > 0.99


def test_luma_and_chroma_of_studio_range_and_other_coefficients(tmp_path):
    """ITU-R BT.709, luma 16 to 235 and chroma 16 to 240, as the tags of the file say."""
    rgb = smooth().astype(float)
    shares = np.array([0.2126, 0.7152, 0.0722])
    luma = rgb @ shares
    cb, cr = ((rgb[..., i] - luma) / (2 - 2 * shares[i]) for i in (2, 0))
    stored = np.dstack([16 + luma * 219 / 255, 128 + cb * 112 / 127, 128 + cr * 112 / 127])
    tags = [
        (529, 5, 3, (2126, 10_000, 7152, 10_000, 722, 10_000), True),
        (532, 5, 6, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), True),
    ]
    tifffile.imwrite(tmp_path / "a.tif", np.rint(stored).astype(np.uint8), photometric="ycbcr", extratags=tags)
    np.testing.assert_allclose(shown(tmp_path / "a.tif").astype(int), rgb, atol=3)


def test_chroma_with_fewer_pixels_is_refused(tmp_path):
    stored = np.asarray(Image.fromarray(smooth()).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="ycbcr")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
    with pytest.raises(ValueError, match=r"subsampling \(2, 2\).*a\.tif\. Convert it to RGB"):
        im.open_image(tmp_path / "a.tif")


# ---- white is zero --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_min_is_white_is_turned_round(dtype, tmp_path):
    grey = tissue()[..., 0]
    stored = {
        np.uint8: 255 - grey,
        np.uint16: 65535 - grey.astype(np.uint16) * 257,
        np.float32: (1 - grey / 255).astype(np.float32),
        bool: grey < 128,
    }[dtype]
    expected = (grey >= 128) * 255 if dtype is bool else grey
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    source = im.open_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(0, HEIGHT, 0, WIDTH)[..., 0], expected)
    lazy, axes = source.lazy_pixels()
    stored_bright = im.open_image(lazy.compute())
    assert axes == ("c", "y", "x")
    np.testing.assert_array_equal(stored_bright.read(0, HEIGHT, 0, WIDTH)[..., 0], expected)


def test_min_is_white_with_fewer_bits_and_with_channels(tmp_path):
    grey = tissue()[..., 0]
    grey[0, :9] = 0
    tifffile.imwrite(tmp_path / "a.tif", 255 - grey.astype(np.uint16), photometric="miniswhite")
    with pytest.warns(UserWarning, match="255 of 65535 is the highest value"):
        np.testing.assert_array_equal(shown(tmp_path / "a.tif")[..., 0], grey)
    stretched = shown(tmp_path / "a.tif", channels=[0])[..., 0]
    assert np.corrcoef(stretched.ravel(), grey.ravel())[0, 1] > 0.99


# ---- pixel size -----------------------------------------------------------------------------------------------------


def ome(path, size, unit):
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(path, tissue(), photometric="rgb", metadata=metadata | units)
    return path


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        *[(0.25, unit) for unit in (None, "\u00b5m", "\u03bcm", "um", "micron", "Microns", "micrometer", " µm ")],
        *[(250, "nm"), (250, "nanometers"), (2.5e-4, "mm"), (2.5e-5, "cm"), (2.5e-7, "m"), (2500, "\u00c5")],
        (2500, "\u212b"),
        (0.25 / 25_400, "in"),
    ],
)
def test_units_of_ome(size, unit, tmp_path):
    path = ome(tmp_path / "a.ome.tif", size, unit)
    assert im.open_image(path).microns == pytest.approx(0.25)


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_sizes_in_pixels_are_no_sizes(unit, tmp_path):
    assert im.open_image(ome(tmp_path / "a.ome.tif", 1, unit)).microns is None


@pytest.mark.parametrize(("size", "unit"), [(0.25, "furlong"), (0, "µm"), (-1, "µm"), ("0,25", "µm"), ("nan", "nm")])
def test_sizes_that_are_not_understood_are_named(size, unit, tmp_path):
    path = ome(tmp_path / "a.ome.tif", size, unit)
    with pytest.warns(UserWarning, match=rf"a\.ome\.tif is ignored.*{unit}.*microns_per_pixel"):
        assert im.open_image(path).microns is None


@pytest.mark.parametrize("unit", ["micron", "\\u00B5m", "um"])
def test_units_of_imagej(unit, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", tissue()[..., 0], imagej=True, resolution=(2.0, 2.0), metadata={"unit": unit})
    assert im.open_image(tmp_path / "a.tif").microns == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("resolution", "unit", "microns"),
    [(20_000, "CENTIMETER", 0.5), (50_800, "INCH", 0.5), (300, "INCH", None), (4800, "INCH", None), (2, "NONE", None)],
)
def test_resolution_of_a_plain_file_counts_if_it_is_that_of_a_microscope(resolution, unit, microns, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, tissue(), photometric="rgb", resolution=(resolution, resolution), resolutionunit=unit)
    assert im.open_image(path).microns == pytest.approx(microns)


# ---- files that belong together -------------------------------------------------------------------------------------


def multi_file(folder, n=4):
    """An OME-TIFF whose channels lie in files of their own, each with the metadata of all."""
    names = [f"stain_{i}.ome.tif" for i in range(n)]
    uuids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(n)]
    planes = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for i, (name, uuid) in enumerate(zip(names, uuids, strict=True))
    )
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="stain {i}" SamplesPerPixel="1"/>' for i in range(n))
    for i, name in enumerate(names):
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuids[i]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeZ="1" SizeC="{n}" SizeT="1">{channels}{planes}'
            "</Pixels></Image></OME>"
        )
        plane = tissue(seed=i)[..., 0].astype(np.uint16) * 257
        tifffile.imwrite(folder / name, plane, description=description, metadata=None, tile=(64, 64))
    return [folder / name for name in names]


def test_all_files_of_an_ome_tiff_are_read_as_one_image(tmp_path):
    paths = multi_file(tmp_path)
    with pytest.raises(ValueError, match="stain 0, stain 1, stain 2, stain 3"):
        im.open_image(paths[0])
    for channel in range(4):
        source = im.open_image(paths[2], channels=[channel])
        grey = source.read(0, HEIGHT, 0, WIDTH)[..., 0]
        assert np.corrcoef(grey.ravel(), tissue(seed=channel)[..., 0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("channels", [None, [0]])
def test_one_file_of_several_names_the_others(kept, channels, tmp_path, caplog):
    paths = multi_file(tmp_path)
    for i, path in enumerate(paths):
        if i != kept:
            path.unlink()
    missing = ", ".join(path.name for i, path in enumerate(paths) if i != kept)
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=f"3 missing beside it: {missing}") as error:
        im.open_image(paths[kept], channels=channels)
    assert not caplog.records
    assert f"tifffile.imread('stain_{kept}.ome.tif', is_ome=False)" in str(error.value)
    plane = tifffile.imread(paths[kept], is_ome=False)
    np.testing.assert_array_equal(shown(plane)[..., 0], tissue(seed=kept)[..., 0])


def test_a_file_whose_metadata_lie_elsewhere_is_read_by_itself(tmp_path):
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<BinaryOnly MetadataFile="a.companion.ome" UUID="urn:uuid:00000000-0000-0000-0000-000000000009"/></OME>'
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", tissue(), photometric="rgb", description=description, metadata=None)
    np.testing.assert_array_equal(shown(tmp_path / "a.ome.tif"), tissue())


def test_a_file_that_was_renamed_is_whole(tmp_path):
    path = multi_file(tmp_path, n=1)[0]
    renamed = path.rename(tmp_path / "other.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(shown(renamed)[..., 0], tissue(seed=0)[..., 0])
