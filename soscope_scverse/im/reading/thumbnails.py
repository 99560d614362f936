"""Small images for plots and overviews."""

from __future__ import annotations

import numpy as np
from skimage.transform import AffineTransform, warp

from soscope_scverse._validators import POSITIVE_INTEGER, Rules, check_arguments
from soscope_scverse.im.reading.source import ImageSource

_STRIP_PIXELS = 8_000_000
_RULES: Rules = {"size": POSITIVE_INTEGER}


def thumbnail(source: ImageSource, size: int = 1000) -> tuple[np.ndarray, float]:
    """Downsample an image by an integer factor.

    Parameters
    ----------
    source
        Opened image.
    size
        Maximum length of the longest side of the result in pixels; exceeded where a very narrow image would otherwise
        lose its only row or column.

    Returns
    -------
    tuple
        The small image, height x width x 3 uint8, and the factor from full-resolution coordinates to its pixels. An
        image that is rotated, mirrored or sheared relative to the coordinates is aligned with them, on white.

    Raises
    ------
    TypeError, ValueError
        If `source` is not an opened image, or `size` is below 1.
    """
    check_arguments(locals(), _RULES)
    if not isinstance(source, ImageSource):
        msg = f"Expected an image opened by `im.open_image`, found {type(source).__name__}."
        raise TypeError(msg)
    return shrunk(source, size)


def shrunk(source: ImageSource, size: int = 1000) -> tuple[np.ndarray, float]:
    """Downsample an opened image by an integer factor; see :func:`thumbnail`."""
    if source.turn is not None:
        return _turned_back(source, size)
    source = source.coarsened(max(source.height, source.width) / size)
    # starts at the origin of the coordinates, since plots take a scale and no offset
    x, y = (round(shift) for shift in source.offset)
    stop_x, stop_y = source.width - x, source.height - y
    step = min(-(-max(stop_x, stop_y) // size), max(1, min(stop_x, stop_y)))  # at least one row and one column
    height, width = stop_y // step, stop_x // step
    small = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // (width * step * step))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        block = _read_over_white(source, y + first * step, y + last * step, x, x + width * step)
        # rows first: sums of neighbouring values are slow; in integers, as exact as a mean of 64 bits
        total = block.reshape(last - first, step, -1).sum(axis=1, dtype=np.uint32)
        small[first:last] = total.reshape(last - first, width, step, 3).sum(axis=2, dtype=np.uint64) // step**2
    return small, source.scale / step


def _turned_back(source: ImageSource, size: int) -> tuple[np.ndarray, float]:
    """Thumbnail aligned with the axes of the coordinates."""
    small, to_thumbnail = shrunk(source.placed(np.eye(3)), size)
    to_small = np.diag([to_thumbnail, to_thumbnail, 1.0]) @ source.matrix
    extent = source.extent[1]  # from the origin of the coordinates
    scale = min(size / extent.max(), source.scale * to_thumbnail)
    columns, rows = np.ceil(extent * scale).astype(int)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from the centre of a pixel to its corner
    back = np.linalg.inv(half) @ to_small @ np.diag([1 / scale, 1 / scale, 1]) @ half
    turned = warp(small, AffineTransform(back), output_shape=(rows, columns), cval=255, preserve_range=True)
    return np.rint(turned).astype(np.uint8), scale


def _read_over_white(source: ImageSource, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    """Read pixels of which some may be above or left of the image; these are white."""
    block = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
    top, left = max(y0, 0), max(x0, 0)
    if top < y1 and left < x1:
        block[top - y0 :, left - x0 :] = source.read(top, y1, left, x1)
    return block
