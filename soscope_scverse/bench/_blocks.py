"""Blocks of neighbouring spots of a lattice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

FLOWER = 7
"""Number of spots in a block of a hexagonal lattice: a spot and its six neighbours."""


class Blocks(NamedTuple):
    """Blocks of spots, and what they consist of."""

    coarse: np.ndarray
    """n_blocks x 2 coordinates in the coarse lattice (row, column), sorted."""
    members: np.ndarray
    """n_blocks x size of the largest block, row numbers of observations, -1 = padding."""


def square_blocks(fine: np.ndarray, side: int, fewest: int | None = None) -> Blocks:
    """Blocks of side x side spots of a square lattice.

    Parameters
    ----------
    fine
        n_obs x 2 integer coordinates (row, column).
    side
        Of a block, in spots.
    fewest
        Members of a block; blocks with fewer are excluded. None keeps only complete blocks.
    """
    offsets = (np.array([a, b]) for a in range(side) for b in range(side))
    return _best_tiling(fine, ((fine - offset) // side for offset in offsets), side * side, fewest)


def flower_blocks(fine: np.ndarray, fewest: int | None = None) -> Blocks:
    """Blocks of a spot and its six neighbours ("flowers") of a hexagonal lattice.

    In axial coordinates (q, r), q + 3 r modulo 7 takes all seven values on a spot and its six neighbours. The spots
    with one value are therefore centres of flowers that tile the lattice; they form a hexagonal lattice with the basis
    (3, -1), (1, 2). The seven values correspond to the offsets of the tiling.

    Parameters
    ----------
    fine
        n_obs x 2 integer coordinates (row, column), doubled as those of Visium.
    fewest
        See :func:`square_blocks`.
    """
    q, r = (fine[:, 1] - fine[:, 0]) // 2, fine[:, 0]
    to_centre = np.zeros((FLOWER, 2), dtype=int)
    for dq, dr in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)]:
        to_centre[(dq + 3 * dr) % FLOWER] = dq, dr

    def coarse(offset: int) -> np.ndarray:
        dq, dr = to_centre[(q - offset + 3 * r) % FLOWER].T
        centre_q, centre_r = q - offset - dq, r - dr
        i, j = (2 * centre_q - centre_r) // FLOWER, (centre_q + 3 * centre_r) // FLOWER
        return np.column_stack([j, 2 * i + j])  # doubled coordinates, the Visium convention

    return _best_tiling(fine, map(coarse, range(FLOWER)), FLOWER, fewest)


def _best_tiling(fine: np.ndarray, tilings: Iterable[np.ndarray], size: int, fewest: int | None) -> Blocks:
    """Return the blocks of the tiling that has the most complete ones."""

    def n_complete(coarse: np.ndarray) -> int:
        return int((np.unique(coarse, axis=0, return_counts=True)[1] == size).sum())

    best = max(tilings, key=n_complete)
    blocks, members = gather(best, fine)
    n_members = (members >= 0).sum(axis=1)
    if not (n_members == size).any():
        msg = (
            f"Found no complete block of {size} spots in {len(fine)} spots. Check that `obs` holds lattice (not pixel) "
            "coordinates and that `lattice` names its kind, or choose a smaller `factor`."
        )
        raise ValueError(msg)
    kept = n_members >= (size if fewest is None else fewest)
    return Blocks(blocks[kept], members[kept])


def gather(coarse: np.ndarray, fine: np.ndarray) -> Blocks:
    """List the observations of all blocks in the order of their fine coordinates.

    Parameters
    ----------
    coarse
        n_obs x 2 integer coordinates of the blocks.
    fine
        n_obs x 2 coordinates within the lattice.
    """
    blocks, block, counts = np.unique(coarse, axis=0, return_inverse=True, return_counts=True)
    block = block.ravel()
    order = np.lexsort((fine[:, 1], fine[:, 0], block))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((len(blocks), counts.max()), -1)
    members[block[order], rank] = order
    return Blocks(blocks, members)
