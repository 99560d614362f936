"""Pixels of files: JPEG and PNG, decoded when first read, and TIFF, read in part."""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
import zarr
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from soscope_scverse._files import file_state
from soscope_scverse.im.reading import slides

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_COLOURS = ("MINISBLACK", "RGB", "YCBCR")
_MICRONS = {"µm": 1.0, "nm": 1e-3, "mm": 1e3}
_MOST_COMPRESSED = 2000
"""Bytes of pixels in a byte of a PNG or JPEG file, at most: one holds 1,032 of deflate, or six blocks of JPEG."""


class FileLevels(NamedTuple):
    """What a file holds; pixels are read when they are asked for."""

    levels: list[Any]
    """Arrays, the finest first."""
    axes: str
    """Letters of their axes, out of "y", "x" and "c"."""
    microns: float | None = None
    """Width of a pixel of the finest in micrometres, if it is told."""


def read_file(path: Path) -> FileLevels:
    """Find out what an image file holds; raises if it is of none of the kinds that are known."""
    if path.is_dir():
        msg = f"Expected an image file, found the folder {str(path)!r}. Name a file in it."
        raise ValueError(msg)
    with path.open("rb") as file:
        magic = file.read(8)
    if path.suffix.lower() in slides.SUFFIXES:
        levels, microns = slides.slide_levels(path)
        return FileLevels(levels, "yxc", microns)
    if magic.startswith(_TIFF_MAGIC):
        return _read_tiff(path)
    # The classes of the formats, not PIL.Image.open: whole-slide images are larger than the limit of that function.
    if magic.startswith(b"\xff\xd8\xff"):
        return _read_decoded(DecodedFile(JpegImageFile, path))
    if magic.startswith(b"\x89PNG"):
        return _read_decoded(DecodedFile(PngImageFile, path))
    msg = f"Expected a JPEG, PNG or TIFF file, found {path} beginning with {magic!r}. Convert it, or pass an array."
    raise ValueError(msg)


def _read_decoded(pixels: DecodedFile) -> FileLevels:
    return FileLevels([pixels], "yxc" if len(pixels.shape) == 3 else "yx")


def _read_tiff(path: Path) -> FileLevels:
    with _decoding(path), tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = series.axes.lower().replace("s", "c")
        colours = getattr(series.keyframe.photometric, "name", None)
        levels = [TiffLevel(path, n, level.shape, level.dtype) for n, level in enumerate(series.levels)]
        microns = _tiff_microns(file)
    if sorted(axes.replace("c", "")) != ["x", "y"] or axes.count("c") > 1 or colours not in _TIFF_COLOURS:
        msg = (
            f"Expected a TIFF with one grey, RGB or RGBA image, found axes {series.axes!r}, shape {series.shape} and "
            f"colours {colours} in {path}. Convert it, or pass the plane to use as an array."
        )
        raise ValueError(msg)
    return FileLevels(levels, axes, microns)


def _tiff_microns(file: tifffile.TiffFile) -> float | None:
    """Width of a pixel in micrometres, of OME-TIFF and SVS; resolution tags of plain TIFF files are seldom meant so."""
    if file.ome_metadata is not None:
        images = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        pixels = (images if isinstance(images, dict) else images[0])["Pixels"]
        in_microns = _MICRONS.get(pixels.get("PhysicalSizeXUnit", "µm"))
        size = pixels.get("PhysicalSizeX")
        return None if size is None or in_microns is None else float(size) * in_microns
    if file.is_svs:
        size = re.search(r"MPP\s*=\s*([\d.]+)", file.pages.first.description)
        return None if size is None else float(size.group(1))
    return None


class DecodedFile:
    """JPEG or PNG as an array whose size is known at once and whose pixels are decoded when first read."""

    def __init__(self, file_type: Callable[[Path], ImageFile], path: Path) -> None:
        self._file_type, self._path = file_type, path.absolute()
        self._array: np.ndarray | None = None
        with _decoding(path), file_type(path) as image:
            bands = {"L": 1, "I;16": 1, "I": 1, "RGB": 3}.get(image.mode)
            self._convert_to = None if bands else "RGBA" if _is_transparent(image) else "RGB"
            n_channels = bands or len(self._convert_to or "")
            self.shape = (image.height, image.width) + ((n_channels,) if n_channels > 1 else ())
            self.dtype = np.dtype(np.uint16 if image.mode.startswith("I") else np.uint8)
        size = path.stat().st_size
        if math.prod(self.shape) * self.dtype.itemsize > _MOST_COMPRESSED * size:
            msg = (
                f"Expected a whole image, found {path} of {size} bytes, which cannot hold the {self.shape[0]} x "
                f"{self.shape[1]} pixels that it promises. Copy or export it again."
            )
            raise ValueError(msg)

    def __getitem__(self, window: Any) -> np.ndarray:
        if self._array is None:
            with _decoding(self._path), self._file_type(self._path) as image:
                decoded = np.asarray(image.convert(self._convert_to) if self._convert_to else image)
            self._array = decoded.astype(self.dtype, copy=False)
        return self._array[window]

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodedFile, (self._file_type, self._path)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return file_state(self._path)

    def release(self) -> None:
        """Let go of the pixels."""
        self._array = None


def _is_transparent(image: ImageFile) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


class TiffLevel:
    """One level of a TIFF as an array that is read in part; the file is open from the first read to the last use."""

    def __init__(self, path: Path, level: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path, self._level, self.shape, self.dtype = path.absolute(), level, shape, dtype

    @cached_property
    def _pixels(self) -> zarr.Array:
        file = tifffile.TiffFile(self._path)
        weakref.finalize(self, file.close)
        return zarr.open_array(file.series[0].aszarr(level=self._level), mode="r")

    def __getitem__(self, window: Any) -> np.ndarray:
        with _decoding(self._path):
            return np.asarray(self._pixels[window])

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffLevel, (self._path, self._level, self.shape, self.dtype)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return *file_state(self._path), self._level


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Tell of a damaged file in one way; decoders do so in many."""
    try:
        yield
    except Exception as error:
        msg = f"Expected a whole image, found {path} that cannot be decoded: {error}. Copy or export it again."
        raise ValueError(msg) from error
