"""Batches of a section: dictionaries of tensors that the module understands.

A section is one tile so far. All row-wise tensors follow the order of the spots given.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array, csr_matrix
from scipy.spatial import cKDTree

from soscope_scverse._arrays import Matrix, dense
from soscope_scverse.pp.graphs import image_similarity, nearest_distance


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
    """n_spots x n_subspots shares."""
    features: np.ndarray | None
    """n_spots x n_subspots x n_image_features."""
    sections: np.ndarray
    """n_spots labels."""

    def reorder(self, rows: np.ndarray) -> Section:
        """The same spots in another order."""
        return Section(
            x=self.x[rows],
            graph=csr_matrix(self.graph)[rows][:, rows],
            spatial=self.spatial[rows],
            subspots=self.subspots[rows],
            exposure=self.exposure[rows],
            features=None if self.features is None else self.features[rows],
            sections=self.sections[rows],
        )


def full_tile(
    section: Section,
    *,
    interpolation: Literal["gaussian", "none"],
    bandwidth: float,
    similarity_strength: float | None = None,
) -> dict[str, torch.Tensor]:
    """All spots as one batch.

    Parameters
    ----------
    section
        The spots.
    interpolation, bandwidth
        See :func:`interpolation_weights`.
    similarity_strength
        s of the image similarity W; None leaves W out.

    Returns
    -------
    ``x``
        n_spots x n_features.
    ``edge_index``, ``edge_weight``
        2 x n_edges and n_edges: A, both directions.
    ``exposure``
        n_spots x n_subspots.
    ``neighbors``, ``neighbor_weights``
        n_spots x n_subspots x n_neighbors: S, the interpolation of latent states.
    ``valid``
        Numbers of the subspots that are not padding, counted through n_spots x n_subspots.
    ``features``
        n_spots x n_subspots x n_image_features, with a picture.
    ``image_edge_index``, ``image_edge_weight``
        2 x n_pairs and n_pairs: W, every touching pair of valid subspots once, with a picture.
    """
    graph = coo_array(section.graph)
    neighbors, weights = interpolation_weights(
        section.spatial, section.subspots, section.sections, kind=interpolation, bandwidth=bandwidth
    )
    valid = np.flatnonzero(section.exposure.ravel() > 0)
    tile = {
        "x": _float(dense(section.x)),
        "edge_index": torch.as_tensor(np.stack([graph.row, graph.col]).astype(np.int64)),
        "edge_weight": _float(graph.data),
        "exposure": _float(section.exposure),
        "neighbors": torch.as_tensor(neighbors),
        "neighbor_weights": _float(weights),
        "valid": torch.as_tensor(valid),
    }
    if section.features is not None:
        tile["features"] = _float(section.features)
        if similarity_strength is not None:
            flat = section.features.reshape(-1, section.features.shape[-1])[valid]
            scale = flat.std(axis=0)
            sections = np.repeat(section.sections, section.exposure.shape[1])[valid]
            i, j, weight = image_similarity(
                section.subspots.reshape(-1, 2)[valid],
                flat / np.where(scale > 0, scale, 1),
                sections,
                similarity_strength,
            )
            tile["image_edge_index"] = torch.as_tensor(np.stack([i, j]))
            tile["image_edge_weight"] = _float(weight)
    return tile


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
    Row numbers and weights, n_spots x n_subspots x n_neighbors each; weights sum to 1, and to 0 for padding.
    """
    n_spots, n_subspots, _ = subspots.shape
    if kind == "none":
        parent = np.broadcast_to(np.arange(n_spots)[:, None, None], (n_spots, n_subspots, 1))
        return parent.copy(), np.isfinite(subspots[..., :1]).astype(float)
    neighbors = np.zeros((n_spots, n_subspots, n_neighbors), dtype=np.int64)
    weights = np.zeros((n_spots, n_subspots, n_neighbors))
    for section in np.unique(sections):
        rows = np.flatnonzero(sections == section)
        scale = bandwidth * nearest_distance(spatial[rows])
        spot, subspot = np.nonzero(np.isfinite(subspots[rows, :, 0]))
        distance, nearest = cKDTree(spatial[rows]).query(subspots[rows[spot], subspot], k=range(1, n_neighbors + 2))
        neighbors[rows[spot], subspot] = rows[np.minimum(nearest[:, :-1], len(rows) - 1)]
        weights[rows[spot], subspot] = _tapered_kernel(distance, scale)
    return neighbors, weights


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


def thin_counts(x: Matrix, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split counts in two: each molecule goes to the first part with probability `fraction`, else to the second."""
    counts = dense(x)
    kept = np.random.default_rng(seed).binomial(counts.astype(np.int64), fraction).astype(np.float32)
    return kept, counts - kept


def _float(x: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
