"""Colour, stain and texture statistics of the image, which need no weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter
from skimage.color import hed_from_rgb

from soscope_scverse.im.encoders.base import Encoder
from soscope_scverse.im.encoders.cells import (
    N_PATTERNS,
    NAMES,
    OPTICAL_DENSITY,
    PIXEL_MICRONS,
    VISIBLE_MICRONS,
    cell_maps,
    shrinkage,
)
from soscope_scverse.im.reading.source import ImageSource

_CHANNELS = ("red", "green", "blue", "haematoxylin", "eosin", "darkness")
_STAINS = (3, 5)
"""Indices of haematoxylin and darkness, of which coarse texture is computed."""
_WINDOWS = (0.125, 0.25, 0.5, 1.0)
"""Widths of the windows relative to the patch: by default half a subspot to four subspots."""
_BLOCKS = 64
"""Least width of the patch in blocks, where the resolution of the image suffices; it is below twice as many."""
_COARSE = (1, 5)
"""Widths in blocks of the smoothing before the coarse gradients."""
_MARGIN = 4
"""Blocks read around the windows, so that smoothing and gradients are not affected by the border of the region."""
_STEP = 1 / 255
"""One grey level: smaller deviations are due to rounding."""
_READ_PIXELS = 2**25
_WORK_PIXELS = 2**20
_BAND_BLOCKS = 2**22
_CELL_PIXELS = 2**23

# Beer-Lambert: optical densities of red, green and blue to haematoxylin, eosin and mean density.
_UNMIX = np.column_stack([hed_from_rgb[:, :2], np.full(3, 1 / 3)]).astype(np.float32)


class Texture(Encoder):
    """Colour, stain and texture statistics in four windows; needs no weights.

    In square windows of 1/8, 1/4, 1/2 and all of the patch around a position: mean and standard deviation of red,
    green, blue (0 to 1), haematoxylin, eosin (colour deconvolution of Ruifrok and Johnston, 2001) and darkness (mean
    optical density); mean gradient of the darkness between pixels; mean gradients and standard deviation of
    haematoxylin and darkness over blocks of pixels. 76 features, not standardised.

    The image is read once. Statistics of single pixels are averaged over blocks of 1/64 to 1/128 of the patch (at
    least one pixel), and windows are exact sums of blocks from summed-area tables. The grid of blocks starts at the
    positions, not at the corner of the image, so the features are invariant to a shift of both by an integer number of
    pixels.

    Where the pixels of all sections are known to be smaller than 1 micrometre, statistics of cells follow, in the same
    windows: blobs of haematoxylin of the size of nuclei (Laplacian of Gaussian), strength and coherence of edges
    (structure tensor) and, in the whole patch, shares of local binary patterns (Ojala et al., 2002). 118 features then.
    Pixels are averaged to at most 1.5 micrometres for these.

    Parameters
    ----------
    origin
        Pixel (x, y) at which the grid of blocks starts. Default: the minimum of the positions that are encoded.
    cell_features
        Whether the statistics of cells are computed. Default: as the size of the pixels suggests.
    """

    name = "texture"

    def __init__(self, origin: np.ndarray | None = None, cell_features: bool | None = None) -> None:
        self._origin, self.cell_features = origin, None if cell_features is None else bool(cell_features)

    @property
    def pixels(self) -> float:
        """Four pixels across a block; see :attr:`Encoder.pixels`."""
        return 4 * _BLOCKS

    def level(self, source: ImageSource, width: float) -> ImageSource:
        """Return the level to read, on which cells that are described are visible; see :meth:`Encoder.level`."""
        factor = width / self.pixels
        if self.cell_features and source.microns is not None:
            factor = min(factor, PIXEL_MICRONS / source.microns)
        return source.coarsened(factor)

    def at_resolution(self, microns: float | None) -> Texture:
        """Return the encoder that describes cells if these are visible; see :meth:`Encoder.at_resolution`."""
        if self.cell_features is not None:
            return self
        return Texture(self._origin, microns is not None and microns < VISIBLE_MICRONS)

    def anchored(self, origin: np.ndarray) -> Texture:
        """Return the encoder whose blocks start at ``origin``; see :meth:`Encoder.anchored`."""
        return Texture(origin, self.cell_features)

    def record(self) -> dict[str, Any]:
        """Return whether cells are described; see :meth:`Encoder.record`."""
        return {"cell_features": bool(self.cell_features)}

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Compute the statistics for every position; see :meth:`Encoder.encode`.

        Raises
        ------
        ValueError
            If cells are to be described, but the size of the pixels is not known.
        """
        features = self._encode_texture(source, centres, width)
        if not self.cell_features:
            return features, _feature_names()
        return np.concatenate([features, self._encode_cells(source, centres, width)], axis=1), [
            *_feature_names(),
            *(f"{statistic}_{window:g}" for window in _WINDOWS for statistic in _cell_statistics(window)),
        ]

    def _encode_cells(self, source: ImageSource, centres: np.ndarray, width: float) -> np.ndarray:
        """Means of the statistics of cells in all windows, n_targets x n_image_features."""
        if source.microns is None:
            msg = (
                "Expected a known pixel size for `cell_features`, found none. Store the micrometres of a "
                "full-resolution pixel as 'microns_per_pixel' in "
                "`adata.uns['spatial'][library_id]['scalefactors']`."
            )
            raise ValueError(msg)
        shrink = shrinkage(source.microns)
        block = max(1, int(width / shrink // _BLOCKS))
        origin = np.floor(centres.min(axis=0) if self._origin is None else self._origin).astype(int)
        positions, half = (centres - origin) / (block * shrink), width / shrink / block / 2
        start = np.floor(positions.min(axis=0) - half).astype(int)
        shape = np.ceil(positions.max(axis=0) + half).astype(int) - start + 1
        rows_each = max(1, _CELL_PIXELS // int(shape[0] * (block * shrink) ** 2))
        maps = cell_maps(source, source.microns, origin + start * block * shrink, shape, block, rows_each)
        means = [_window_means(field, positions - start, 2 * half) for field in maps]
        by_name = dict(zip(NAMES, means, strict=True))
        columns = [by_name[name][i] for i, window in enumerate(_WINDOWS) for name in _cell_statistics(window)]
        return np.column_stack(columns).astype(np.float32)

    def _encode_texture(self, source: ImageSource, centres: np.ndarray, width: float) -> np.ndarray:
        block = max(1, int(width // _BLOCKS))
        origin = np.floor(centres.min(axis=0) if self._origin is None else self._origin).astype(int)
        positions, reach = (centres - origin) / block, width / block / 2 + _MARGIN
        n_columns = int(positions[:, 0].max() + 2 * reach) + 2
        bands = positions[:, 1] // max(2 * reach, _BAND_BLOCKS // n_columns)
        features = np.empty((len(centres), len(_feature_names())), dtype=np.float32)
        for band in np.unique(bands):
            members = bands == band
            start = np.floor(positions[members].min(axis=0) - reach).astype(int)
            stop = np.ceil(positions[members].max(axis=0) + reach).astype(int)
            maps = _block_maps(source, origin + start * block, stop - start, block)
            features[members] = _window_statistics(maps, positions[members] - start, width / block)
        return features


def _cell_statistics(window: float) -> tuple[str, ...]:
    """Statistics of cells in a window; shares of patterns in the largest one only: those of few pixels are noise."""
    return NAMES if window == max(_WINDOWS) else NAMES[:-N_PATTERNS]


def _feature_names() -> list[str]:
    textures = [f"{_CHANNELS[c]}_edges{size}" for c in _STAINS for size in _COARSE]
    statistics = [
        *(f"{name}_mean" for name in _CHANNELS),
        *(f"{name}_std" for name in _CHANNELS),
        "darkness_edges0",
        *(f"{_CHANNELS[c]}_coarse_std" for c in _STAINS),
        *textures,
    ]
    return [f"{statistic}_{window:g}" for window in _WINDOWS for statistic in statistics]


def _block_maps(source: ImageSource, corner: np.ndarray, shape: np.ndarray, block: int) -> np.ndarray:
    """Block means of the six channels, their squares and the darkness gradient: 13 x rows x columns."""
    n_columns, n_rows = (int(n) for n in shape)
    maps = np.empty((2 * len(_CHANNELS) + 1, n_rows, n_columns), dtype=np.float32)
    for row, pixels in _strips(source, corner, n_rows, n_columns, block):
        channels = _channels(pixels)
        darkness = channels[..., -1]
        edges = _length(np.diff(darkness, axis=1)[:-1], np.diff(darkness, axis=0)[:, :-1])
        channels = channels[:-1, :-1]
        rows = slice(row, row + len(channels) // block)
        maps[:6, rows] = _block_mean(channels, block)
        maps[6:12, rows] = _block_mean(np.square(channels), block)
        maps[12:, rows] = _block_mean(edges[..., None], block)
    return maps


def _strips(
    source: ImageSource, corner: np.ndarray, n_rows: int, n_columns: int, block: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row of blocks, pixels with one more row and column for the gradient) strip by strip.

    Reads are large, so that each chunk of a file is decoded about once; strips are small, to limit memory.
    """
    x, y = (int(c) for c in corner)
    width = n_columns * block + 1
    per_work = max(1, _WORK_PIXELS // (width * block))
    per_read = per_work * max(1, _READ_PIXELS // (width * block * per_work))
    for first in range(0, n_rows, per_read):
        last = min(first + per_read, n_rows)
        pixels = source.read(y + first * block, y + last * block + 1, x, x + width)
        for row in range(first, last, per_work):
            top, bottom = (row - first) * block, (min(row + per_work, last) - first) * block + 1
            yield row, pixels[top:bottom]


def _channels(pixels: np.ndarray) -> np.ndarray:
    channels = np.empty((*pixels.shape[:2], len(_CHANNELS)), dtype=np.float32)
    np.multiply(pixels, np.float32(_STEP), out=channels[..., :3])
    channels[..., 3:] = OPTICAL_DENSITY[pixels] @ _UNMIX
    return channels


def _block_mean(pixels: np.ndarray, block: int) -> np.ndarray:
    """Block means of pixels (rows x columns x channels): channels x rows of blocks x columns of blocks."""
    height, width, n_channels = pixels.shape
    rows = np.ascontiguousarray(pixels).reshape(height // block, block, width * n_channels).sum(axis=1)
    sums = rows.reshape(height // block, width // block, block, n_channels).sum(axis=2)
    return np.moveaxis(sums, 2, 0) / np.float32(block**2)


def _window_statistics(maps: np.ndarray, positions: np.ndarray, width: float) -> np.ndarray:
    """Features (n_targets x n_image_features) at positions (x, y); these and the patch width are in blocks."""
    coarse = [maps[c] for c in _STAINS]
    gradients = [_gradient(uniform_filter(channel, size)) for channel in coarse for size in _COARSE]
    fields = [*maps, *(np.square(channel) for channel in coarse), *gradients]
    # n_fields x n_windows x n_targets
    means = np.stack([_window_means(field, positions, width) for field in fields])
    colour, squares, edges = means[:6], means[6:12], means[12:13]
    deviations = _deviation(squares, colour)
    coarse_deviations = _deviation(means[13:15], colour[list(_STAINS)])
    statistics = np.concatenate([colour, deviations, edges, coarse_deviations, means[15:]])
    return statistics.transpose(2, 1, 0).reshape(len(positions), -1)


def _gradient(field: np.ndarray) -> np.ndarray:
    return _length(*np.gradient(field))


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x) + np.square(y))  # ten times faster than np.hypot, which prevents overflow


def _deviation(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(mean_square - np.square(mean) - _STEP**2, 0))


def _window_means(field: np.ndarray, positions: np.ndarray, width: float) -> np.ndarray:
    """Means of the square windows around the positions, n_windows x n_targets, by one summed-area table."""
    table = np.zeros((field.shape[0] + 1, field.shape[1] + 1))
    np.cumsum(field, axis=0, dtype=float, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])

    def sum_to(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # linear between the corners of blocks, i.e. the image is constant in each block
        return map_coordinates(table, [y, x], order=1)

    sizes = width * np.array(_WINDOWS)[:, None]
    (x0, y0), (x1, y1) = ((positions.T[:, None] + sign * sizes / 2) for sign in (-1, 1))
    return (sum_to(x1, y1) - sum_to(x0, y1) - sum_to(x1, y0) + sum_to(x0, y0)) / sizes**2
