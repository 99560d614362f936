"""Which subspots touch, on a lattice or as cells."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

_N_NEAREST = 6  # the sides of a hexagon; of cells see `touching`


def touching(xy: np.ndarray) -> np.ndarray:
    """Pairs i < j of touching subspots: the six nearest within a reach.

    On a lattice the reach is 1.3 times the distance of the second nearest: the four sides of a square, the six of a
    hexagon. Cells lie irregularly, so the typical distances of the nearest and the second nearest differ; their reach
    is three times the latter, which excludes neighbours across a gap.
    """
    if len(xy) < 2:
        return np.empty((0, 2), dtype=int)
    first, second = np.median(cKDTree(xy).query(xy, k=[2, min(3, len(xy))])[0], axis=0)
    reach = (1.3 if second <= 1.1 * first else 3) * second
    pairs = _nearest_pairs(xy, _N_NEAREST)
    return pairs[np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1) <= reach]


def _nearest_pairs(xy: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Pairs i < j of subspots of which one is among the nearest of the other; there may be millions of them."""
    k = min(n_neighbors + 1, len(xy))
    nearest = cKDTree(xy).query(xy, k=range(1, k + 1))[1]
    pairs = np.column_stack([np.repeat(np.arange(len(xy)), k), nearest.ravel()])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]]
