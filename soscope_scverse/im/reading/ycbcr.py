"""Luma and chroma of TIFF files that no decoder converts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_CONVERTED = ("OJPEG", "JPEG", "ALT_JPEG", "JPEG_LOSSY", "WEBP", "JPEGXL", "JPEGXL_DNG", "APERIO_JP2000_RGB")
"""Compressions whose pixels are RGB once they are decoded, whatever the tag says."""
_LUMA = (0.299, 0.587, 0.114)
"""Default of the tag YCbCrCoefficients: shares of red, green and blue in the luma (TIFF 6.0, section 21)."""


@dataclass(frozen=True)
class YCbCr:
    """Conversion to RGB, after TIFF 6.0, section 21.

    Parameters
    ----------
    axis
        Axis of the channels.
    luma
        Shares of red, green and blue in the luma.
    reference
        Stored values of black and white, for the luma and both chromas; None for the whole range of the type, with the
        chroma around its middle.
    """

    axis: int
    luma: tuple[float, ...] = _LUMA
    reference: tuple[float, ...] | None = None

    def read(self, pixels: Any, window: tuple[Any, ...]) -> np.ndarray:
        """Read a window of an array; its channels are selected after the conversion."""
        stored = list(window)
        stored[self.axis] = slice(None)
        rgb = self._converted(np.moveaxis(np.asarray(pixels[tuple(stored)]), self.axis, -1))
        return np.moveaxis(rgb[..., window[self.axis]], -1, self.axis)

    def _converted(self, block: np.ndarray) -> np.ndarray:
        """Convert ... x 3."""
        largest = np.iinfo(block.dtype).max
        middle = largest // 2 + 1
        black_white = self.reference or (0, largest, middle, largest, middle, largest)
        ranges = ((0, largest), (0, largest - middle), (0, largest - middle))
        y, cb, cr = (
            (block[..., i].astype(np.float32) - low) * (full / (high - low))
            for i, ((_, full), low, high) in enumerate(zip(ranges, black_white[::2], black_white[1::2], strict=True))
        )
        of_red, of_green, of_blue = self.luma
        red = y + (2 - 2 * of_red) * cr
        blue = y + (2 - 2 * of_blue) * cb
        green = (y - of_red * red - of_blue * blue) / of_green
        return np.rint(np.stack([red, green, blue], axis=-1).clip(0, largest)).astype(block.dtype)


def ycbcr_of(page: Any, path: Path, axis: int) -> YCbCr | None:
    """Return the conversion of a page, None if its decoder gives RGB.

    Raises
    ------
    ValueError
        If the chroma has fewer pixels than the luma, or values are no integers.
    """
    if page.compression.name in _CONVERTED:
        return None
    if page.is_subsampled or page.dtype.kind != "u" or page.samplesperpixel != 3:
        found = f"subsampling {page.subsampling}, {page.samplesperpixel} samples of {page.dtype}"
        msg = f"Expected whole chroma of unsigned integers, found YCbCr with {found} in {path}. Convert it to RGB."
        raise ValueError(msg)
    return YCbCr(axis, _tag(page, "YCbCrCoefficients", 3) or _LUMA, _tag(page, "ReferenceBlackWhite", 6))


def _tag(page: Any, name: str, n: int) -> tuple[float, ...] | None:
    """Numbers of a tag of fractions."""
    if name not in page.tags:
        return None
    value = np.asarray(page.tags[name].value, dtype=float).reshape(-1, 2)
    fractions = value[:, 0] / value[:, 1]
    return tuple(fractions.tolist()) if len(fractions) == n and np.isfinite(fractions).all() else None
