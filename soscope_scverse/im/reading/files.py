"""Pixels of image files: JPEG and PNG, decoded at the first read, and TIFF, read in part."""

from __future__ import annotations

import math
import re
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
from soscope_scverse.im.reading.shared import SharedFile

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_COLOURS = ("MINISBLACK", "RGB", "YCBCR")
_MICRONS = {"µm": 1.0, "nm": 1e-3, "mm": 1e3}
_MAX_COMPRESSION = 2000
"""Most bytes of pixels for a byte of a PNG or JPEG file: deflate reaches 1,032; six blocks of JPEG take one byte."""


class FileLevels(NamedTuple):
    """Content of an image file; pixels are read on demand."""

    levels: list[Any]
    """Arrays, the finest first."""
    axes: str
    """Letters of their axes: "y", "x" and "c"."""
    microns: float | None = None
    """Width of a pixel of the finest level in micrometres, if the file records it."""


def read_file(path: Path) -> FileLevels:
    """Open an image file and read its metadata.

    Raises
    ------
    ValueError
        If the file is of an unsupported format or damaged.
    """
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
    # the classes of the formats instead of PIL.Image.open, which limits the size of images
    if magic.startswith(b"\xff\xd8\xff"):
        return _read_decoded(DecodedFile(JpegImageFile, path))
    if magic.startswith(b"\x89PNG"):
        return _read_decoded(DecodedFile(PngImageFile, path))
    msg = f"Expected a JPEG, PNG or TIFF file, found {path} beginning with {magic!r}. Convert it, or pass an array."
    raise ValueError(msg)


def _read_decoded(pixels: DecodedFile) -> FileLevels:
    return FileLevels([pixels], "yxc" if len(pixels.shape) == 3 else "yx")


def _read_tiff(path: Path) -> FileLevels:
    shared = SharedFile(tifffile.TiffFile, path)
    with shared.closed_on_error():
        return _tiff_levels(shared, path)


def _tiff_levels(shared: SharedFile[tifffile.TiffFile], path: Path) -> FileLevels:
    with _decoding(path):
        series = shared.file.series[0]
        axes = series.axes.lower().replace("s", "c")
        colours = getattr(series.keyframe.photometric, "name", None)
        levels = [TiffLevel(shared, n, level.shape, level.dtype) for n, level in enumerate(series.levels)]
        microns = _tiff_microns(shared.file)
    if sorted(axes.replace("c", "")) != ["x", "y"] or axes.count("c") > 1 or colours not in _TIFF_COLOURS:
        msg = (
            f"Expected a TIFF with one grey, RGB or RGBA image, found axes {series.axes!r}, shape {series.shape} and "
            f"colours {colours} in {path}. Convert it, or pass the plane to use as an array."
        )
        raise ValueError(msg)
    return FileLevels(levels, axes, microns)


def _tiff_microns(file: tifffile.TiffFile) -> float | None:
    """Width of a pixel in micrometres, of OME-TIFF and SVS; resolution tags of plain TIFF files are unreliable."""
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
    """JPEG or PNG file as an array; pixels are decoded at the first read and kept until :meth:`release`.

    The file is open until its pixels are decoded. After :meth:`release` it is opened and decoded again when needed.

    Parameters
    ----------
    file_type
        Class of Pillow for the format.
    path
        The file.
    """

    def __init__(self, file_type: Callable[[Path], ImageFile], path: Path) -> None:
        self._file_type, self._shared = file_type, SharedFile(file_type, path)
        self._array: np.ndarray | None = None
        with self._shared.closed_on_error():
            with _decoding(path):
                self._read_header(self._shared.file)
            self._check_header(path)

    def _read_header(self, image: ImageFile) -> None:
        bands = {"L": 1, "I;16": 1, "I": 1, "RGB": 3}.get(image.mode)
        self._convert_to = None if bands else "RGBA" if _is_transparent(image) else "RGB"
        n_channels = bands or len(self._convert_to or "")
        self.shape = (image.height, image.width) + ((n_channels,) if n_channels > 1 else ())
        self.dtype = np.dtype(np.uint16 if image.mode.startswith("I") else np.uint8)

    def _check_header(self, path: Path) -> None:
        size = path.stat().st_size
        if math.prod(self.shape) * self.dtype.itemsize > _MAX_COMPRESSION * size:
            msg = (
                f"Expected a whole image, found {path} of {size} bytes, which cannot hold the {self.shape[0]} x "
                f"{self.shape[1]} pixels of its header. Copy or export it again."
            )
            raise ValueError(msg)

    def __getitem__(self, window: Any) -> np.ndarray:
        with self._shared.lock:  # so that threads decode the file once
            if self._array is None:
                self._array = self._decoded()
            array = self._array
        return array[window]

    def _decoded(self) -> np.ndarray:
        try:
            with _decoding(self._shared.path):
                image = self._shared.file
                decoded = np.asarray(image.convert(self._convert_to) if self._convert_to else image)
                return decoded.astype(self.dtype, copy=False)
        finally:
            self._shared.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodedFile, (self._file_type, self._shared.path)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return file_state(self._shared.path)

    def release(self) -> None:
        """Free the decoded pixels."""
        with self._shared.lock:
            self._array = None


def _is_transparent(image: ImageFile) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


class TiffLevel:
    """One level of a TIFF file as an array that is read in part.

    Parameters
    ----------
    shared
        The file, which all levels share: it is open until the last of them is gone.
    level
        0 is the full resolution.
    shape, dtype
        Of the pixels.
    """

    def __init__(
        self, shared: SharedFile[tifffile.TiffFile], level: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> None:
        self._shared, self._level, self.shape, self.dtype = shared, level, shape, dtype

    @cached_property
    def _pixels(self) -> zarr.Array:
        with self._shared.lock:
            return zarr.open_array(self._shared.file.series[0].aszarr(level=self._level), mode="r")

    def __getitem__(self, window: Any) -> np.ndarray:
        with _decoding(self._shared.path):
            return np.asarray(self._pixels[window])

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffLevel, (self._shared, self._level, self.shape, self.dtype)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return *file_state(self._shared.path), self._level


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Raise the same ValueError for every error of a decoder."""
    try:
        yield
    except Exception as error:
        msg = f"Expected a whole image, found {path} that cannot be decoded: {error}. Copy or export it again."
        raise ValueError(msg) from error
