"""Slides through OpenSlide; a tiled TIFF, which it reads as well, stands in for the formats of scanners."""

import pickle
import sys

import numpy as np
import pytest
import tifffile

from soscope_scverse import im


@pytest.fixture
def slide(tmp_path):
    """The same pyramid under two names, one of which OpenSlide is to open."""
    pytest.importorskip("openslide")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (512, 768, 3), dtype=np.uint8)
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1)
    for name in ("plain.tif", "slide.vms"):
        with tifffile.TiffWriter(tmp_path / name) as file:
            options = {"tile": (256, 256), "photometric": "rgb"}
            file.write(fine, **options)
            file.write(coarse, subfiletype=1, **options)
    return tmp_path / "slide.vms", fine, coarse


def test_a_slide_reads_as_its_pixels(slide):
    path, fine, coarse = slide
    source = im.open_image(path)
    assert (source.height, source.width) == fine.shape[:2]
    np.testing.assert_array_equal(source.read(100, 300, 50, 90), fine[100:300, 50:90])
    level = source.coarsened(2)
    assert (level.height, level.width, level.scale) == (*coarse.shape[:2], 0.5)
    np.testing.assert_array_equal(level.read(100, 300, 50, 90), coarse[100:300, 50:90])
    np.testing.assert_array_equal(level.read(-5, 10, 0, 8)[:5], coarse[:5, :8][::-1])


def test_a_slide_travels_to_other_processes(slide):
    path, fine, _ = slide
    source = pickle.loads(pickle.dumps(im.open_image(path)))
    np.testing.assert_array_equal(source.read(0, 20, 0, 30), fine[:20, :30])
    assert source.fingerprint() == im.open_image(path).fingerprint()


def test_what_is_no_slide_is_refused(tmp_path):
    pytest.importorskip("openslide")
    (tmp_path / "broken.mrxs").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="OpenSlide can read"):
        im.open_image(tmp_path / "broken.mrxs")


def test_without_openslide_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.mrxs").write_bytes(b"nothing")
    with pytest.raises(ImportError, match=r"soscope-scverse\[openslide\]"):
        im.open_image(tmp_path / "a.mrxs")
