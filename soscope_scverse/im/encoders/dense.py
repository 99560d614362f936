"""Features from one run of a convolutional network over large strips of the image, instead of one for each patch."""

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
"""Width in pixels of the image that tells how far the cells of a map lie apart."""
_STRIP_PIXELS = 1536
"""Width and height over which the subspots of a strip lie, at most, in pixels of the network's input."""
_MARGIN = 8
"""Cells around the patches, so that the padding at the ends of a strip hardly reaches them."""


class MappingEncoder(Protocol):
    """An encoder with a convolutional map of features."""

    name: str

    @property
    def pixels(self) -> float:
        """As of :class:`Encoder`."""

    def fingerprint(self) -> str:
        """As of :class:`Encoder`."""

    def feature_map(self, images: np.ndarray) -> np.ndarray:
        """Return n x n_image_features x h x w of uint8 images of any size, n x height x width x 3."""


@dataclass(frozen=True)
class _Grid:
    """How the cells of a map lie in the image that the network was given."""

    stride: int
    """Pixels from cell to cell."""
    cells: int
    smallest: int
    """Pixels of the smallest image with so many ``cells``: it is used to the last pixel, so the map is centred."""

    @property
    def first(self) -> float:
        """Where the first cell begins, in strides; before the image if the network pads."""
        return (self.smallest / self.stride - self.cells) / 2

    def window(self, pixels: float) -> float:
        """Cells across the map of a patch of that width, at least one."""
        return max(1.0, self.cells + (pixels - self.smallest) / self.stride)


class DenseEncoder(Encoder):
    """Mean of a network's feature map over the patch; the network runs over large strips, not over every patch.

    Made by ``im.features(mode="dense")``. The patch is averaged over as many cells of the map as it has alone, and
    cells that it covers in part count in part. In a strip the network sees the tissue around the patch where it pads
    in a tile, so the features are not those of the tile, the less so the more cells feel its border.

    Strips lie on the grid of cells and overlap by eight cells beyond the patches.

    Parameters
    ----------
    encoder
        Has a method ``feature_map``.
    resize
        Whether the image is resized so that a patch has the width of the network's input, ``encoder.pixels``. The
        distance of cells becomes a whole number of pixels of the image, the closest.
    origin
        Pixel (x, y) at which the grid of cells starts. Default: the least position that is encoded.
    """

    def __init__(self, encoder: MappingEncoder, *, resize: bool, origin: np.ndarray | None = None) -> None:
        self.encoder, self.resize, self.origin = encoder, resize, origin
        self.name = encoder.name
        self.needs_colour = getattr(encoder, "needs_colour", False)

    @property
    def pixels(self) -> float:
        """Those of the encoder; see :attr:`Encoder.pixels`."""
        return self.encoder.pixels

    def anchored(self, origin: np.ndarray) -> DenseEncoder:
        """Return the encoder whose cells start at ``origin``; see :meth:`Encoder.anchored`."""
        return DenseEncoder(self.encoder, resize=self.resize, origin=origin)

    def fingerprint(self) -> str:
        """Return a hash of the encoder and the mode; see :meth:`Encoder.fingerprint`."""
        return tokenize("dense", self.encoder.fingerprint(), self.origin)

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Run the network strip by strip and average its map; see :meth:`Encoder.encode`.

        Raises
        ------
        ValueError
            If the encoder gives no map that grows with the image, or values that are not finite.
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
        """Map (n_image_features x h x w) of a strip of ``shape`` strides whose pixels begin at ``corner``."""
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
        """Told by images of several sizes."""
        few, many = self._n_cells(_PROBE), self._n_cells(2 * _PROBE)
        stride, rest = divmod(_PROBE, many - few) if many > few else (0, 1)
        if rest:
            msg = (
                f"Expected encoder {self.name!r} to give a feature map whose cells lie 1, 2, 4, ... pixels apart with "
                f"`mode='dense'`, found {few} and {many} across images of {_PROBE} and {2 * _PROBE} pixels. Leave "
                "out what resizes the image or averages the map, or use `mode='patch'`."
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
                f"`mode='dense'`, found shape {shape} for one image. Use `mode='patch'`, or leave out what pools it."
            )
            raise ValueError(msg)
        return shape[3]


def resized(image: np.ndarray, size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """Resize an image (height x width x 3 uint8) to another height and width, without aliasing."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    channels_first = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    small = resize(channels_first, list(size), InterpolationMode(interpolation), antialias=True)
    return small.permute(1, 2, 0).numpy()


def _squares(positions: np.ndarray, size: float) -> Iterator[np.ndarray]:
    """Indices of the positions in every square of at most that size."""
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
    """The cells that a window covers along one axis, and their weights, which sum to 1."""
    start, stop = centre - width / 2, centre + width / 2
    first, last = int(np.floor(start)), int(np.ceil(stop))
    index = np.arange(first, last)
    return slice(first, last), ((np.minimum(index + 1, stop) - np.maximum(index, start)) / width).astype(np.float32)
