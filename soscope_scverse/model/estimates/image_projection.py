"""Projection of the image features: standardised, and reduced once where they are wide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

from soscope_scverse._arrays import spread
from soscope_scverse.module.vae import SoScopeVAE

_MOST_SAMPLED = 20_000  # subspots that the moments are taken from
_CHUNK_VALUES = 250_000


class Projection(NamedTuple):
    """Image features y become (y - mean) @ matrix."""

    mean: np.ndarray
    """n_image_features."""
    matrix: np.ndarray
    """n_image_features x n_image_components."""

    def __call__(self, features: np.ndarray, spots: np.ndarray) -> np.ndarray:
        """Projected features of some spots, in chunks.

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


def projection_of(module: SoScopeVAE) -> Projection:
    """Projection that a module was trained with."""
    return Projection(module.image_mean.cpu().numpy(), module.image_projection.cpu().numpy())


def set_projection(module: SoScopeVAE, features: np.ndarray, valid: np.ndarray, spots: np.ndarray) -> None:
    """Fit the projection of a module; `features`, `valid` and `spots` as in :func:`fit_projection`."""
    projection = fit_projection(features, valid, module.image_projection.shape[1], spots)
    module.image_mean.copy_(torch.as_tensor(projection.mean))
    module.image_projection.copy_(torch.as_tensor(projection.matrix))


def fit_projection(features: np.ndarray, valid: np.ndarray, n_components: int, spots: np.ndarray) -> Projection:
    """Standardise image features and reduce those that are wider than `n_components` to their principal components.

    The components are rotated to equal variance. Dropping single ones at random, as the decoder does in training, is
    then a ridge penalty of equal strength in every direction of the reduced space, as it is for standardised features
    that are not reduced; dropping principal components would shrink strong and weak ones alike.

    Parameters
    ----------
    features
        n_spots x n_subspots x n_image_features.
    valid
        n_spots x n_subspots, False for padding.
    n_components
        Largest number of features after the reduction.
    spots
        Rows in the order of the computation, which affects the result by rounding only.
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

    correlation = np.zeros((width, width), np.float32, order="F")  # its upper triangle, filled in place
    for chunk in _chunks(features, spot, subspot):
        standard = ((chunk - mean) / scale).astype(np.float32)
        correlation = ssyrk(1 / len(spot), standard, beta=1, c=correlation, trans=1, overwrite_c=1)
    largest = width - n_components, width - 1
    variance, components = eigh(correlation, lower=False, overwrite_a=True, subset_by_index=largest)
    components *= np.sign(components[np.abs(components).argmax(axis=0), np.arange(n_components)])
    unit = np.sqrt(max(variance.mean(), 1e-12))
    return Projection(mean, components @ levelling_rotation(variance) / (unit * scale[:, None]))


def levelling_rotation(variance: np.ndarray) -> np.ndarray:
    """Rotation of uncorrelated coordinates to ones that all have the mean variance.

    Successive plane rotations each bring one coordinate to the mean (Chan and Li, Diagonal elements and eigenvalues
    of a real symmetric matrix, 1983).

    Returns
    -------
    n x n; coordinates are rows times this.
    """
    covariance, mean = np.diag(variance).astype(float), variance.mean(dtype=float)
    rotation, left = np.eye(len(variance)), np.arange(len(variance))
    while len(left) > 1:
        diagonal = covariance[left, left]
        high, low = left[diagonal.argmax()], left[diagonal.argmin()]
        above, below = covariance[high, high] - mean, mean - covariance[low, low]
        if above <= 0 or below <= 0:
            break
        # tangent t with below t^2 - 2 c t - above = 0 for the covariance c of the two
        both = covariance[high, low]
        tangent = (both - np.sqrt(both**2 + above * below)) / below
        cosine = 1 / np.hypot(1, tangent)
        plane, turn = [high, low], cosine * np.array([[1, -tangent], [tangent, 1]])
        covariance[:, plane] = covariance[:, plane] @ turn
        covariance[plane] = turn.T @ covariance[plane]
        rotation[:, plane] = rotation[:, plane] @ turn
        left = left[left != high]
    return rotation


def _chunks(features: np.ndarray, spot: np.ndarray, subspot: np.ndarray) -> Iterator[np.ndarray]:
    """Features of single subspots, n x n_image_features float64."""
    size = max(1, _CHUNK_VALUES // features.shape[2])
    for start in range(0, len(spot), size):
        part = slice(start, start + size)
        yield features[spot[part], subspot[part]].astype(float)
