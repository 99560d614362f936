"""Features from a convolutional network that runs over large strips of the image instead of single patches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from dask.base import tokenize

from soscope_scverse.im.encoders.base import Encoder
from soscope_scverse.im.reading.source import ImageSource

_PROBE = 256
"""Width in pixels of the image that is used to determine the stride of a feature map."""
_STRIP_PIXELS = 1536
"""Maximum width and height of the region of subspots in a strip, in pixels of the network's input."""
_MARGIN = 8
"""Cells around the patches, so that the padding at the border of a strip has little effect on them."""


class MappingEncoder(Protocol):
    """An encoder with a convolutional feature map."""

    name: str

    @property
    def pixels(self) -> float:
        """See :attr:`Encoder.pixels`."""

    def fingerprint(self) -> str:
        """See :meth:`Encoder.fingerprint`."""

    def feature_map(self, images: np.ndarray) -> np.ndarray:
        """Return n x n_image_features x h x w of uint8 images of any size, n x height x width x 3."""


@dataclass(frozen=True)
class _Grid:
    """Geometry of the cells of a feature map in the input image of the network."""

    stride: int
    """Pixels between adjacent cells."""
    cells: int
    """Cells across the map of an image of a certain size."""
    smallest: int
    """Width in pixels of the smallest image with ``cells``: all its pixels are used, so the map is centred."""

    @property
    def first(self) -> float:
        """Start of the first cell in strides; negative if the network pads."""
        return (self.smallest / self.stride - self.cells) / 2

    def window(self, pixels: float) -> float:
        """Cells across the map of a patch of that width in pixels, at least one."""
        return max(1.0, self.cells + (pixels - self.smallest) / self.stride)


class DenseEncoder(Encoder):
    """Mean of a network's feature map over the patch; the network runs over large strips of the image.

    Used by ``im.features(mode="dense")``. The mean is over as many cells of the map as a single patch has; partially
    covered cells are weighted by their overlap. Around the patch the network sees the surrounding tissue instead of
    padding, so the features differ from those of single patches, the more so the more cells are affected by the border.

    Strips are aligned with the grid of cells and extend eight cells beyond the patches.

    Parameters
    ----------
    encoder
        An encoder with a method ``feature_map``.
    resize
        Whether the image is resized so that a patch has the width of the network's input, ``encoder.pixels``. The
        stride in pixels of the image is rounded to an integer.
    origin
        Pixel (x, y) at which the grid of cells starts. Default: the minimum of the positions that are encoded.
    """

    def __init__(self, encoder: MappingEncoder, *, resize: bool, origin: np.ndarray | None = None) -> None:
        self.encoder, self.resize, self.origin = encoder, resize, origin
        self.name = encoder.name
        self.needs_colour = getattr(encoder, "needs_colour", False)

    @property
    def pixels(self) -> float:
        """As for the underlying encoder; see :attr:`Encoder.pixels`."""
        return self.encoder.pixels

    def anchored(self, origin: np.ndarray) -> DenseEncoder:
        """Return the encoder whose grid of cells starts at ``origin``; see :meth:`Encoder.anchored`."""
        return DenseEncoder(self.encoder, resize=self.resize, origin=origin)

    def fingerprint(self) -> str:
        """Return a hash of the encoder and the mode; see :meth:`Encoder.fingerprint`."""
        return tokenize("dense", self.encoder.fingerprint(), self.origin)

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Run the network strip by strip and average its map; see :meth:`Encoder.encode`.

        Raises
        ------
        ValueError
            If the encoder returns no feature map that grows with the image, or values that are not finite.
        """
        stride = self._grid.stride
        cell = max(1, round(width * stride / self.encoder.pixels)) if self.resize else stride
        window = self._grid.window(width * stride / cell)
        origin = np.floor(centres.min(axis=0) if self.origin is None else self.origin).astype(int)
        positions = (centres - origin) / cell
        parts, order = [], []
        for members in _squares(positions, _STRIP_PIXELS / stride):
            near = positions[members]
            start = np.floor(near.min(axis=0) - window / 2).astype(int) - _MARGIN
            stop = np.ceil(near.max(axis=0) + window / 2).astype(int) + _MARGIN
            cells = self._strip_map(source, origin + start * cell, stop - start, cell)
            parts.append(_window_means(cells, near - start - self._grid.first, window))
            order.append(members)
        features = np.empty((len(centres), parts[0].shape[1]), dtype=np.float32)
        features[np.concatenate(order)] = np.concatenate(parts)
        return features, [f"{self.name}_{i}" for i in range(features.shape[1])]

    def _strip_map(self, source: ImageSource, corner: np.ndarray, shape: np.ndarray, cell: int) -> np.ndarray:
        """Feature map (n_image_features x h x w) of a strip of ``shape`` in strides with its corner at ``corner``."""
        (x, y), (columns, rows) = corner.tolist(), shape.tolist()
        pixels = source.read(y, y + rows * cell, x, x + columns * cell)
        if cell != self._grid.stride:
            pixels = resized(pixels, (rows * self._grid.stride, columns * self._grid.stride))
        (cells,) = self.encoder.feature_map(pixels[None])
        if not np.isfinite(cells).all():
            msg = (
                f"Expected finite features of encoder {self.name!r}, found {(~np.isfinite(cells)).sum()} that are not."
            )
            raise ValueError(msg)
        return cells

    @cached_property
    def _grid(self) -> _Grid:
        """Determined from feature maps of images of several sizes."""
        few, many = self._n_cells(_PROBE), self._n_cells(2 * _PROBE)
        stride, rest = divmod(_PROBE, many - few) if many > few else (0, 1)
        if rest:
            msg = (
                f"Expected encoder {self.name!r} to return a feature map with a stride of 1, 2, 4, ... pixels for "
                f"`mode='dense'`, found {few} and {many} cells across images of {_PROBE} and {2 * _PROBE} pixels. "
                "Remove layers that resize the image or average the map, or use `mode='patch'`."
            )
            raise ValueError(msg)
        sizes = range(_PROBE + 1)
        return _Grid(stride, few, bisect_left(sizes, few, lo=_PROBE - stride + 1, key=self._n_cells))

    def _n_cells(self, size: int) -> int:
        """Cells across the map of a square image."""
        shape = np.shape(self.encoder.feature_map(np.zeros((1, size, size, 3), dtype=np.uint8)))
        if len(shape) != 4 or shape[0] != 1:
            msg = (
                f"Expected encoder {self.name!r} to return a feature map, n x n_image_features x h x w, with "
                f"`mode='dense'`, found shape {shape} for one image. Use `mode='patch'`, or remove the pooling layer."
            )
            raise ValueError(msg)
        return shape[3]


def resized(image: np.ndarray, size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """Resize an image (height x width x 3 uint8) to a height and width, with antialiasing."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    channels_first = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    small = resize(channels_first, list(size), InterpolationMode(interpolation), antialias=True)
    return small.permute(1, 2, 0).numpy()


def _squares(positions: np.ndarray, size: float) -> Iterator[np.ndarray]:
    """Yield the indices of the positions in every square of at most that size."""
    low, extent = positions.min(axis=0), np.ptp(positions, axis=0)
    n = np.maximum(1, np.ceil(extent / size))
    square = np.minimum((positions - low) * n // np.maximum(extent, 1e-9), n - 1)
    _, square = np.unique(square, axis=0, return_inverse=True)
    yield from np.split(np.argsort(square.ravel(), kind="stable"), np.cumsum(np.bincount(square.ravel()))[:-1])


def _window_means(cells: np.ndarray, positions: np.ndarray, width: float) -> np.ndarray:
    """Means of a map (n_features x h x w) over the square windows around positions (x, y), n_targets x n_features."""
    means = np.empty((len(positions), len(cells)), dtype=np.float32)
    for mean, (x, y) in zip(means, positions, strict=True):
        columns, across = _covered(x, width)
        rows, down = _covered(y, width)
        mean[:] = cells[:, rows, columns] @ across @ down
    return means


def _covered(centre: float, width: float) -> tuple[slice, np.ndarray]:
    """Cells that a window covers along one axis, and their weights, which sum to 1."""
    start, stop = centre - width / 2, centre + width / 2
    first, last = int(np.floor(start)), int(np.ceil(stop))
    index = np.arange(first, last)
    return slice(first, last), ((np.minimum(index + 1, stop) - np.maximum(index, start)) / width).astype(np.float32)
