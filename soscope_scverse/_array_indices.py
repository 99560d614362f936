"""Recognition of array indices that were passed as positions."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys

_FEWEST = 8
"""Spots whose indices all have an even sum, or all an odd one, by chance in 1 of 128 sections."""
_SHARE = 0.9
"""Share of the spots with a diagonal neighbour."""
_FOUND = f"found array indices (column and row) in `adata.obsm['{keys.SPATIAL}']`"
_HEXAGONAL = (
    "Store positions in pixels there, those of `tissue_positions.csv` of Space Ranger; without any, the array of "
    f"Visium is `adata.obsm['{keys.SPATIAL}'] = np.column_stack([array_col, array_row * 3**0.5])`."
)


def check_no_indices(xy: np.ndarray, array: np.ndarray | None) -> None:
    """Warn if positions are array indices, and raise if these are those of a staggered array, whose shape is lost.

    Parameters
    ----------
    xy
        n_spots x 2 positions.
    array
        n_spots x 2 (``array_col``, ``array_row``), or None.

    Raises
    ------
    ValueError
        If the sum of row and column is even for all spots, as in Visium: such indices are no positions in any unit.
    """
    if len(xy) < _FEWEST:
        return
    if array is None:
        if _is_staggered(xy) and _are_diagonal(xy):
            warnings.warn(f"Expected positions in pixels, {_FOUND}. {_HEXAGONAL}", UserWarning, stacklevel=5)
        return
    if not any(_differ_by_a_shift(xy, indices) for indices in (array, array[:, ::-1])):
        return
    if _is_staggered(array):
        msg = f"Expected positions in pixels, {_FOUND}. {_HEXAGONAL}"
        raise ValueError(msg)
    warnings.warn(
        f"Expected positions in pixels, {_FOUND}: no image fits them, and rows and columns count as equally far apart.",
        UserWarning,
        stacklevel=5,
    )


def _differ_by_a_shift(xy: np.ndarray, indices: np.ndarray) -> bool:
    """Whether positions are the indices counted from another origin, perhaps in the other direction.

    Integers only: centroids of labels of one pixel each, as of rasterised bins, are half a pixel off.
    """
    return bool((xy == np.round(xy)).all()) and all(
        np.ptp(xy[:, axis]) > 0 and min(np.ptp(xy[:, axis] - sign * indices[:, axis]) for sign in (1, -1)) < 1e-6
        for axis in (0, 1)
    )


def _is_staggered(values: np.ndarray) -> bool:
    """Whether values are integers of which each row has an even sum, or each an odd one."""
    total = values.sum(axis=1)
    return bool((values == np.round(values)).all() and np.ptp(np.mod(total, 2)) == 0 and np.ptp(values, axis=0).all())


def _are_diagonal(xy: np.ndarray) -> bool:
    """Whether the nearest neighbours are one row and one column away, in both directions."""
    distance, nearest = cKDTree(xy).query(xy, k=3)
    step = xy[nearest[:, 1:]] - xy[:, None]
    is_near = np.abs(distance[:, 1] - np.sqrt(2)) < 1e-6
    return bool(is_near.mean() >= _SHARE and np.ptp(np.sign(step[is_near].prod(axis=2))) > 0)
