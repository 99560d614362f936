"""An image that is read in part: its pixels, its position, and its coarser levels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from dask.array import Array, from_array
from dask.base import tokenize
from skimage.color import lab2rgb, rgb2lab

from soscope_scverse.im.reading import slides
from soscope_scverse.im.reading.decoded import DecodedFile
from soscope_scverse.im.reading.tiffs import TiffLevel
from soscope_scverse.im.reading.values import AS_TYPED, Values, n_colour_channels

_SAMPLES = 16
"""Regions along each axis that are sampled to estimate the range of a channel."""
_SAMPLE_PIXELS = 256
"""Width and height of such a region."""

Stretch: TypeAlias = tuple[int, float, float]
"""Channel, and its values that are mapped to black and white."""


@dataclass(frozen=True)
class Recolouring:
    """Linear map of the CIELAB colours of an image: times ``factor`` plus ``shift``, channel by channel.

    Parameters
    ----------
    factor, shift
        One value for each of the three channels.
    """

    factor: tuple[float, ...]
    shift: tuple[float, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Recolour height x width x 3 uint8."""
        factor, shift = (np.array(values, dtype=np.float32) for values in (self.factor, self.shift))
        colours = rgb2lab(pixels.astype(np.float32) / 255) * factor + shift
        # the least blue light is 0; skimage clips it in the same way, with a warning
        colours[..., 2] = np.minimum(colours[..., 2], 200 / 116 * (colours[..., 0] + 16))
        return np.rint(lab2rgb(colours) * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """An image that is read in part and converted to 8-bit RGB.

    Returned by :func:`open_image`.

    Parameters
    ----------
    pixels
        Array with ``shape``, ``dtype`` and slicing (numpy, dask or zarr); uint8, uint16, bool or float in 0..1.
    axes
        The axes of ``pixels`` in order: "y", "x" and, unless the image is greyscale, "c".
    scale
        Full-resolution coordinates times ``scale``, plus ``offset``, are pixels of this image.
    offset
        Pixel (x, y) of the image at the origin of full-resolution coordinates; negative in a crop.
    levels
        The same image at coarser resolutions, finest first, each in the form of ``pixels``.
    stretches
        Of a fluorescence image, for each of the one to three channels to show: the channel, and the values that are
        mapped to black and white. ``pixels`` then may be of any data type.
    microns
        Width of a pixel of this image in micrometres, None if unknown.
    recolouring
        Transformation of the colours when they are read, see :func:`normalize_stain`.
    turn
        2 x 2 matrix of determinant 1 or -1 by which coordinates are multiplied before ``scale``, for an image that is
        rotated, mirrored or sheared relative to them. Patches are aligned with the axes of the image.
    values
        What stored values mean where their type does not say it: the values that are black and white, and how opacity
        is read; recognised by :func:`open_image`.
    """

    pixels: Any
    axes: str
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    levels: tuple[Any, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    microns: float | None = None
    recolouring: Recolouring | None = None
    turn: np.ndarray | None = None
    values: Values = AS_TYPED

    @property
    def height(self) -> int:
        """Number of pixel rows."""
        return int(self.pixels.shape[self.axes.index("y")])

    @property
    def width(self) -> int:
        """Number of pixel columns."""
        return int(self.pixels.shape[self.axes.index("x")])

    @property
    def n_channels(self) -> int:
        """Number of stored channels: 1 (grey), 3 (RGB), one more with opacity, or any in fluorescence."""
        return int(self.pixels.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored values, in the byte order of this machine."""
        return np.dtype(self.pixels.dtype).newbyteorder("=")

    @property
    def is_grey(self) -> bool:
        """Whether it has one channel, or shows one."""
        return (len(self.stretches) or n_colour_channels(self.n_channels)) == 1

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """Transform positions to pixels of this image.

        Parameters
        ----------
        xy
            n x 2 full-resolution coordinates.

        Returns
        -------
        numpy.ndarray
            n x 2 positions in pixels.
        """
        turned = xy if self.turn is None else xy @ self.turn.T
        return turned * self.scale + np.asarray(self.offset)

    @property
    def matrix(self) -> np.ndarray:
        """3 x 3 matrix that maps (x, y, 1) of full-resolution coordinates to pixels."""
        linear = self.scale * (np.eye(2) if self.turn is None else self.turn)
        return np.block([[linear, np.reshape(self.offset, (2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])

    @property
    def extent(self) -> np.ndarray:
        """Minimum and maximum (x, y) of the image in full-resolution coordinates, 2 x 2."""
        corners = (
            np.array([[x, y, 1] for x in (0, self.width) for y in (0, self.height)]) @ np.linalg.inv(self.matrix).T
        )
        return np.stack([corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)])

    def placed(self, matrix: np.ndarray) -> ImageSource:
        """Return the image at another position.

        Parameters
        ----------
        matrix
            3 x 3, maps (x, y, 1) of full-resolution coordinates to pixels of the image.

        Returns
        -------
        ImageSource
            The same pixels, positioned by `matrix`.
        """
        linear, (x, y) = matrix[:2, :2], matrix[:2, 2]
        scale = math.sqrt(abs(np.linalg.det(linear)))
        upright = np.allclose(linear, scale * np.eye(2), atol=1e-4 * scale)
        turn = None if upright or not scale else linear / scale
        return replace(self, scale=scale, offset=(float(x), float(y)), turn=turn)

    def counted_from(self, origin: np.ndarray) -> ImageSource:
        """Return the image in coordinates with another origin.

        Parameters
        ----------
        origin
            (x, y) in full-resolution coordinates of the new origin.

        Returns
        -------
        ImageSource
            The same pixels; `origin` is subtracted from all coordinates.
        """
        shift = np.eye(3)
        shift[:2, 2] = origin
        return self.placed(self.matrix @ shift)

    def coarsened(self, factor: float) -> ImageSource:
        """Return the coarsest level of the image whose resolution suffices.

        Parameters
        ----------
        factor
            Largest width of its pixels, relative to those of the image.

        Returns
        -------
        ImageSource
            The level, or the image itself.
        """
        size = max(self.height, self.width)
        for n, level in reversed(list(enumerate(self.levels, start=1))):
            coarse = replace(self, pixels=level, levels=self.levels[n:])
            ratio = _ratio(size, max(coarse.height, coarse.width))
            if ratio <= factor:
                x, y = self.offset
                microns = None if self.microns is None else self.microns * ratio
                return replace(coarse, scale=self.scale / ratio, offset=(x / ratio, y / ratio), microns=microns)
        return self

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read the pixel rows ``y0:y1`` and columns ``x0:x1`` as uint8 (y1 - y0) x (x1 - x0) x 3.

        Outside the image its pixels are mirrored at the border. Colours with opacity are blended with white, and
        greyscale is repeated in three channels.

        Parameters
        ----------
        y0, y1, x0, x1
            First pixel row, and the row after the last; columns likewise.

        Returns
        -------
        numpy.ndarray
            (y1 - y0) x (x1 - x0) x 3, uint8.

        Raises
        ------
        ValueError
            If a float image holds values outside 0..1 or NaN.
        """
        if 0 <= y0 and y1 <= self.height and 0 <= x0 and x1 <= self.width:
            return self._read_inside(y0, y1, x0, x1)
        rows, columns = _mirrored(y0, y1, self.height), _mirrored(x0, x1, self.width)
        top, left = rows.min(), columns.min()
        block = self._read_inside(top, rows.max() + 1, left, columns.max() + 1)
        return block[np.ix_(rows - top, columns - left)]

    def lazy_pixels(self) -> tuple[Array, tuple[str, ...]]:
        """Return the pixels as a dask array.

        Returns
        -------
        tuple
            The stored pixels, with an axis for the channels, and the names of the axes in order. Small values are
            dark, and a fourth channel that is no opacity is ignored.
        """
        lazy = self.pixels
        if not hasattr(lazy, "__dask_graph__"):
            lazy = from_array(lazy, meta=np.empty((0,) * len(lazy.shape), lazy.dtype))
        if self.values.is_inverted:
            black = lazy.dtype.type(self.values.black)
            lazy = ~lazy if lazy.dtype == np.bool_ else black - lazy.clip(0, black)
        if "c" in self.axes and not self.stretches and self.values.opacity == "ignored":
            window = {"c": slice(n_colour_channels(self.n_channels))}
            lazy = lazy[tuple(window.get(axis, slice(None)) for axis in self.axes)]
        return (lazy, tuple(self.axes)) if "c" in self.axes else (lazy[None], ("c", *self.axes))

    def release(self) -> None:
        """Free decoded JPEG or PNG pixels; at the next read the file is opened and decoded again."""
        if isinstance(self.pixels, DecodedFile):
            self.pixels.release()

    def for_tasks(self) -> ImageSource:
        """Return the image for the tasks of a cluster; dask arrays are computed within the task that reads them.

        A file is sent as its path, which all workers must be able to open; an array in memory is sent itself.

        Returns
        -------
        ImageSource
            The same image without its coarser levels.
        """
        return replace(
            self, pixels=_InTask(self.pixels) if hasattr(self.pixels, "__dask_graph__") else self.pixels, levels=()
        )

    def fingerprint(self) -> str:
        """Return a hash that identifies the image: of its pixels in memory, or of the path, size and date of its file.

        For dask and zarr arrays it is a hash of their definition and of a sample of their pixels.

        Returns
        -------
        str
            The hash.
        """
        identity = [self.pixels, self.axes, self.stretches, self.recolouring]
        if self.values != AS_TYPED:
            identity.append(self.values)
        if not isinstance(self.pixels, np.ndarray | DecodedFile | TiffLevel | slides.SlideLevel):
            identity.extend(part for _, part in self.sampled(slice(None)))
        return tokenize(*identity)

    def sampled(self, channels: slice) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Read regions evenly distributed over the image, as stored.

        Parameters
        ----------
        channels
            Channels to read.

        Yields
        ------
        tuple
            The first row and column of the region, and its rows x columns x channels.
        """
        step_y, step_x = (max(_SAMPLE_PIXELS, -(-n // _SAMPLES)) for n in (self.height, self.width))
        for y in range(0, self.height, step_y):
            for x in range(0, self.width, step_x):
                yield (y, x), self.stored(y, x, _SAMPLE_PIXELS, channels)

    def stored(self, y: int, x: int, size: int, channels: slice) -> np.ndarray:
        """Read a square region as it is stored, smaller at the border.

        Parameters
        ----------
        y, x
            First row and column.
        size
            Number of rows and of columns.
        channels
            Channels to read.

        Returns
        -------
        numpy.ndarray
            Rows x columns x channels.
        """
        return self._stored(y, min(y + size, self.height), x, min(x + size, self.width), channels)

    def _read_inside(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        shown = self._shown(y0, y1, x0, x1)
        return shown if self.recolouring is None else self.recolouring(shown)

    def _shown(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read as 8-bit RGB, in the stored colours."""
        if not self.stretches:
            return self.values.to_rgb(self._stored(y0, y1, x0, x1, slice(None)))
        shown = np.zeros((y1 - y0, x1 - x0, 1 if len(self.stretches) == 1 else 3), dtype=np.uint8)
        for i, (channel, black, white) in enumerate(self.stretches):
            values = self._stored(y0, y1, x0, x1, slice(channel, channel + 1))[..., 0].astype(np.float32)
            shown[..., i] = np.rint(((values - black) / (white - black)).clip(0, 1) * 255)
        return np.repeat(shown, 3, axis=2) if len(self.stretches) == 1 else shown

    def _stored(self, y0: int, y1: int, x0: int, x1: int, channels: slice) -> np.ndarray:
        """Read rows x columns x channels as stored."""
        window = {"y": slice(y0, y1), "x": slice(x0, x1), "c": channels}
        block = np.asarray(self.pixels[tuple(window[axis] for axis in self.axes)], dtype=self.dtype)
        block = block.transpose([self.axes.index(axis) for axis in "yxc" if axis in self.axes])
        return block.reshape(y1 - y0, x1 - x0, -1)


class _InTask:
    """Dask array whose chunks are computed in the task that reads them.

    By default they would become tasks of the cluster, for which the reading task would wait while it occupies a worker.

    Parameters
    ----------
    pixels
        The dask array.
    """

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels
        self.shape, self.dtype = pixels.shape, pixels.dtype

    def __getitem__(self, window: Any) -> np.ndarray:
        return np.asarray(self._pixels[window].compute(scheduler="synchronous"))


def _ratio(fine: int, coarse: int) -> float:
    """Ratio of two sizes of an image: an integer if they differ from that ratio by rounding only."""
    whole = round(fine / coarse)
    return whole if abs(fine - whole * coarse) < whole else fine / coarse


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices ``start:stop`` of an axis that is repeatedly mirrored at its ends: d c b a | a b c d | d c b a."""
    index = np.arange(start, stop) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)
