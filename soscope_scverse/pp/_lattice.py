"""Recognition of the lattice that the spots of a section lie on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree
from sklearn.cluster import DBSCAN

LatticeKind = Literal["square", "hex"]

_N_NEIGHBORS = 12  # two rings of a hexagonal lattice less the far corners: every lattice step that matters
_N_SAMPLED = 500  # spots, nearest to the centre, whose neighbours are clustered when no array indices are given
_MIN_SUPPORT = 0.3  # share of the spots that must have a neighbour one lattice step away
_HEX_COSINE = 0.3  # the reduced basis of a hexagonal lattice has cosine 0.5, of a square one 0


@dataclass(frozen=True)
class Lattice:
    """A two-dimensional lattice of spots.

    Parameters
    ----------
    kind
        ``"square"`` (four neighbours) or ``"hex"`` (six neighbours); both may be rotated, stretched or sheared.
    basis
        2 x 2, rows are the two lattice vectors (x, y) in pixels; those of a hexagonal lattice enclose about 60 degrees.
    array_steps
        2 x 2 integers, rows are the same two vectors as steps of (``array_col``, ``array_row``); None without indices.
    """

    kind: LatticeKind
    basis: np.ndarray
    array_steps: np.ndarray | None = None

    @property
    def pitch(self) -> float:
        """Centre-to-centre distance in pixels (mean over the lattice directions)."""
        return float(np.linalg.norm(self.basis, axis=1).mean())


def find_lattice(
    xy: np.ndarray, array: np.ndarray | None = None, kind: Literal["auto", "square", "hex"] = "auto"
) -> Lattice:
    """Find the lattice of the spots at `xy`.

    The steps between near neighbours are grouped, by their difference of array indices where there are any and by
    clustering otherwise; the two shortest independent steps, reduced (Lagrange-Gauss), are the basis. So rotated,
    stretched and quincunx arrays need no special case.

    Parameters
    ----------
    xy
        n_spots x 2 positions in pixels.
    array
        n_spots x 2 integer (``array_col``, ``array_row``); ignored where they do not explain the positions.
    kind
        Force the kind instead of taking it from the angle of the basis.

    Raises
    ------
    ValueError
        If no two steps are shared by at least 30 % of the spots.
    """
    by_index = _steps_by_index(xy, array) if array is not None else None
    pixel, index = by_index if by_index is not None else (_steps_by_clustering(xy), None)
    pair = _shortest_independent(pixel)
    if pair is None:
        msg = (
            f"The {len(xy)} spots do not lie on a square or hexagonal lattice: no two steps between neighbours are "
            f"shared by at least {_MIN_SUPPORT:.0%} of the spots. Pass the partition with `positions=` "
            "(n_spots x n_subspots x 2)."
        )
        raise ValueError(msg)
    key = pixel if index is None else index
    basis, key_basis = _reduce(pixel[pair], key[pair])
    return _orient(basis, key_basis, kind, has_index=index is not None)


def lattice_or_none(xy: np.ndarray, array: np.ndarray | None) -> Lattice | None:
    """Return the lattice, or None where there is none."""
    try:
        return find_lattice(xy, array)
    except ValueError:
        return None


def cell_corners(kind: str, basis: np.ndarray) -> np.ndarray:
    """Corners of the cell of a lattice around 0, in order: halfway to the neighbours, or the centres of triangles."""
    if kind == "square":
        return np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) @ basis
    return np.array([[1, 1], [-1, 2], [-2, 1], [-1, -1], [1, -2], [2, -1]]) / 3 @ basis


def in_lattice_cell(basis: np.ndarray, offset: np.ndarray, *, slack: float = 1.0) -> np.ndarray:
    """Whether points, n x 2 relative to a lattice point, are nearer to it than to the other points of the lattice.

    Parameters
    ----------
    basis
        2 x 2 lattice vectors.
    offset
        n_points x 2.
    slack
        Factor of the size of the cell.
    """
    a, b = basis
    steps = np.stack([a, b, a + b, a - b])
    return (np.abs(offset @ steps.T) <= slack / 2 * (steps**2).sum(axis=1)).all(axis=1)


def _near_steps(xy: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j) of the spots in `rows` and their nearest neighbours at another position."""
    k = min(_N_NEIGHBORS + 1, len(xy))
    distance, j = cKDTree(xy).query(xy[rows], k=k)
    i = np.repeat(rows, k)
    apart = distance.ravel() > 0
    return i[apart], j.ravel()[apart]


def _steps_by_index(xy: np.ndarray, array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Neighbour steps as pixel vectors and index differences; None where the indices do not explain the positions."""
    design = np.column_stack([array, np.ones(len(array))])
    affine, _, rank, _ = np.linalg.lstsq(design, xy, rcond=None)
    if rank < 3:
        return None
    i, j = _near_steps(xy, np.arange(len(xy)))
    if not len(i):
        return None
    nearest = np.sqrt(((xy[i] - xy[j]) ** 2).sum(axis=1).min())
    residual = np.sqrt(((design @ affine - xy) ** 2).sum(axis=1).mean())
    if residual > 0.3 * nearest:
        return None
    index, count = np.unique(array[j] - array[i], axis=0, return_counts=True)
    index = index[(count >= min(_MIN_SUPPORT, 0.5 * count.max() / len(xy)) * len(xy)) & (index != 0).any(axis=1)]
    return index @ affine[:2], index


def _steps_by_clustering(xy: np.ndarray) -> np.ndarray:
    """Neighbour steps as pixel vectors, from clusters of the displacements between near spots."""
    centre = np.argsort(((xy - xy.mean(axis=0)) ** 2).sum(axis=1), kind="stable")[:_N_SAMPLED]
    i, j = _near_steps(xy, centre)
    step = xy[j] - xy[i]
    if not len(step):
        return np.empty((0, 2))
    nearest = np.median(cKDTree(xy).query(xy[centre], k=2)[0][:, 1])
    label = DBSCAN(eps=0.12 * nearest, min_samples=max(2, int(_MIN_SUPPORT * len(centre)))).fit_predict(step)
    modes = [step[label == c].mean(axis=0) for c in range(label.max() + 1)]
    return np.array(modes).reshape(-1, 2)


def _shortest_independent(step: np.ndarray) -> list[int] | None:
    """Indices of the shortest step and of the shortest one that is not parallel to it."""
    order = np.argsort(np.round(np.linalg.norm(step, axis=1), 6), kind="stable")
    for second in order[1:]:
        a, b = step[order[0]], step[second]
        if abs(a[0] * b[1] - a[1] * b[0]) > 0.3 * np.linalg.norm(a) * np.linalg.norm(b):
            return [int(order[0]), int(second)]
    return None


def _reduce(basis: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lagrange-Gauss reduction of `basis` to its two shortest vectors; `key` gets the same integer operations."""
    basis, key = basis.copy(), key.copy()
    while True:
        if basis[0] @ basis[0] > basis[1] @ basis[1]:
            basis, key = basis[::-1].copy(), key[::-1].copy()
        m = np.round(basis[0] @ basis[1] / (basis[0] @ basis[0]))
        if m == 0 or np.isclose(abs(basis[0] @ basis[1] / (basis[0] @ basis[0])), 0.5):
            return basis, key
        basis[1] -= m * basis[0]
        key[1] = key[1] - key.dtype.type(m) * key[0]


def _orient(basis: np.ndarray, key: np.ndarray, kind: str, *, has_index: bool) -> Lattice:
    """Order and sign the basis: the first vector nearest to +x (of the array, else the image), the second left of it.

    With array indices the result turns with the coordinates; without, a lattice turned onto itself keeps its basis.
    """
    cosine = basis[0] @ basis[1] / np.prod(np.linalg.norm(basis, axis=1))
    is_hex = kind == "hex" or (kind == "auto" and abs(cosine) >= _HEX_COSINE)
    signed = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    if is_hex:  # the third direction is the short diagonal
        diagonal = [1, -1] if cosine > 0 else [1, 1]
        signed = np.vstack([signed, [diagonal], [[-d for d in diagonal]]])
    angle = np.round(np.arctan2(*(signed @ key).T[::-1]), 3)
    first = np.lexsort((-angle, np.abs(angle)))[0]
    turn = np.mod(angle - angle[first], 2 * np.pi)
    turn[first] = np.inf
    chosen = signed[[first, int(np.argmin(turn))]]
    array_steps = (chosen @ key).astype(int) if has_index else None
    return Lattice("hex" if is_hex else "square", chosen @ basis, array_steps)
