"""Interpolation S of latent states from the spots to their subspots, or to any positions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from soscope_scverse.pp._graphs import nearest_distance

N_NEIGHBORS = 9
"""Spots that a position is interpolated from."""


def interpolation_weights(
    spatial: np.ndarray,
    subspots: np.ndarray,
    sections: np.ndarray,
    *,
    kind: Literal["gaussian", "none"] = "gaussian",
    bandwidth: float = 0.5,
    n_neighbors: int = N_NEIGHBORS,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights S that interpolate latent states from the spots to the subspots.

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
        state of the spot that contains the subspot, as in the paper.
    bandwidth
        Standard deviation of the kernel, in centre-to-centre distances of the spots.
    n_neighbors
        Spots that a subspot is interpolated from.

    Returns
    -------
    Row numbers and weights, n_spots x n_subspots x n_neighbors (1 for ``"none"``) each, int32 and float32; weights sum
    to 1, and to 0 for padding.
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
    n_neighbors: int = N_NEIGHBORS,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights that interpolate latent states from the spots of one section to any positions.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    positions
        n_positions x 2.
    kind, bandwidth, n_neighbors
        See :func:`interpolation_weights`; ``"none"`` takes the latent state of the nearest spot.

    Returns
    -------
    Row numbers and weights, n_positions x n_neighbors (1 for ``"none"``) each; weights sum to 1.
    """
    tree = cKDTree(spatial)
    if kind == "none":
        nearest = tree.query(positions, k=[1])[1]
        return nearest, np.ones_like(nearest, dtype=np.float32)
    distance, nearest = tree.query(positions, k=range(1, n_neighbors + 2))
    weights = _tapered_kernel(distance, bandwidth * nearest_distance(spatial))
    return np.minimum(nearest[:, :-1], len(spatial) - 1), weights.astype(np.float32)


def _tapered_kernel(distance: np.ndarray, scale: float) -> np.ndarray:
    """Normalised Gaussian weights of all neighbours but the last, where the kernel is tapered to 0.

    Without the taper, the weights would jump where two neighbours at equal distance change order.

    Parameters
    ----------
    distance
        n_positions x (n_neighbors + 1), sorted along rows; infinite for missing neighbours.
    scale
        Standard deviation of the kernel.
    """
    # relative to the nearest: weights of a subspot far from all spots must not underflow to 0
    kernel = np.exp(-(distance**2 - distance[:, :1] ** 2) / (2 * scale**2))
    weight = kernel[:, :-1] - kernel[:, -1:]
    flat = weight.sum(axis=1) <= 0  # all neighbours at one distance
    weight[flat] = kernel[flat, :-1]
    return weight / weight.sum(axis=1, keepdims=True)
