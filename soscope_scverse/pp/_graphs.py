"""Neighbour graphs: A over the spots, W over the subspots."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_array, csr_matrix, diags_array, eye_array, issparse, triu
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix, is_counts
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.mudata import modality, spots_of
from soscope_scverse._containers.slots import writable
from soscope_scverse._read import Spots, read_sections
from soscope_scverse._touching import touching
from soscope_scverse._upstream import SPATIALDATA_NOTICES, without_deprecations, without_notices
from soscope_scverse._validators import (
    POSITIVE,
    POSITIVE_INTEGER,
    Choice,
    Number,
    Rules,
    check_arguments,
    check_finite,
    check_text,
)
from soscope_scverse.pp._lattice import Lattice, lattice_or_none
from soscope_scverse.pp._several import check_single_lattices, is_partitioned

if TYPE_CHECKING:
    from spatialdata import SpatialData

_CHUNK_VALUES = 500_000
_N_NEAREST = 6  # neighbours where there is no lattice
_ROUNDING = 1.005  # a spot at the radius is within it: rows of a 6.5 mm Visium slide are 87.0 um apart, not 86.6
_RULES: Rules = {
    "n_neighbors": POSITIVE_INTEGER.or_(None),
    "n_rings": POSITIVE_INTEGER.or_(None),
    "radius": POSITIVE.or_(None),
    "strength": Number(1, above=True),
    "normalize": Choice((True, False)),
}


@accepts_containers()
def spot_graph(
    adata: AnnData | MuData | SpatialData,
    *,
    layer: str | Mapping[str, str | None] | None = None,
    n_neighbors: int | None = None,
    n_rings: int | None = None,
    radius: float | None = None,
    strength: float = 2.0,
    normalize: bool = True,
    library_key: str | None = None,
    key_added: str = keys.SPOT_GRAPH,
    copy: bool = False,
    table_key: str = "table",
    shapes_key: str | None = None,
) -> AnnData | MuData | None:
    r"""Weighted neighbour graph of the spots, the A of soScope.

    By default the range is short: edges join neighbours on the lattice (4 on a square, 6 on a hexagonal one), or the 6
    nearest spots where there is no lattice. `n_neighbors`, `n_rings` or `radius` set another range; ``radius=8`` is the
    medium range of the paper, larger values are its long range. The weight of an edge is
    :math:`\exp(-(d - d_\mathrm{min}) / \delta)`, where d is the Euclidean distance of the two profiles and
    :math:`\delta = (d_\mathrm{median} - d_\mathrm{min}) / \ln s`, so that the median edge weighs 1 / s.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``. Of a MuData, the weight of an edge is the geometric mean of its
        weights in all modalities.
    layer
        Layer that holds the profiles, of a MuData a dict by modality; None is ``X``.
    n_neighbors
        Join this many nearest spots.
    n_rings
        Join all spots that are at most this many edges of the default graph apart. 1 is that graph.
    radius
        Join all spots within this distance, in units of the centre-to-centre distance (the pitch of the lattice, or
        the median distance to the nearest spot).
    strength
        s, above 1: how much weaker the median edge is than the strongest. The paper's code uses 2 to 5.
    normalize
        Normalise counts to equal library size and log1p-transform them first. False: distances of the profiles as they
        are, as in the paper.
    library_key
        Column of ``obs`` with the sections; no edge joins two of them, and the weights of each are computed separately.
    key_added
        Name of the slot in ``obsp``; another than the default is chosen with ``graph_key`` of
        :func:`~soscope_scverse.tl.enhance` or :meth:`~soscope_scverse.model.SoScope.setup_anndata`.
    copy
        Return a copy instead of writing to `adata`.
    table_key, shapes_key
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`; the graph is written to the table.

    Returns
    -------
    AnnData, MuData or None
        None, or with `copy` the changed copy. ``obsp[key_added]`` is a symmetric n_spots x n_spots CSR matrix of
        weights in (0, 1]. Spots without a neighbour are kept, with a warning.

    Raises
    ------
    TypeError, ValueError
        If coordinates are missing, profiles are not finite, `strength` is not above 1, more than one range is given,
        `n_neighbors` or `n_rings` is below 1, or `radius` is not above 0.
    """
    check_arguments(locals(), _RULES)
    check_text("key_added", key_added)
    _check_one_range(n_neighbors, n_rings, radius)
    spots = read_sections(spots_of(read.read_data(adata)), library_key)
    profiles = _profiles(adata, layer)
    for x in profiles:
        check_finite(x)
    if not is_partitioned(spots):
        check_single_lattices(spots)
    graph = weighted_graph(
        spots,
        profiles,
        n_neighbors=n_neighbors,
        n_rings=n_rings,
        radius=radius,
        strength=strength,
        normalize=normalize,
    )
    adata = writable(adata, copy=copy)
    adata.obsp[key_added] = graph
    return adata if copy else None


def weighted_graph(
    spots: Spots,
    profiles: list[Matrix],
    *,
    n_neighbors: int | None = None,
    n_rings: int | None = None,
    radius: float | None = None,
    strength: float = 2.0,
    normalize: bool = True,
) -> csr_matrix:
    """Symmetric n_spots x n_spots float32 weights; `profiles` by modality, other arguments as in :func:`spot_graph`."""
    blocks, weights = [], []
    for rows in spots.rows.values():
        pairs = _pairs(*spots.lattice_of(rows), n_neighbors, n_rings, radius)
        blocks.append(rows[pairs])
        weights.append(_edge_weights([x[rows] for x in profiles], pairs, strength, normalize=normalize))
    (i, j), weight = np.concatenate(blocks).T, np.concatenate(weights)
    warn_isolated(spots.adata, np.setdiff1d(np.arange(spots.n), np.r_[i, j]))
    graph = csr_matrix((np.r_[weight, weight], (np.r_[i, j], np.r_[j, i])), shape=(spots.n, spots.n))
    return graph.astype(np.float32)


def _profiles(data: AnnData | MuData, layer: Any) -> list[Matrix]:
    """Profiles of every modality."""
    if isinstance(data, MuData):
        layers = read.by_modality("layer", layer)
        return [read.matrix(modality(data, name), layers.get(name)) for name in data.mod]
    return [read.matrix(data, layer)]


def _edge_weights(profiles: list[Matrix], pairs: np.ndarray, strength: float, *, normalize: bool) -> np.ndarray:
    """Weights of the edges of one section: geometric mean over the modalities."""
    compared = map(comparable_profiles, profiles) if normalize else profiles
    distances = [_row_distance(x, *pairs.T) for x in compared]
    return np.prod([similarity_weights(d, strength) for d in distances], axis=0) ** (1 / len(distances))


def image_similarity(
    xy: np.ndarray, features: np.ndarray, sections: np.ndarray, strength: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarity of touching subspots by their image features, the W of soScope.

    Weights follow the same formula as those of :func:`spot_graph`; pairs of subspots that do not touch weigh 0.

    Parameters
    ----------
    xy
        n_targets x 2 positions.
    features
        n_targets x n_image_features.
    sections
        n_targets labels; no pair joins two sections.
    strength
        s, above 1.

    Returns
    -------
    Row numbers i < j of the touching pairs and their weights.
    """
    groups = [np.flatnonzero(sections == section) for section in np.unique(sections)]
    with_image = [rows for rows in groups if not _all_equal(features[rows])]  # equal features are those of no image
    pairs = [rows[touching(xy[rows])] for rows in with_image or groups]
    i, j = np.concatenate(pairs).T
    return i, j, similarity_weights(_row_distance(features, i, j), strength)


def _all_equal(features: np.ndarray) -> bool:
    """Whether all rows are equal but for rounding."""
    return bool(np.ptp(features, axis=0).max(initial=0) <= 1e-6 * np.abs(features).max(initial=0))


def nearest_distance(xy: np.ndarray, *, single: float = 1.0) -> float:
    """Median distance to the nearest other position: the centre-to-centre distance; `single` for fewer than two."""
    if len(xy) < 2:
        return single
    return float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]))


def comparable_profiles(x: Matrix) -> Matrix:
    """Profiles with a meaningful Euclidean distance: counts at equal library size and log1p, others unchanged."""
    return equal_library_size(x, np.asarray(x.sum(axis=1))) if is_counts(x) else x


def equal_library_size(x: Matrix, library_size: np.ndarray) -> Matrix:
    """log1p of counts scaled to the mean library size; `library_size` is that of every row over all its features."""
    total = np.asarray(library_size, dtype=float).reshape(-1, 1)
    scale = total.mean() / np.maximum(total, 1)
    return csr_matrix(diags_array(scale.ravel()) @ x).log1p() if issparse(x) else np.log1p(x * scale)


def similarity_weights(distance: np.ndarray, strength: float) -> np.ndarray:
    """exp(-(d - d_min) / delta) with delta such that the median distance weighs 1 / `strength`."""
    if not len(distance):
        return distance
    shortest = distance.min()
    delta = (np.median(distance) - shortest) / math.log(strength)
    if delta <= 1e-12 * max(1.0, shortest):
        return np.ones_like(distance)
    # no edge may vanish: a float32 zero would drop out of the sparse matrix
    return np.maximum(np.exp(-(distance - shortest) / delta), 1e-6)


def warn_isolated(adata: AnnData, isolated: np.ndarray) -> None:
    """Warn of the spots in some rows, which have no edge."""
    if len(isolated):
        warnings.warn(
            f"{len(isolated)} of {adata.n_obs} spots have no neighbour (first: {adata.obs_names[isolated[0]]!r}); "
            "their latent states depend on their own profiles only.",
            UserWarning,
            stacklevel=5,
        )


def _check_one_range(n_neighbors: int | None, n_rings: int | None, radius: float | None) -> None:
    ranges = {"n_neighbors": n_neighbors, "n_rings": n_rings, "radius": radius}
    given = {name: value for name, value in ranges.items() if value is not None}
    if len(given) > 1:
        msg = f"Expected one of `n_neighbors`, `n_rings` and `radius`, found {given}."
        raise ValueError(msg)


def _pairs(
    xy: np.ndarray, array: np.ndarray | None, n_neighbors: int | None, n_rings: int | None, radius: float | None
) -> np.ndarray:
    """Pairs i < j of rows of one section that edges join, n_pairs x 2."""
    if n_neighbors is not None:
        return _nearest_spots(xy, n_neighbors)
    lattice = lattice_or_none(xy, array, whole=False)
    if radius is not None:
        pitch = nearest_distance(xy) if lattice is None else lattice.pitch
        return cKDTree(xy).query_pairs(radius * pitch * _ROUNDING, output_type="ndarray")
    pairs = _nearest_spots(xy, _N_NEAREST) if lattice is None else _lattice_pairs(xy, lattice)
    return _within_steps(pairs, len(xy), n_rings or 1)


def _within_steps(pairs: np.ndarray, n_spots: int, n_steps: int) -> np.ndarray:
    """Pairs i < j that a path of at most `n_steps` of these pairs connects."""
    step = csr_array((np.ones(len(pairs), np.float32), tuple(pairs.T)), shape=(n_spots, n_spots))
    step = step + step.T + eye_array(n_spots, dtype=np.float32, format="csr")
    reached = step
    for _ in range(n_steps - 1):
        n_reached = reached.nnz
        reached = reached @ step
        reached.data[:] = 1
        if reached.nnz == n_reached:
            break
    i, j = triu(reached, k=1).nonzero()
    return np.column_stack([i, j])


def _lattice_pairs(xy: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Pairs i < j of neighbours on the lattice."""
    a, b = lattice.basis
    steps = [a, b] if lattice.kind == "square" else [a, b, b - a]
    tree = cKDTree(xy)
    found = []
    for step in steps:
        distance, j = tree.query(xy + step, distance_upper_bound=0.35 * np.linalg.norm(step))
        i = np.flatnonzero(np.isfinite(distance))
        found.append(np.sort(np.column_stack([i, j[i]]), axis=1))
    return np.unique(np.vstack(found), axis=0)


def _nearest_spots(xy: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Pairs i < j of spots of which one is among the nearest of the other, as in squidpy."""
    if len(xy) < 2:
        return np.empty((0, 2), dtype=int)
    with without_deprecations():
        from squidpy.gr import spatial_neighbors_knn  # takes seconds to import

    spots = AnnData(obsm={keys.SPATIAL: xy})
    with without_notices(SPATIALDATA_NOTICES):
        graph = spatial_neighbors_knn(spots, n_neighs=min(n_neighbors, len(xy) - 1), copy=True).connectivities
    pairs = np.unique(np.sort(np.column_stack(graph.nonzero()), axis=1), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _row_distance(x: Matrix, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Euclidean distance of rows i and j, in chunks of pairs to bound the memory."""
    distance = np.empty(len(i))
    chunk = max(1, _CHUNK_VALUES // x.shape[1])
    for start in range(0, len(i), chunk):
        part = slice(start, start + chunk)
        difference = x[i[part]] - x[j[part]]
        if issparse(difference):
            square = np.asarray(csr_array(difference).power(2).sum(axis=1)).ravel()
        else:
            square = (np.asarray(difference, dtype=float) ** 2).sum(axis=1)
        distance[part] = np.sqrt(square)
    return distance
