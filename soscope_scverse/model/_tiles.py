"""Batches of a section: dictionaries of tensors that the module understands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array, csr_matrix
from scipy.spatial import cKDTree

from soscope_scverse._arrays import Matrix, dense
from soscope_scverse.pp._graphs import image_similarity, nearest_distance


class Section(NamedTuple):
    """Everything the model knows of the spots of a section (or several), row by row."""

    x: Matrix
    """n_spots x n_features profiles."""
    graph: csr_matrix
    """n_spots x n_spots weights, symmetric."""
    spatial: np.ndarray
    """n_spots x 2 positions."""
    subspots: np.ndarray
    """n_spots x n_subspots x 2 positions, NaN = padding."""
    exposure: np.ndarray
    """n_spots x n_subspots shares of the spot, times its size."""
    features: np.ndarray | None
    """n_spots x n_subspots x n_image_components, projected."""
    sections: np.ndarray
    """n_spots labels."""
    batches: np.ndarray | None = None
    """n_spots x n_batches float32 shares: 1 for the spot's batch, equal ones where it was not trained on."""

    @property
    def size(self) -> np.ndarray:
        """n_spots x 1 sizes of the spots, 1 for the mean spot."""
        return self.exposure.sum(axis=1, keepdims=True)


class Tiles:
    """A section cut into batches, each with the surroundings that its spots need.

    The latent state of a spot depends on the spots `n_hops` edges away, and a subspot on the latent states of the spots
    that it is interpolated from. A tile holds all of these, so what the model says of a tile's own spots does not
    depend on the tiling.

    Parameters
    ----------
    section
        The spots.
    interpolation, bandwidth
        See :func:`interpolation_weights`.
    similarity_strength
        s of the image similarity W; None leaves W out.
    n_hops
        Graph layers of the encoder.
    """

    def __init__(
        self,
        section: Section,
        *,
        interpolation: Literal["gaussian", "none"],
        bandwidth: float,
        similarity_strength: float | None = None,
        n_hops: int = 3,
    ) -> None:
        self.section = section
        self.interpolation = interpolation
        self.bandwidth = bandwidth
        self.n_hops = n_hops
        self.graph = csr_matrix(section.graph)
        self.neighbors, self.weights = interpolation_weights(
            section.spatial, section.subspots, section.sections, kind=interpolation, bandwidth=bandwidth
        )
        valid = section.exposure > 0
        self.first_target = np.r_[0, valid.sum(axis=1).cumsum()]
        self.edge_density = _density(self.graph.nnz / 2, self.n_spots)
        self.similarity: csr_matrix | None = None
        if section.features is not None and similarity_strength is not None:
            i, j, weight = image_similarity(
                section.subspots[valid],
                section.features[valid],
                np.repeat(section.sections, valid.sum(axis=1)),
                similarity_strength,
            )
            weight = weight.astype(np.float32)
            self.similarity = csr_matrix((weight, (i, j)), shape=(self.n_targets, self.n_targets))
            self.image_edge_density = _density(len(weight), self.n_targets)

    @property
    def n_spots(self) -> int:
        """Spots of the section."""
        return len(self.section.spatial)

    @property
    def n_targets(self) -> int:
        """Valid subspots of the section."""
        return int(self.first_target[-1])

    def targets(self, own: np.ndarray) -> np.ndarray:
        """Numbers of the valid subspots of the spots `own`, counted through the section."""
        return np.concatenate([np.arange(self.first_target[n], self.first_target[n + 1]) for n in own])

    def tile(self, own: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """Batch of the spots `own`; None is the whole section.

        Returns
        -------
        ``x``
            n_inputs x n_features profiles of the own spots and their surroundings.
        ``size``
            n_inputs x 1 sizes of the same.
        ``edge_index``, ``edge_weight``
            2 x n_edges and n_edges: A between them, both directions.
        ``edge_density``
            Share of all pairs of spots of the section that A joins.
        ``own``
            n_own rows of the own spots among the inputs.
        ``exposure``
            n_own x n_subspots.
        ``neighbors``, ``neighbor_weights``
            n_own x n_subspots x n_neighbors: S, the interpolation of latent states; rows among the inputs.
        ``valid``
            Numbers of the subspots that are not padding, counted through n_own x n_subspots.
        ``features``
            n_own x n_subspots x n_image_components, with an image.
        ``input_batch``, ``batch``
            n_inputs x n_batches and n_own x n_batches shares, with a batch covariate.
        ``image_edge_index``, ``image_edge_weight``, ``image_edge_density``
            2 x n_pairs and n_pairs: W, every touching pair of valid own subspots once; share of all pairs of subspots
            of the section that W joins. With an image.
        """
        section = self.section
        own = np.arange(self.n_spots) if own is None else np.sort(own)
        inputs = self._surroundings(np.union1d(own, self.neighbors[own][self.weights[own] > 0]))
        row = np.full(self.n_spots, -1)
        row[inputs] = np.arange(len(inputs))
        graph = coo_array(self.graph[inputs][:, inputs])
        tile = {
            "x": _float(dense(section.x[inputs])),
            "size": _float(section.exposure[inputs].sum(axis=1, keepdims=True)),
            "edge_index": torch.as_tensor(np.stack([graph.row, graph.col]).astype(np.int64)),
            "edge_weight": _float(graph.data),
            "edge_density": torch.tensor(self.edge_density),
            "own": torch.as_tensor(row[own]),
            "valid": torch.as_tensor(np.flatnonzero(section.exposure[own].ravel() > 0)),
            **self._subspots(own, row),
        }
        if section.batches is not None:
            tile["input_batch"] = _float(section.batches[inputs])
        if self.similarity is not None:
            targets = self.targets(own)
            pairs = coo_array(self.similarity[targets][:, targets])
            tile["image_edge_index"] = torch.as_tensor(np.stack([pairs.row, pairs.col]).astype(np.int64))
            tile["image_edge_weight"] = _float(pairs.data)
            tile["image_edge_density"] = torch.tensor(self.image_edge_density)
        return tile

    def block(self, own: np.ndarray) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Batch of the spots `own` for the decoder alone, in their order.

        Returns
        -------
        Rows of the spots whose latent states it needs, and ``exposure``, ``neighbors`` (rows among these),
        ``neighbor_weights``, ``features`` and ``batch`` as of :meth:`tile`.
        """
        inputs = np.unique(self.neighbors[own])
        row = np.full(self.n_spots, -1)
        row[inputs] = np.arange(len(inputs))
        return inputs, self._subspots(own, row)

    def _subspots(self, own: np.ndarray, row: np.ndarray) -> dict[str, torch.Tensor]:
        """What the decoder is given; `row` numbers the spots whose latent states are at hand."""
        subspots = {
            "exposure": _float(self.section.exposure[own]),
            "neighbors": torch.as_tensor(np.where(self.weights[own] > 0, row[self.neighbors[own]], 0)),
            "neighbor_weights": _float(self.weights[own]),
        }
        if self.section.features is not None:
            subspots["features"] = _float(self.section.features[own])
        if self.section.batches is not None:
            subspots["batch"] = _float(self.section.batches[own])
        return subspots

    def _surroundings(self, rows: np.ndarray) -> np.ndarray:
        """The spots `n_hops` edges away or less."""
        for _ in range(self.n_hops):
            if len(rows) == self.n_spots:
                break
            rows = np.union1d(rows, self.graph[rows].indices)
        return rows


def contiguous_groups(
    spatial: np.ndarray, sections: np.ndarray, size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Cut every section into as few compact groups as there can be, all of about one size.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; no group has spots of two sections.
    size
        Most spots of a group.
    rng
        Turns the axes at random before they are cut, so that borders lie elsewhere every time.

    Returns
    -------
    Rows of every group.
    """
    if rng is not None:
        angle = rng.uniform(0, np.pi)
        spatial = spatial @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    groups: list[np.ndarray] = []
    for section in np.unique(sections):
        rows = np.flatnonzero(sections == section)
        groups += _bisected(rows, spatial, -(-len(rows) // size), turned=rng is not None)
    return groups


def _bisected(rows: np.ndarray, spatial: np.ndarray, n_groups: int, *, turned: bool) -> list[np.ndarray]:
    """Cut in two across the longest side; of the axes if they have been turned at random, else of the spots."""
    if n_groups == 1:
        return [rows]
    centred = spatial[rows] - spatial[rows].mean(axis=0)
    if turned:
        along = centred[:, np.ptp(centred, axis=0).argmax()]
    else:
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        along *= np.sign((along**3).sum()) or 1  # the same end first, whatever the axes
    rows = rows[np.argsort(along, kind="stable")]
    n_first = n_groups // 2
    cut = len(rows) * n_first // n_groups
    return [
        *_bisected(rows[:cut], spatial, n_first, turned=turned),
        *_bisected(rows[cut:], spatial, n_groups - n_first, turned=turned),
    ]


def interpolation_weights(
    spatial: np.ndarray,
    subspots: np.ndarray,
    sections: np.ndarray,
    *,
    kind: Literal["gaussian", "none"] = "gaussian",
    bandwidth: float = 0.5,
    n_neighbors: int = 9,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights S that carry latent states from the spots to the subspots.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    subspots
        n_spots x n_subspots x 2 positions, NaN = padding.
    sections
        n_spots labels; a subspot is interpolated from the spots of its own section.
    kind
        ``"gaussian"``: a Gaussian kernel over the nearest spots, tapered to 0 at the next one; ``"none"``: the latent
        state of the subspot's spot, as in the paper.
    bandwidth
        Standard deviation of the kernel in units of the distance between neighbouring spots.
    n_neighbors
        Spots that a subspot is interpolated from.

    Returns
    -------
    Row numbers and weights, n_spots x n_subspots x n_neighbors each, int32 and float32; weights sum to 1, and to 0 for
    padding.
    """
    n_spots, n_subspots, _ = subspots.shape
    if kind == "none":
        parent = np.broadcast_to(np.arange(n_spots)[:, None, None], (n_spots, n_subspots, 1))
        return parent.astype(np.int32), np.isfinite(subspots[..., :1]).astype(np.float32)
    neighbors = np.zeros((n_spots, n_subspots, n_neighbors), dtype=np.int32)
    weights = np.zeros((n_spots, n_subspots, n_neighbors), dtype=np.float32)
    for section in np.unique(sections):
        rows = np.flatnonzero(sections == section)
        spot, subspot = np.nonzero(np.isfinite(subspots[rows, :, 0]))
        near = weights_at(spatial[rows], subspots[rows[spot], subspot], bandwidth=bandwidth, n_neighbors=n_neighbors)
        neighbors[rows[spot], subspot] = rows[near[0]]
        weights[rows[spot], subspot] = near[1]
    return neighbors, weights


def weights_at(
    spatial: np.ndarray,
    positions: np.ndarray,
    *,
    kind: Literal["gaussian", "none"] = "gaussian",
    bandwidth: float = 0.5,
    n_neighbors: int = 9,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights that carry latent states from the spots of one section to any positions.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    positions
        n_positions x 2.
    kind, bandwidth, n_neighbors
        As of :func:`interpolation_weights`; ``"none"`` takes the latent state of the nearest spot.

    Returns
    -------
    Row numbers and weights, n_positions x n_neighbors each; weights sum to 1.
    """
    tree = cKDTree(spatial)
    if kind == "none":
        nearest = tree.query(positions, k=[1])[1]
        return nearest, np.ones_like(nearest, dtype=np.float32)
    distance, nearest = tree.query(positions, k=range(1, n_neighbors + 2))
    weights = _tapered_kernel(distance, bandwidth * nearest_distance(spatial))
    return np.minimum(nearest[:, :-1], len(spatial) - 1), weights.astype(np.float32)


def _tapered_kernel(distance: np.ndarray, scale: float) -> np.ndarray:
    """Normalised Gaussian weights of all neighbours but the last, where the kernel is brought down to 0.

    Without the taper, which of several neighbours at one distance comes last would be chance, and the weights would
    jump. `distance` is sorted along its rows; missing neighbours are infinitely far.
    """
    # relative to the nearest: a subspot far from all spots must not underflow to nothing
    kernel = np.exp(-(distance**2 - distance[:, :1] ** 2) / (2 * scale**2))
    weight = kernel[:, :-1] - kernel[:, -1:]
    flat = weight.sum(axis=1) <= 0  # all neighbours at one distance
    weight[flat] = kernel[flat, :-1]
    return weight / weight.sum(axis=1, keepdims=True)


def batch_shares(labels: np.ndarray, batches: Sequence[str]) -> np.ndarray:
    """Which batch every spot is of: n_spots x n_batches, 1 for its own; equal shares where it is none of `batches`."""
    shares = (labels[:, None] == np.asarray(batches)).astype(np.float32)
    shares[~shares.any(axis=1)] = 1 / len(batches)
    return shares


def thin_counts(x: Matrix, fraction: float, seed: int) -> tuple[csr_matrix, csr_matrix]:
    """Split counts in two: each molecule goes to the first part with probability `fraction`, else to the second."""
    counts = csr_matrix(x, dtype=np.float32)
    kept, rest = counts.copy(), counts.copy()
    kept.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), fraction).astype(np.float32)
    rest.data -= kept.data
    return kept, rest


def _density(n_edges: float, n_nodes: int) -> float:
    return n_edges / max(n_nodes * (n_nodes - 1) / 2, 1)


def _float(x: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
