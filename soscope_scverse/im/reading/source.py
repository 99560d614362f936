"""An image that is read in part: its pixels, where it lies, and its coarser levels."""

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
from soscope_scverse.im.reading.files import DecodedFile, TiffLevel

_SAMPLES = 16
"""Parts along each axis that tell the range of a channel, so many pixels wide and high:"""
_SAMPLE_PIXELS = 256

Stretch: TypeAlias = tuple[int, float, float]
"""Channel, and its values that are shown as black and white."""


@dataclass(frozen=True)
class Recolouring:
    """Colours of CIELAB times ``factor`` plus ``shift``, channel by channel."""

    factor: tuple[float, ...]
    shift: tuple[float, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Recolour height x width x 3 uint8."""
        factor, shift = (np.array(values, dtype=np.float32) for values in (self.factor, self.shift))
        colours = rgb2lab(pixels.astype(np.float32) / 255) * factor + shift
        # No colour is yellower: skimage warns of negative blue light, and cuts it off in the same way.
        colours[..., 2] = np.minimum(colours[..., 2], 200 / 116 * (colours[..., 0] + 16))
        return np.rint(lab2rgb(colours) * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """An image that is read piece by piece, as 8-bit RGB whatever it is stored as.

    Made by :func:`open_image`.

    Parameters
    ----------
    pixels
        Anything with ``shape``, ``dtype`` and slicing: numpy, dask or zarr array. uint8, uint16, bool or float in 0..1.
    axes
        The axes of ``pixels`` in their order: "y", "x" and, unless the image is grey, "c".
    scale
        Full-resolution coordinates times ``scale``, plus ``offset``, are pixels of this image.
    offset
        Pixel (x, y) of the image at which full-resolution coordinates are 0; negative in a crop.
    levels
        The same image at coarser resolutions, finest first, each as ``pixels``.
    stretches
        Of a fluorescence image, for the one to three channels to show: the channel, and the values that become black
        and white. Any data type will do then.
    microns
        Width of a pixel of this image in micrometres, None if it is not known.
    recolouring
        Change of the colours as they are read, see :func:`normalize_stain`.
    turn
        2 x 2 matrix of determinant 1 or -1 that coordinates are multiplied with before ``scale``, of an image that is
        rotated, mirrored or sheared against them. Patches lie along the axes of the image.
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
        """Channels as stored: 1 (grey), 3 (RGB) or 4 (RGBA), any number in fluorescence."""
        return int(self.pixels.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def is_grey(self) -> bool:
        """Whether it is stored, or shown, in one channel."""
        return (len(self.stretches) or self.n_channels) == 1

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """Positions in pixels of this image.

        Parameters
        ----------
        xy
            n x 2 full-resolution coordinates.

        Returns
        -------
        numpy.ndarray
            n x 2 pixels.
        """
        turned = xy if self.turn is None else xy @ self.turn.T
        return turned * self.scale + np.asarray(self.offset)

    @property
    def matrix(self) -> np.ndarray:
        """3 x 3 matrix that takes (x, y, 1) of full-resolution coordinates to pixels."""
        linear = self.scale * (np.eye(2) if self.turn is None else self.turn)
        return np.block([[linear, np.reshape(self.offset, (2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])

    @property
    def extent(self) -> np.ndarray:
        """Least and greatest (x, y) of the image in full-resolution coordinates, 2 x 2."""
        corners = (
            np.array([[x, y, 1] for x in (0, self.width) for y in (0, self.height)]) @ np.linalg.inv(self.matrix).T
        )
        return np.stack([corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)])

    def placed(self, matrix: np.ndarray) -> ImageSource:
        """Return the image in another place.

        Parameters
        ----------
        matrix
            3 x 3, takes (x, y, 1) of full-resolution coordinates to pixels of the image.

        Returns
        -------
        ImageSource
            The same pixels, placed by `matrix`.
        """
        linear, (x, y) = matrix[:2, :2], matrix[:2, 2]
        scale = math.sqrt(abs(np.linalg.det(linear)))
        upright = np.allclose(linear, scale * np.eye(2), atol=1e-4 * scale)
        turn = None if upright or not scale else linear / scale
        return replace(self, scale=scale, offset=(float(x), float(y)), turn=turn)

    def counted_from(self, origin: np.ndarray) -> ImageSource:
        """Return the image in coordinates that begin elsewhere.

        Parameters
        ----------
        origin
            (x, y) in full-resolution coordinates where the new ones are 0.

        Returns
        -------
        ImageSource
            The same pixels; coordinates less `origin` are where the coordinates were.
        """
        shift = np.eye(3)
        shift[:2, 2] = origin
        return self.placed(self.matrix @ shift)

    def coarsened(self, factor: float) -> ImageSource:
        """Return the coarsest level of the image that is fine enough.

        Parameters
        ----------
        factor
            How many times as wide as those of the image its pixels may be.

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

        Parts outside the image are mirrored at its border, RGBA is laid over white, grey becomes three equal
        channels.

        Parameters
        ----------
        y0, y1, x0, x1
            First pixel row, and the one after the last; columns likewise.

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
            The pixels as stored, with an axis for the channels, and the names of the axes in their order.
        """
        lazy = from_array(self.pixels) if not hasattr(self.pixels, "__dask_graph__") else self.pixels
        return (lazy, tuple(self.axes)) if "c" in self.axes else (lazy[None], ("c", *self.axes))

    def release(self) -> None:
        """Let go of decoded JPEG or PNG pixels; they are decoded again when next read."""
        if isinstance(self.pixels, DecodedFile):
            self.pixels.release()

    def for_tasks(self) -> ImageSource:
        """Return the image as the tasks of a cluster read it: dask arrays are computed in the task that asks.

        A file travels as its path, which all workers must reach; an array in memory travels as it is.

        Returns
        -------
        ImageSource
            The same image without its coarser levels.
        """
        return replace(
            self, pixels=_InTask(self.pixels) if hasattr(self.pixels, "__dask_graph__") else self.pixels, levels=()
        )

    def fingerprint(self) -> str:
        """Return a hash that tells this image from others: its pixels in memory, or its file with size and date.

        Of dask and zarr arrays it is what they are made of and a sample of their pixels.

        Returns
        -------
        str
            The hash.
        """
        told = [self.pixels, self.axes, self.stretches, self.recolouring]
        if not isinstance(self.pixels, np.ndarray | DecodedFile | TiffLevel | slides.SlideLevel):
            told.extend(self.sample(slice(None)))
        return tokenize(*told)

    def sample(self, channels: slice) -> Iterator[np.ndarray]:
        """Read parts of the image that lie evenly over it, as stored.

        Parameters
        ----------
        channels
            Which of the channels.

        Yields
        ------
        numpy.ndarray
            Rows x columns x channels.
        """
        step_y, step_x = (max(_SAMPLE_PIXELS, -(-n // _SAMPLES)) for n in (self.height, self.width))
        for y in range(0, self.height, step_y):
            for x in range(0, self.width, step_x):
                y1, x1 = min(y + _SAMPLE_PIXELS, self.height), min(x + _SAMPLE_PIXELS, self.width)
                yield self._stored(y, y1, x, x1, channels)

    def _read_inside(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        shown = self._shown(y0, y1, x0, x1)
        return shown if self.recolouring is None else self.recolouring(shown)

    def _shown(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read as 8-bit RGB, in the colours that are stored."""
        if not self.stretches:
            return _to_rgb(_to_uint8(self._stored(y0, y1, x0, x1, slice(None))))
        shown = np.zeros((y1 - y0, x1 - x0, 1 if len(self.stretches) == 1 else 3), dtype=np.uint8)
        for i, (channel, black, white) in enumerate(self.stretches):
            values = self._stored(y0, y1, x0, x1, slice(channel, channel + 1))[..., 0].astype(np.float32)
            shown[..., i] = np.rint(((values - black) / (white - black)).clip(0, 1) * 255)
        return _to_rgb(shown)

    def _stored(self, y0: int, y1: int, x0: int, x1: int, channels: slice) -> np.ndarray:
        """Rows x columns x channels as stored."""
        window = {"y": slice(y0, y1), "x": slice(x0, x1), "c": channels}
        block = np.asarray(self.pixels[tuple(window[axis] for axis in self.axes)])
        block = block.transpose([self.axes.index(axis) for axis in "yxc" if axis in self.axes])
        return block.reshape(y1 - y0, x1 - x0, -1)


class _InTask:
    """Dask array whose pieces are computed where they are read.

    By default a piece would become tasks of the cluster that the reading task waits for, and occupies.
    """

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels
        self.shape, self.dtype = pixels.shape, pixels.dtype

    def __getitem__(self, window: Any) -> np.ndarray:
        return np.asarray(self._pixels[window].compute(scheduler="synchronous"))


def _ratio(fine: int, coarse: int) -> float:
    """How much wider the pixels of a level are: a whole number wherever its size is only rounded."""
    whole = round(fine / coarse)
    return whole if abs(fine - whole * coarse) < whole else fine / coarse


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices ``start:stop`` of an axis that is mirrored at its ends without end: d c b a | a b c d | d c b a."""
    index = np.arange(start, stop) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def _to_uint8(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.uint8:
        return block
    if block.dtype == np.uint16:
        return ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if block.dtype == np.bool_:
        return block.astype(np.uint8) * np.uint8(255)
    # Resampled images overshoot a little; anything more is another range.
    if not (block.min() >= -0.01 and block.max() <= 1.01):
        msg = (
            f"Expected a float image in 0..1, found values from {block.min():g} to {block.max():g}. "
            "Scale it to 0..1, or convert it to uint8."
        )
        raise ValueError(msg)
    return np.rint(block.clip(0, 1) * 255).astype(np.uint8)


def _to_rgb(block: np.ndarray) -> np.ndarray:
    n_channels = block.shape[2]
    if n_channels == 1:
        return np.repeat(block, 3, axis=2)
    if n_channels == 3:
        return block
    colour, opacity = block[..., :3].astype(np.uint16), block[..., 3:].astype(np.uint16)
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
