"""Image features as the networks see them: standardised, and those of wide encoders reduced once for all steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from soscope_scverse._arrays import spread

_MOST_SAMPLED = 20_000  # subspots that the moments are taken from
_CHUNK_VALUES = 1_000_000


class Projection(NamedTuple):
    """Image features y become (y - mean) @ matrix."""

    mean: np.ndarray
    """n_image_features."""
    matrix: np.ndarray
    """n_image_features x n_image_components."""

    def __call__(self, features: np.ndarray, spots: np.ndarray) -> np.ndarray:
        """Projected features of some spots, a chunk at a time.

        Parameters
        ----------
        features
            n_spots x n_subspots x n_image_features of any floating type.
        spots
            Rows to project, in this order.

        Returns
        -------
        n_rows x n_subspots x n_image_components float32.
        """
        _, n_subspots, width = features.shape
        mean, matrix = self.mean.astype(np.float32), self.matrix.astype(np.float32)
        projected = np.empty((len(spots), n_subspots, matrix.shape[1]), np.float32)
        size = max(1, _CHUNK_VALUES // (n_subspots * width))
        for start in range(0, len(spots), size):
            part = slice(start, start + size)
            projected[part] = (np.asarray(features[spots[part]], np.float32) - mean) @ matrix
        return projected


def fit_projection(features: np.ndarray, valid: np.ndarray, n_components: int, spots: np.ndarray) -> Projection:
    """Standardise image features and reduce those that are wider than `n_components` to their principal components.

    The components are turned by a random rotation that is always the same. Dropping single features at random, as the
    decoder does in training, is then the same ridge penalty in every direction of the reduced space, so that a
    component counts as much as it varies; dropping principal components would penalise the strong ones as much as the
    weak.

    Parameters
    ----------
    features
        n_spots x n_subspots x n_image_features.
    valid
        n_spots x n_subspots, False for padding.
    n_components
        Most features that the networks see.
    spots
        Rows in the order in which they are looked at, of which the result depends by rounding alone.
    """
    width = features.shape[2]
    spot, subspot = np.nonzero(valid[spots])
    sample = spread(len(spot), _MOST_SAMPLED)
    spot, subspot = spots[spot[sample]], subspot[sample]

    mean = sum(chunk.sum(axis=0) for chunk in _chunks(features, spot, subspot)) / len(spot)
    square = sum(((chunk - mean) ** 2).sum(axis=0) for chunk in _chunks(features, spot, subspot)) / len(spot)
    scale = np.maximum(np.sqrt(square), 1e-6)
    if width <= n_components:
        return Projection(mean, np.diag(1 / scale))

    correlation = np.zeros((width, width))
    for chunk in _chunks(features, spot, subspot):
        standard = ((chunk - mean) / scale).astype(np.float32)
        correlation += standard.T @ standard
    variance, components = eigh(correlation / len(spot), subset_by_index=(width - n_components, width - 1))
    components *= np.sign(components[np.abs(components).argmax(axis=0), np.arange(n_components)])
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((n_components, n_components)))[0]
    unit = np.sqrt(max(variance.mean(), 1e-12))
    return Projection(mean, components @ rotation / (unit * scale[:, None]))


def _chunks(features: np.ndarray, spot: np.ndarray, subspot: np.ndarray) -> Iterator[np.ndarray]:
    """Features of single subspots, n x n_image_features float64."""
    size = max(1, _CHUNK_VALUES // features.shape[2])
    for start in range(0, len(spot), size):
        part = slice(start, start + size)
        yield features[spot[part], subspot[part]].astype(float)
