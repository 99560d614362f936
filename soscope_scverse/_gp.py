"""Exact Gaussian processes that are diagonalised once for all features and variances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TINY = 1e-12


def log_likelihood(square: np.ndarray, log_determinant: np.ndarray) -> np.ndarray:
    """Log marginal likelihood of zero-mean values y with covariance K, without its constant.

    Parameters
    ----------
    square
        Quadratic form of y with the inverse of K.
    log_determinant
        That of K.
    """
    return -0.5 * (square + log_determinant)


class SpectralProcess:
    r"""Gaussian processes that share one correlation R, diagonalised once for any number of features and variances.

    The covariance of a feature in a group is smooth R + noise I. With the eigenvectors Q and eigenvalues
    :math:`\lambda_i` of R, its quadratic form is :math:`\sum_i (Q^\top y)_i^2 / v_i` and its log determinant
    :math:`\sum_i \log v_i`, where :math:`v_i` = smooth :math:`\lambda_i` + noise (Rasmussen & Williams, Gaussian
    Processes for Machine Learning, 2006, chapter 5).

    Parameters
    ----------
    correlations
        R of every group, n_group x n_group each.
    rows
        Rows of the values of every group; each row belongs to one group.
    values
        n_points x n_features, of mean 0.
    """

    def __init__(self, correlations: Sequence[np.ndarray], rows: Sequence[np.ndarray], values: np.ndarray) -> None:
        self.rows = list(rows)
        self.values = values
        self.eigenvalues, self.vectors, self.rotated = [], [], []
        for own, correlation in zip(self.rows, correlations, strict=True):
            eigenvalues, vectors = np.linalg.eigh(correlation)
            self.eigenvalues.append(np.maximum(eigenvalues, 0))
            self.vectors.append(vectors)
            self.rotated.append(vectors.T @ values[own])

    def log_likelihood(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log marginal likelihood for each share of the variance that is smooth, at the most likely total variance.

        Parameters
        ----------
        shares
            n_shares in (0, 1): smooth is this share of the total variance, noise the rest.

        Returns
        -------
        The log likelihood without its constant and the total variance, n_shares x n_features each.
        """
        square = np.zeros((len(shares), self.values.shape[1]))
        log_determinant = np.zeros((len(shares), 1))
        for eigenvalues, rotated in zip(self.eigenvalues, self.rotated, strict=True):
            spectrum = np.outer(shares, eigenvalues) + (1 - shares)[:, None]
            square += (1 / spectrum) @ rotated**2
            log_determinant += np.log(spectrum).sum(axis=1, keepdims=True)
        n = len(self.values)
        total = np.maximum(square / n, TINY)
        return log_likelihood(n * np.log(total), log_determinant), total

    def weights(self, smooth: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Inverse of the covariance times the values, n_points x n_features.

        Correlations of other points with these, times `smooth` and these weights, predict the smooth part there.

        Parameters
        ----------
        smooth, noise
            n_features variances.
        """
        weights = np.empty_like(self.values)
        for rows, eigenvalues, vectors, rotated in self._groups():
            weights[rows] = vectors @ (rotated * _inverse(eigenvalues, smooth, noise))
        return weights

    def fitted(self, smooth: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Expected smooth part at every point given all values, n_points x n_features."""
        return self.values - noise * self.weights(smooth, noise)

    def left_out(self, smooth: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the smooth part at every point given the values of all other points."""
        precision = np.empty_like(self.values)
        for rows, eigenvalues, vectors, _ in self._groups():
            precision[rows] = vectors**2 @ _inverse(eigenvalues, smooth, noise)
        mean = self.values - self.weights(smooth, noise) / precision
        return mean, np.maximum(1 / precision - noise, TINY)

    def _groups(self) -> zip:
        return zip(self.rows, self.eigenvalues, self.vectors, self.rotated, strict=True)


def _inverse(eigenvalues: np.ndarray, smooth: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Inverse eigenvalues of the covariances, n_group x n_features."""
    return 1 / (np.outer(eigenvalues, smooth) + noise)
