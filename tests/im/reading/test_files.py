"""Image files are opened once, and closed in the end."""

import os
import pickle
import sys
from collections import Counter

import numpy as np
import pytest
import tifffile
from dask.base import tokenize
from PIL import Image

from soscope_scverse import im

PIXELS = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
KINDS = [".jpg", ".png", ".tif"]


def written(path):
    """A file of each kind; the TIFF has three levels."""
    if path.suffix == ".tif":
        with tifffile.TiffWriter(path) as tif:
            for step in (1, 2, 4):
                tif.write(
                    PIXELS[::step, ::step],
                    subfiletype=step > 1,
                    subifds=2 * (step == 1),
                    photometric="rgb",
                    tile=(32, 32),
                )
    else:
        Image.fromarray(PIXELS).save(path)
    return path


def read_levels(source):
    """Pixels of all levels."""
    levels = [source, *(source.coarsened(factor) for factor in (2, 4))]
    return [level.read(0, level.height, 0, level.width) for level in levels]


@pytest.fixture
def opened(monkeypatch):
    """How often files were opened for their content, by name; the first bytes, which show the format, do not count."""
    count = Counter()

    def counting(init):
        def wrapped(self, file, *args, **kwargs):
            count[os.path.basename(file)] += 1
            return init(self, file, *args, **kwargs)

        return wrapped

    from PIL.ImageFile import ImageFile

    for cls in (tifffile.TiffFile, ImageFile):
        monkeypatch.setattr(cls, "__init__", counting(cls.__init__))
    return count


def descriptors(path):
    """Open descriptors of a file in this process."""
    links = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(link) and os.path.samefile(link, path) for link in links)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_is_opened_once_for_all_that_is_read(suffix, opened, tmp_path):
    source = im.open_image(written(tmp_path / f"a{suffix}"))
    first = read_levels(source)
    for a, b in zip(first, read_levels(source), strict=True):
        np.testing.assert_array_equal(a, b)
    assert opened == {f"a{suffix}": 1}


@pytest.mark.parametrize("suffix", KINDS)
def test_the_pixels_of_a_file_are_a_dask_array_too(suffix, tmp_path):
    source = im.open_image(written(tmp_path / f"a{suffix}"))
    lazy, axes = source.lazy_pixels()
    assert axes == ("y", "x", "c")
    np.testing.assert_array_equal(lazy[5:40, :, 1].compute(), source.read(5, 40, 0, 128)[..., 1])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_released_pixels_are_decoded_from_a_new_open(suffix, opened, tmp_path):
    source = im.open_image(written(tmp_path / f"a{suffix}"))
    before = source.read(0, 96, 0, 128)
    source.release()
    np.testing.assert_array_equal(source.read(0, 96, 0, 128), before)
    assert opened == {f"a{suffix}": 2}


@pytest.mark.parametrize("suffix", KINDS)
def test_the_file_may_be_deleted_while_the_image_is_in_use(suffix, tmp_path):
    path = written(tmp_path / f"a{suffix}")
    expected = read_levels(im.open_image(path))
    source = im.open_image(path)
    path.unlink()
    for a, b in zip(read_levels(source), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(sys.platform != "linux", reason="open descriptors are listed in /proc on Linux")
@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("is_read", [True, False])
def test_it_is_closed_when_the_image_is_gone(suffix, is_read, tmp_path):
    path = written(tmp_path / f"a{suffix}")
    source = im.open_image(path)
    assert descriptors(path) == 1
    if is_read:
        read_levels(source)
    del source
    assert descriptors(path) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="open descriptors are listed in /proc on Linux")
@pytest.mark.parametrize("suffix", KINDS)
def test_a_refused_file_is_closed(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(
            path, np.zeros((5, 20, 20), dtype=np.uint8), photometric="minisblack", metadata={"axes": "ZYX"}
        )
    else:
        whole = written(tmp_path / f"whole{suffix}").read_bytes()
        size = whole.index(b"IHDR") + 4 if suffix == ".png" else whole.index(b"\xff\xc0") + 5
        huge = whole[:size] + (b"\x7f\xff" * 2 if suffix == ".jpg" else b"\0\7\0\0" * 2)
        path.write_bytes(huge + whole[size + (4 if suffix == ".jpg" else 8) :])
    with pytest.raises(ValueError, match="Expected a") as refused:
        im.open_image(path)
    assert descriptors(path) == 0
    assert refused.value is not None  # the error, which refers to the frames, is alive


@pytest.mark.parametrize("suffix", KINDS)
def test_pickled_images_open_the_file_again(suffix, opened, tmp_path):
    source = im.open_image(written(tmp_path / f"a{suffix}"))
    expected = read_levels(source)
    copy = pickle.loads(pickle.dumps(source))
    assert tokenize(copy.pixels) == tokenize(source.pixels)
    for a, b in zip(read_levels(copy), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert opened == {f"a{suffix}": 2}
