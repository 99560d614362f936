"""Marginal likelihood of Gaussian processes of signal and noise, for all features and signal shares at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ShareGrid(NamedTuple):
    r"""Quadratic forms and determinants of the covariances s K + (1 - s) I over a grid of signal shares s.

    With the eigenvectors Q and eigenvalues :math:`\lambda_i` of K,

    .. math:: y^\top (s K + (1 - s) I)^{-1} y = \sum_i \frac{(Q^\top y)_i^2}{v_i}, \qquad
        \log |s K + (1 - s) I| = \sum_i \log v_i, \qquad v_i = s \lambda_i + 1 - s

    so that one decomposition of K serves all features and all shares (Rasmussen & Williams, Gaussian Processes for
    Machine Learning, 2006, chapter 5).
    """

    vectors: np.ndarray
    """Q, n x n."""
    rotated: np.ndarray
    """Q^T y, n x n_features."""
    variances: np.ndarray
    """v, n_shares x n."""
    square: np.ndarray
    """Quadratic forms, n_shares x n_features."""
    log_determinant: np.ndarray
    """n_shares x 1."""


def share_grid(covariance: np.ndarray, values: np.ndarray, shares: np.ndarray) -> ShareGrid:
    """Decompose the covariance of the signal and evaluate it for all signal shares.

    Parameters
    ----------
    covariance
        K, n x n, with ones on the diagonal.
    values
        n x n_features.
    shares
        n_shares shares of the variance that is signal, below 1.
    """
    eigenvalues, vectors = np.linalg.eigh(covariance)
    variances = np.outer(shares, eigenvalues) + (1 - shares)[:, None]
    rotated = vectors.T @ values
    square = (1 / variances) @ rotated**2
    return ShareGrid(vectors, rotated, variances, square, np.log(variances).sum(axis=1, keepdims=True))


def profile_log_likelihood(scale: np.ndarray, log_determinant: np.ndarray, n: int) -> np.ndarray:
    """Log likelihood, up to a constant, of n values at the most likely total variance `scale`, the square over n."""
    return -0.5 * (n * np.log(scale) + log_determinant)
