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
LOW_SUPPORT = 0.15  # the same for spots off their lattice: at 0.09 pitches 0.3 finds 32 %, this 99 %, none falsely
_HEX_COSINE = 0.3  # the reduced basis of a hexagonal lattice has cosine 0.5, of a square one 0
_OFF = 0.25  # distance from a point of the lattice, in pitches, of a spot that is on it: a fifth of the area
_ON_SHARE = 0.6  # share of the steps that end on the lattice: 86 % at 0.09 pitches, 20 to 23 % of random steps
_HELD_SHARE = 0.9  # share of the spots that one lattice holds by their array indices, but for indices that are wrong
_FEWEST = 8  # spots whose indices have an even sum, or leave out rows, by chance in fewer than 1 of 100 sections
_LINE = 0.01  # area that the steps of the array enclose, relative to their squares: 0.5 if square, below that a line
_MOST_STRETCHED = 1.35  # ratio of the reduced steps: arrays reach 1.2, hexagonal ones without every second row 1.7
_MOST_MISSING = 12  # points of the array for each spot; with indices in micrometres thousands
_SAME_SHAPE = 0.1  # difference of cosines and ratios of lengths; a hexagonal lattice differs by 0.5 from a square one
_STAGGERED = np.array([[2, 0], [1, 1]])  # shortest steps of an array whose every second row is shifted, as of Visium
_FULL_ARRAY = 2  # index cells for each spot: 1 if numbered row by row, 2 if every second row is staggered


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

    @property
    def is_elongated(self) -> bool:
        """Whether one step is far longer than the other, as where rows or columns of spots are missing."""
        return _elongation(_reduce(self.basis, np.eye(2))[0]) > _MOST_STRETCHED


def find_lattice(
    xy: np.ndarray,
    array: np.ndarray | None = None,
    kind: Literal["auto", "square", "hex"] = "auto",
    *,
    whole: bool = True,
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
        n_spots x 2 integer (``array_col``, ``array_row``), which decide where they explain the positions and are
        ignored otherwise.
    kind
        Force the kind instead of taking it from the angle of the basis.
    whole
        Whether to return the lattice of the array where rows of spots are missing, or the one that leads to neighbours.

    Raises
    ------
    ValueError
        If no two steps are shared by at least 15 % of the spots and lead from spot to spot.
    """
    steps = None if array is None else _steps_by_index(xy, array)
    found = _by_clustering(xy) if array is None or steps is None else _by_index(xy, array, *steps, whole=whole)
    if found is None and len(xy) < 3:
        msg = (
            f"{len(xy)} spots do not lie on a square or hexagonal lattice: expected at least three spots, which show "
            f"how they are arranged, or `positions=` of their subspots, found {len(xy)}."
        )
        raise ValueError(msg)
    if found is None:
        msg = (
            f"The {len(xy)} spots do not lie on a square or hexagonal lattice: no two steps between neighbours are "
            f"shared by at least {LOW_SUPPORT:.0%} of the spots. Pass the partition with `positions=` "
            "(n_spots x n_subspots x 2)."
        )
        raise ValueError(msg)
    return _orient(*found, kind, has_index=steps is not None)


def is_one_array(xy: np.ndarray, array: np.ndarray | None) -> bool:
    """Whether all spots lie where one array with their indices has them, each index once."""
    if array is None or len(np.unique(array, axis=0)) < len(array):
        return False
    return _steps_by_index(xy, array) is not None


def lattice_or_none(xy: np.ndarray, array: np.ndarray | None, *, whole: bool = True) -> Lattice | None:
    """Return the lattice, or None where there is none."""
    try:
        return find_lattice(xy, array, whole=whole)
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


def _near_steps(xy: np.ndarray, rows: np.ndarray, n_neighbors: int = _N_NEIGHBORS) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j) of the spots in `rows` and their nearest neighbours at another position."""
    k = min(n_neighbors + 1, len(xy))
    distance, j = cKDTree(xy).query(xy[rows], k=k)
    i = np.repeat(rows, k)
    apart = distance.ravel() > 0
    return i[apart], j.ravel()[apart]


def _by_index(
    xy: np.ndarray, array: np.ndarray, pixel: np.ndarray, index: np.ndarray, *, whole: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Reduced basis in pixels and in indices, from neighbour steps in both; None where several are possible.

    Steps between near neighbours are those of the lattice unless spots are few and scattered. Then they do not lead to
    most spots, and the basis is that of the differences of all indices.
    """
    pair = _shortest_independent(pixel)
    if pair is not None:
        basis, key = _reduce(pixel[pair], index[pair])
        is_subset = abs(np.linalg.det(key)) > _FULL_ARRAY + 0.5
        if not (is_subset and len(xy) < _FEWEST) and _held_share(array, key) >= _HELD_SHARE:
            return _with_missing_rows(array, basis, key) if whole else (basis, key)
    return _by_differences(xy, array)


def _with_missing_rows(array: np.ndarray, basis: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduced basis of the array where the spots, of which rows or columns are missing, have one of another shape.

    Every second row and column of a square array has its shape and is an array of its own. So are spots whose indices
    are in a finer unit, of which nearly all would be missing.
    """
    affine = np.linalg.inv(key) @ basis
    units = [np.eye(2, dtype=int)]
    if _most_frequent_share(array.sum(axis=1) % 2) >= _HELD_SHARE:
        # on a quincunx both are compact: without a spot in an odd column it is a square array
        units.insert(int(_most_frequent_share(array[:, 0] % 2) >= _HELD_SHARE), _STAGGERED)
    for unit in units:
        whole = _reduce(unit @ affine, unit)
        if _elongation(whole[0]) <= _MOST_STRETCHED:
            n_missing = abs(np.linalg.det(key) / np.linalg.det(unit))
            return whole if 1.5 < n_missing <= _MOST_MISSING and not _is_similar(basis, whole[0]) else (basis, key)
    return basis, key


def _is_similar(basis: np.ndarray, other: np.ndarray) -> bool:
    """Whether two reduced bases have the same angle and ratio of lengths."""
    cosine = [abs(pair[0] @ pair[1]) / np.linalg.norm(pair, axis=1).prod() for pair in (basis, other)]
    same_angle = abs(cosine[0] - cosine[1]) <= _SAME_SHAPE
    return bool(same_angle and abs(_elongation(basis) / _elongation(other) - 1) <= _SAME_SHAPE)


def _most_frequent_share(values: np.ndarray) -> float:
    """Share of the most frequent value."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values))


def _elongation(basis: np.ndarray) -> float:
    """Ratio of the lengths of two steps, at least 1."""
    length = np.linalg.norm(basis, axis=1)
    return float(length.max() / length.min())


def _held_share(array: np.ndarray, key: np.ndarray) -> float:
    """Largest share of the spots whose indices differ by steps of a lattice."""
    size = abs(round(np.linalg.det(key)))
    remainder = np.mod(np.rint((array - array[0]) @ np.linalg.inv(key) * size).astype(int), size)
    return float(np.unique(remainder, axis=0, return_counts=True)[1].max() / len(array))


def _by_differences(xy: np.ndarray, array: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Reduced basis of the coarsest lattice with all indices, if that is an array and explains the positions."""
    key = _generators(array - array[0])
    is_full = abs(round(np.linalg.det(key))) == 1
    is_staggered = abs(round(np.linalg.det(key))) == _FULL_ARRAY and (key.sum(axis=1) % 2 == 0).all()
    if len(xy) < 4 or not (is_full or (is_staggered and len(xy) >= _FEWEST)):  # three spots explain any positions
        return None
    design = np.column_stack([array, np.ones(len(array))])
    affine = np.linalg.lstsq(design, xy, rcond=None)[0]
    if abs(np.linalg.det(affine[:2])) < _LINE * (affine[:2] ** 2).sum():
        return None
    basis, key = _reduce(key @ affine[:2], key)
    error = np.sqrt(((design @ affine - xy) ** 2).sum() / (len(xy) - 3))
    return (basis, key) if error <= _OFF * np.linalg.norm(basis, axis=1).min() else None


def _generators(vectors: np.ndarray) -> np.ndarray:
    """Two integer vectors of whose sums all `vectors` consist (Hermite normal form), rows of 2 x 2."""
    first = np.zeros(2, dtype=int)
    for step in vectors[vectors[:, 0] != 0]:
        if first[0] == np.gcd.reduce(vectors[:, 0]):
            break
        rest = step
        while rest[0]:
            first, rest = rest, first - first[0] // rest[0] * rest
    if not first[0]:
        return np.zeros((2, 2), dtype=int)
    second = vectors[:, 1] - vectors[:, 0] // first[0] * first[1]
    return np.array([first, [0, np.gcd.reduce(second)]])


def _by_clustering(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Reduced basis in pixels, twice; None where no steps are shared, or they do not lead from spot to spot."""
    for support in (_MIN_SUPPORT, LOW_SUPPORT):
        step = shared_steps(xy, support)[0]
        pair = _shortest_independent(step)
        if pair is not None:
            found = _reduce(step[pair], step[pair])
            if _on_lattice_share(xy, found[0]) >= (_ON_SHARE if len(xy) >= _FEWEST else _HELD_SHARE):
                return found
    return None


def _on_lattice_share(xy: np.ndarray, basis: np.ndarray) -> float:
    """Share of the steps between near spots that are steps of the lattice."""
    i, j = _near_steps(xy, _centre(xy))
    coordinates = (xy[j] - xy[i]) @ np.linalg.inv(basis)
    off = (coordinates - np.round(coordinates)) @ basis
    return float((np.linalg.norm(off, axis=1) <= _OFF * np.linalg.norm(basis, axis=1).min()).mean())


def n_sampled(xy: np.ndarray) -> int:
    """Return the number of spots from which :func:`shared_steps` start."""
    return min(len(xy), _N_SAMPLED)


def _centre(xy: np.ndarray) -> np.ndarray:
    """Row numbers of the spots nearest to the centre."""
    return np.argsort(((xy - xy.mean(axis=0)) ** 2).sum(axis=1), kind="stable")[:_N_SAMPLED]


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
    residual = _misfit(design, xy)
    if residual > 0.3 * nearest or (residual > 0.1 * nearest and _is_offset(array, xy, residual)):
        return None
    index, count = np.unique(array[j] - array[i], axis=0, return_counts=True)
    index = index[(count >= min(_MIN_SUPPORT, 0.5 * count.max() / len(xy)) * len(xy)) & (index != 0).any(axis=1)]
    return index @ affine[:2], index


def _misfit(design: np.ndarray, xy: np.ndarray) -> float:
    """Root mean square distance of the positions from those that are linear in the columns of `design`."""
    fitted = design @ np.linalg.lstsq(design, xy, rcond=None)[0]
    return float(np.sqrt(((fitted - xy) ** 2).sum(axis=1).mean()))


def _is_offset(array: np.ndarray, xy: np.ndarray, misfit: float) -> bool:
    """Whether every second row (or column) is shifted by half a step, which its indices do not show."""
    return any(
        _misfit(np.column_stack([array, array[:, axis] % 2, np.ones(len(array))]), xy) < 0.5 * misfit for axis in (0, 1)
    )


def shared_steps(
    xy: np.ndarray, support: float, n_neighbors: int = _N_NEIGHBORS
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return steps to near neighbours that many spots share, from clusters of the displacements between them.

    Parameters
    ----------
    xy
        n_spots x 2 positions; those nearest to the centre are used.
    support
        Share of the spots from which a step is shared.
    n_neighbors
        Near neighbours of a spot.

    Returns
    -------
    n_steps x 2 mean displacements, and of each the row numbers of the spots that it starts from.
    """
    centre = _centre(xy)
    i, j = _near_steps(xy, centre, n_neighbors)
    step = xy[j] - xy[i]
    if not len(step):
        return np.empty((0, 2)), []
    nearest = np.median(cKDTree(xy).query(xy[centre], k=2)[0][:, 1])
    label = DBSCAN(eps=0.12 * nearest, min_samples=max(2, int(support * len(centre)))).fit_predict(step)
    members = [label == c for c in range(label.max() + 1)]
    return np.array([step[of].mean(axis=0) for of in members]).reshape(-1, 2), [i[of] for of in members]


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
