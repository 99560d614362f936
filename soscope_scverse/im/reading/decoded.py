"""JPEG and PNG files and images of Pillow: pixels that are decoded as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from soscope_scverse._files import file_state
from soscope_scverse.im.reading.content import Declared, decoding
from soscope_scverse.im.reading.shared import SharedFile

_MAX_COMPRESSION = 2000
"""Most bytes of pixels for a byte of a PNG or JPEG file: deflate reaches 1,032; six blocks of JPEG take one byte."""
_CHANNELS = {"L": 1, "I;16": 1, "I": 1, "RGB": 3, "RGBA": 4}
"""Modes of Pillow that are read as they are, and their number of channels; others are converted."""
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
"""Modes of Pillow with opacity."""
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""Raw modes of PNG files of 16 bits, of which Pillow decodes the upper bytes, to those of the lower bytes."""


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
            with decoding(path):
                self._read_header(self._shared.file)
            self._check_header(path)

    def _read_header(self, image: ImageFile) -> None:
        self._mode = _read_as(image)
        self._is_deep = image.tile[0].args in _LOW_BYTES if image.tile else False
        n_channels = _CHANNELS[self._mode]
        self.shape = (image.height, image.width) + ((n_channels,) if n_channels > 1 else ())
        self.dtype = np.dtype(np.uint16 if self._is_deep or image.mode.startswith("I") else np.uint8)

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
            with decoding(self._shared.path):
                image = self._shared.file
                decoded = _deep_pixels(image) if self._is_deep else _pixels(image, self._mode)
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


def pillow_pixels(image: Image) -> tuple[np.ndarray, Declared]:
    """Pixels of an image of Pillow, and what they mean."""
    if image.mode[0] in "IF":
        pixels = np.asarray(image)
        holds_uint16 = image.mode[0] == "I" and pixels.min(initial=0) >= 0 and pixels.max(initial=0) < 2**16
        return pixels.astype(np.uint16) if holds_uint16 else pixels, Declared()
    mode = _read_as(image)
    return _pixels(image, mode), declared_by(_CHANNELS[mode])


def declared_by(n_channels: int) -> Declared:
    """What the formats and modes of Pillow state: a fourth channel is opacity."""
    return Declared(opacity="straight" if n_channels == 4 else None, is_colour=n_channels > 1)


def _read_as(image: Image) -> str:
    """Mode in which an image is read."""
    if image.mode in _CHANNELS and image.mode != "RGBA":
        return image.mode
    return "RGBA" if image.mode in _TRANSPARENT or "transparency" in image.info else "RGB"


def _pixels(image: Image, mode: str) -> np.ndarray:
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _deep_pixels(image: ImageFile) -> np.ndarray:
    """Colours of 16 bits, of which Pillow decodes the upper or, as another raw mode, the lower bytes."""
    file: Any = image.fp
    file.seek(0)
    content = file.read()
    upper, lower = (PngImageFile(BytesIO(content)) for _ in range(2))
    lower.tile = [tile._replace(args=_LOW_BYTES[str(tile.args)]) for tile in lower.tile]
    return np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
