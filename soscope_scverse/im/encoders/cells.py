"""Statistics of cells: nuclei, the orientation of edges and local binary patterns, where pixels are small enough."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_laplace
from skimage.color import hed_from_rgb
from skimage.feature import local_binary_pattern, structure_tensor, structure_tensor_eigenvalues
from skimage.measure import block_reduce

from soscope_scverse.im.reading.source import ImageSource

VISIBLE_MICRONS = 1.0
"""Width of a pixel below which nuclei of 4 to 9 um are resolved."""
PIXEL_MICRONS = 1.5
"""Largest width of the pixels that are used: finer ones are averaged."""
_NUCLEUS_RADII = (2.0, 4.5)
"""In micrometres; a blob of radius r has its largest response to a Laplacian of Gaussian at r / sqrt(2)."""
_EDGE_SCALES = (2.0, 8.0)
"""Standard deviations in micrometres of the windows of the structure tensor."""
_PATTERN_RADIUS, _PATTERN_POINTS = 3.0, 8
"""Radius in micrometres of the circle of points that are compared with its centre: that of a nucleus."""
_PATTERN_STEP = 1.5 / 255
"""Optical density of one grey level of the patterns, so that 8 bits hold what 8-bit images can show."""
_REACH = 4 * max(_EDGE_SCALES)
"""Micrometres around a pixel that its statistics depend on: Gaussians are cut at four standard deviations."""

OPTICAL_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_STAINS = np.column_stack([hed_from_rgb[:, 0], np.full(3, 1 / 3)]).astype(np.float32)
"""Optical densities of red, green and blue to haematoxylin and darkness."""

N_PATTERNS = _PATTERN_POINTS + 2
"""Uniform patterns that are equal up to a rotation, and all others."""
NAMES = (
    *(f"nuclei{radius:g}_{statistic}" for radius in _NUCLEUS_RADII for statistic in ("mean", "square")),
    *(f"edges{scale:g}_{statistic}" for scale in _EDGE_SCALES for statistic in ("strength", "coherence")),
    *(f"pattern{code}_share" for code in range(N_PATTERNS)),
)


"""Of the statistics; those of patterns are last."""


def shrinkage(microns: float) -> int:
    """Pixels along each axis that are averaged.

    Parameters
    ----------
    microns
        Width of a pixel of the image.
    """
    return max(1, int(PIXEL_MICRONS / microns))


def cell_maps(
    source: ImageSource, microns: float, corner: np.ndarray, shape: np.ndarray, block: int, rows_each: int
) -> np.ndarray:
    """Means of the statistics over blocks of pixels.

    Parameters
    ----------
    source
        The image.
    microns
        Width of its pixels.
    corner
        Pixel (x, y) at which the blocks start.
    shape
        Columns and rows of blocks.
    block
        Width of a block in shrunk pixels.
    rows_each
        Rows of blocks that are computed at once, to limit memory.

    Returns
    -------
    numpy.ndarray
        One for each of ``NAMES`` x rows x columns of blocks, float32.
    """
    shrink = shrinkage(microns)
    microns *= shrink
    halo = int(np.ceil(_REACH / microns)) + 1  # of the derivative
    (x, y), (n_columns, n_rows) = (int(c) for c in corner), (int(n) for n in shape)
    maps = np.empty((len(NAMES), n_rows, n_columns), dtype=np.float32)
    for row in range(0, n_rows, rows_each):
        stop = min(row + rows_each, n_rows)
        top, bottom = row * block - halo, stop * block + halo
        left, right = -halo, n_columns * block + halo
        pixels = source.read(y + top * shrink, y + bottom * shrink, x + left * shrink, x + right * shrink)
        for i, field in enumerate(_fields(*_stains(pixels, shrink), microns)):
            inner = field[halo : halo + (stop - row) * block, halo : halo + n_columns * block]
            maps[i, row:stop] = block_reduce(inner, (block, block), np.mean)
    return maps


def _stains(pixels: np.ndarray, shrink: int) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin and darkness of the shrunk image."""
    stains = OPTICAL_DENSITY[pixels] @ _STAINS
    if shrink > 1:
        stains = block_reduce(stains, (shrink, shrink, 1), np.mean).astype(np.float32)
    return np.ascontiguousarray(stains[..., 0]), np.ascontiguousarray(stains[..., 1])


def _fields(haematoxylin: np.ndarray, darkness: np.ndarray, microns: float) -> Iterator[np.ndarray]:
    """Statistics of every pixel, one after another."""
    for radius in _NUCLEUS_RADII:
        scale = radius / microns / np.sqrt(2)
        response = np.maximum(-(scale**2) * gaussian_laplace(haematoxylin, scale), 0)
        yield response
        yield np.square(response)
    for scale in _EDGE_SCALES:
        larger, smaller = structure_tensor_eigenvalues(structure_tensor(darkness, scale / microns, mode="nearest"))
        energy = larger + smaller
        yield np.sqrt(np.maximum(energy, 0))
        yield (larger - smaller) / (energy + 1e-6)
    radius = _PATTERN_RADIUS / microns
    levels = np.clip(np.rint(gaussian_filter(darkness, radius / 4) / _PATTERN_STEP), 0, 255).astype(np.uint8)
    codes = local_binary_pattern(levels, _PATTERN_POINTS, radius, "uniform")
    for code in range(N_PATTERNS):
        yield (codes == code).astype(np.float32)
