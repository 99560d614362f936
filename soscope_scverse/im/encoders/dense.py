"""Features from a convolutional network that runs over large strips of the image instead of single patches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Protocol

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
    """An encoder with one or several convolutional feature maps."""

    name: str

    @property
    def pixels(self) -> float:
        """See :attr:`Encoder.pixels`."""

    def fingerprint(self) -> str:
        """See :meth:`Encoder.fingerprint`."""

    def record(self) -> dict[str, Any]:
        """See :meth:`Encoder.record`."""

    def feature_map(self, images: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Return one or several n x n_image_features x h x w of uint8 images of any size, n x height x width x 3."""


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

    def used(self, n_strides: int) -> int:
        """Width in pixels of the part of an image of that many strides that its map needs; the map is centred in it."""
        pixels = n_strides * self.stride
        return pixels - (pixels - self.smallest) % self.stride

    def window(self, pixels: float) -> float:
        """Cells across the map of a patch of that width in pixels, at least one."""
        return max(1.0, self.cells + (pixels - self.smallest) / self.stride)


class DenseEncoder(Encoder):
    """Mean of a network's feature map over the patch; the network runs over large strips of the image.

    Used by ``im.features(mode="dense")``, and for the ``layers`` of a :class:`TimmEncoder`. The mean is over as many
    cells of the map as a single patch has; partially covered cells are weighted by their overlap. Around the patch the
    network sees the surrounding tissue instead of padding, so the features differ from those of single patches, the
    more so the more cells are affected by the border.

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
    shares
        For an encoder with several maps the width of the window of each, relative to the patch. Default: one map, which
        is averaged over the patch.
    labels
        Name of each of several maps, a part of the names of the features.
    """

    def __init__(
        self,
        encoder: MappingEncoder,
        *,
        resize: bool,
        origin: np.ndarray | None = None,
        shares: Sequence[float] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self.encoder, self.resize, self.origin, self.shares, self.labels = encoder, resize, origin, shares, labels
        self.name = encoder.name
        self.needs_colour = getattr(encoder, "needs_colour", False)

    @property
    def pixels(self) -> float:
        """As for the underlying encoder; see :attr:`Encoder.pixels`."""
        return self.encoder.pixels

    def anchored(self, origin: np.ndarray) -> DenseEncoder:
        """Return the encoder whose grid of cells starts at ``origin``; see :meth:`Encoder.anchored`."""
        return DenseEncoder(self.encoder, resize=self.resize, origin=origin, shares=self.shares, labels=self.labels)

    def record(self) -> dict[str, Any]:
        """As for the underlying encoder; see :meth:`Encoder.record`."""
        return self.encoder.record()

    def dense(self) -> DenseEncoder:
        """Return itself; see :meth:`Encoder.dense`."""
        return self

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
        grids = self._grids
        stride = max(grid.stride for grid in grids)
        cell = max(1, round(width * stride / self.encoder.pixels)) if self.resize else stride
        windows = self._windows(width * stride / cell)
        reach = max(window * (grid.stride / stride) for window, grid in zip(windows, grids, strict=True)) / 2
        origin = np.floor(centres.min(axis=0) if self.origin is None else self.origin).astype(int)
        positions = (centres - origin) / cell
        parts, order = [], []
        for members in _squares(positions, _STRIP_PIXELS / stride):
            near = positions[members]
            start = np.floor(near.min(axis=0) - reach).astype(int) - _MARGIN
            stop = np.ceil(near.max(axis=0) + reach).astype(int) + _MARGIN
            maps = self._strip_maps(source, origin + start * cell, stop - start, cell)
            means = [
                _window_means(cells, (near - start) * (stride / grid.stride) - grid.first, window)
                for cells, grid, window in zip(maps, grids, windows, strict=True)
            ]
            parts.append(np.concatenate(means, axis=1))
            order.append(members)
        features = np.empty((len(centres), parts[0].shape[1]), dtype=np.float32)
        features[np.concatenate(order)] = np.concatenate(parts)
        return features, self._names([len(cells) for cells in maps])

    def _windows(self, pixels: float) -> list[float]:
        """Cells across the window of every map, of a patch of that width in pixels of the network's input."""
        if self.shares is None:
            return [grid.window(pixels) for grid in self._grids]
        return [max(1.0, share * pixels / grid.stride) for share, grid in zip(self.shares, self._grids, strict=True)]

    def _names(self, n_features: Sequence[int]) -> list[str]:
        names = [f"{self.name}_{label}" for label in self.labels] or [self.name]
        return [f"{name}_{i}" for name, n in zip(names, n_features, strict=True) for i in range(n)]

    def _strip_maps(self, source: ImageSource, corner: np.ndarray, shape: np.ndarray, cell: int) -> list[np.ndarray]:
        """Feature maps (n_image_features x h x w) of a strip of ``shape`` in strides with its corner at ``corner``."""
        (x, y), (columns, rows) = corner.tolist(), shape.tolist()
        coarsest = max(self._grids, key=lambda grid: grid.stride)
        pixels = source.read(y, y + rows * cell, x, x + columns * cell)
        if cell != coarsest.stride:
            pixels = resized(pixels, (rows * coarsest.stride, columns * coarsest.stride))
        if self.shares is not None:
            # Without pixels that the coarsest map does not need, so that networks which pad at the end, as those of
            # TensorFlow, do so at both ends alike, as in the images that the grids were determined from.
            height, breadth = (coarsest.used(n) for n in (rows, columns))
            pixels = pixels[:height, :breadth]
        maps = [cells for (cells,) in _as_list(self.encoder.feature_map(pixels[None]))]
        n_wrong = sum(int((~np.isfinite(cells)).sum()) for cells in maps)
        if n_wrong:
            msg = f"Expected finite features of encoder {self.name!r}, found {n_wrong} that are not."
            raise ValueError(msg)
        return maps

    @cached_property
    def _grids(self) -> list[_Grid]:
        """One for each map, determined from those of images of several sizes."""
        n_cells = cache(self._n_cells)

        def n_cells_of(size: int, i: int) -> int:
            return n_cells(size)[i]

        grids = []
        for i, (few, many) in enumerate(zip(n_cells(_PROBE), n_cells(2 * _PROBE), strict=True)):
            stride, rest = divmod(_PROBE, many - few) if many > few else (0, 1)
            if rest:
                msg = (
                    f"Expected encoder {self.name!r} to return a feature map with a stride of 1, 2, 4, ... pixels for "
                    f"`mode='dense'`, found {few} and {many} cells across images of {_PROBE} and {2 * _PROBE} pixels. "
                    "Remove layers that resize the image or average the map, or use `mode='patch'`."
                )
                raise ValueError(msg)
            smallest = bisect_left(range(_PROBE + 1), few, lo=_PROBE - stride + 1, key=partial(n_cells_of, i=i))
            grids.append(_Grid(stride, few, smallest))
        return grids

    def _n_cells(self, size: int) -> list[int]:
        """Cells across each map of a square image."""
        maps = _as_list(self.encoder.feature_map(np.zeros((1, size, size, 3), dtype=np.uint8)))
        for shape in map(np.shape, maps):
            if len(shape) != 4 or shape[0] != 1:
                msg = (
                    f"Expected encoder {self.name!r} to return a feature map, n x n_image_features x h x w, with "
                    f"`mode='dense'`, found shape {shape} for one image. Use `mode='patch'`, or remove the pooling "
                    "layer."
                )
                raise ValueError(msg)
        return [np.shape(one)[3] for one in maps]


def _as_list(maps: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    return maps if isinstance(maps, list) else [maps]


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
