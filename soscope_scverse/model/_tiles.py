"""Batches of a section: dictionaries of tensors for the module."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_array, csr_matrix

from soscope_scverse._arrays import dense
from soscope_scverse.model._interpolation import interpolation_weights
from soscope_scverse.model._section import Section
from soscope_scverse.pp._graphs import image_similarity


class Tiles:
    """A section partitioned into batches, each with the surroundings that its spots need.

    The latent state of a spot depends on the spots up to `n_hops` edges away, and a subspot on the latent states of the
    spots that it is interpolated from. A tile contains all of these, so predictions for its own spots are invariant to
    the tiling.

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
        valid = section.is_subspot
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

    def of(self, section: Section) -> Tiles:
        """Return the batches of the same spots with other profiles or a kriged field."""
        tiles = copy.copy(self)
        tiles.section = section
        return tiles

    @property
    def n_spots(self) -> int:
        """Spots of the section."""
        return len(self.section.spatial)

    @property
    def n_targets(self) -> int:
        """Valid subspots of the section."""
        return int(self.first_target[-1])

    def targets(self, own: np.ndarray) -> np.ndarray:
        """Indices of the valid subspots of the spots `own` among those of the section."""
        return np.concatenate([np.arange(self.first_target[n], self.first_target[n + 1]) for n in own])

    def tile(self, own: np.ndarray | None = None, *, hidden: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """Batch of the spots `own`; None is the whole section.

        Parameters
        ----------
        own
            Rows of spots.
        hidden
            n_spots flags of spots whose profiles the encoder is not to see.

        Returns
        -------
        ``x``
            n_inputs x n_features profiles of the own spots and their surroundings.
        ``size``
            n_inputs x 1 relative sizes of the same spots.
        ``edge_index``, ``edge_weight``
            2 x n_edges and n_edges: A between them, in both directions.
        ``edge_density``
            Share of all pairs of spots of the section that are edges of A.
        ``own``
            n_own rows of the own spots among the inputs.
        ``hidden``
            n_inputs flags, if there are `hidden` ones.
        ``exposure``, ``area``
            n_own x n_subspots; areas where spots captured a part of their subspots only.
        ``neighbors``, ``neighbor_weights``
            n_own x n_subspots x n_neighbors: S, the interpolation of latent states, as rows among the inputs.
        ``valid``
            Indices of the subspots that are not padding in the flattened n_own x n_subspots.
        ``features``
            n_own x n_subspots x n_image_components, with an image.
        ``kriged``
            n_own x n_subspots x n_components, after a training.
        ``input_batch``, ``batch``
            n_inputs x n_batches and n_own x n_batches shares, with a batch covariate.
        ``image_edge_index``, ``image_edge_weight``, ``image_edge_density``, ``n_targets``
            2 x n_pairs and n_pairs: W, every touching pair of valid own subspots once; share of all pairs of subspots
            of the section that are edges of W; number of these subspots. With an image.
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
            "valid": torch.as_tensor(np.flatnonzero(section.area[own] > 0)),
            **self._subspots(own, row),
        }
        if hidden is not None:
            tile["hidden"] = torch.as_tensor(hidden[inputs])
        if section.batches is not None:
            tile["input_batch"] = _float(section.batches[inputs])
        if self.similarity is not None:
            targets = self.targets(own)
            pairs = coo_array(self.similarity[targets][:, targets])
            tile["image_edge_index"] = torch.as_tensor(np.stack([pairs.row, pairs.col]).astype(np.int64))
            tile["image_edge_weight"] = _float(pairs.data)
            tile["image_edge_density"] = torch.tensor(self.image_edge_density)
            tile["n_targets"] = torch.tensor(float(self.n_targets))
        return tile

    def block(self, own: np.ndarray) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        """Batch of the spots `own` for the decoder alone, in their order.

        Returns
        -------
        Rows of the spots whose latent states it needs, and ``exposure``, ``area``, ``neighbors`` (rows among these),
        ``neighbor_weights``, ``features``, ``kriged`` and ``batch``, see :meth:`tile`.
        """
        inputs = np.unique(self.neighbors[own])
        row = np.full(self.n_spots, -1)
        row[inputs] = np.arange(len(inputs))
        return inputs, self._subspots(own, row)

    def _subspots(self, own: np.ndarray, row: np.ndarray) -> dict[str, torch.Tensor]:
        """Inputs of the decoder; `row` is the row of every spot among the latent states at hand."""
        subspots = {
            "exposure": _float(self.section.exposure[own]),
            "neighbors": torch.as_tensor(np.where(self.weights[own] > 0, row[self.neighbors[own]], 0)),
            "neighbor_weights": _float(self.weights[own]),
        }
        if self.section.has_gaps:
            subspots["area"] = _float(self.section.area[own])
        if self.section.features is not None:
            subspots["features"] = _float(self.section.features[own])
        if self.section.kriged is not None:
            subspots["kriged"] = _float(self.section.kriged[own])
        if self.section.batches is not None:
            subspots["batch"] = _float(self.section.batches[own])
        return subspots

    def _surroundings(self, rows: np.ndarray) -> np.ndarray:
        """The spots at most `n_hops` edges away."""
        for _ in range(self.n_hops):
            if len(rows) == self.n_spots:
                break
            rows = np.union1d(rows, self.graph[rows].indices)
        return rows


def contiguous_groups(
    spatial: np.ndarray, sections: np.ndarray, size: int, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """Partition every section into the smallest number of compact groups of about equal size.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; no group has spots of two sections.
    size
        Largest number of spots of a group.
    rng
        Rotates the axes at random before the partition, so that borders differ between calls.

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
        groups += _bisected(rows, spatial, -(-len(rows) // size), rotated=rng is not None)
    return groups


def _bisected(rows: np.ndarray, spatial: np.ndarray, n_groups: int, *, rotated: bool) -> list[np.ndarray]:
    """Bisect across the longest side: of the axes if they were rotated at random, else of the principal axes."""
    if n_groups == 1:
        return [rows]
    centred = spatial[rows] - spatial[rows].mean(axis=0)
    if rotated:
        along = centred[:, np.ptp(centred, axis=0).argmax()]
    else:
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        along *= np.sign((along**3).sum()) or 1  # invariant to the direction of the axes
    rows = rows[np.argsort(along, kind="stable")]
    n_first = n_groups // 2
    cut = len(rows) * n_first // n_groups
    return [
        *_bisected(rows[:cut], spatial, n_first, rotated=rotated),
        *_bisected(rows[cut:], spatial, n_groups - n_first, rotated=rotated),
    ]


def _density(n_edges: float, n_nodes: int) -> float:
    return n_edges / max(n_nodes * (n_nodes - 1) / 2, 1)


def _float(x: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
