"""Agreement of predicted subspots with a known truth, for each feature.

All functions take n_targets x n_features matrices, dense or scipy sparse, and return one value per feature. Sparse
matrices are converted to dense ones in blocks of columns, so a whole transcriptome can be scored without a dense copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csc_matrix, csr_matrix, diags, issparse, sparray, spmatrix

from soscope_scverse import _read as read

Matrix: TypeAlias = np.ndarray | spmatrix | sparray

BLOCK = 512
"""Number of features that are converted to dense arrays at a time."""
NEGLIGIBLE = 1e-10
"""Share of the norm of a column below which its variation is rounding error."""


def pearson(prediction: Matrix, truth: Matrix) -> np.ndarray:
    """Pearson correlation of prediction and truth over the targets.

    Parameters
    ----------
    prediction, truth
        n_targets x n_features.

    Returns
    -------
    np.ndarray
        n_features values in [-1, 1]. NaN where the truth is constant; 0 where only the prediction is constant, so that
        uninformative predictions are included in averages.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, or the shapes differ.

    References
    ----------
    Pearson, K. Notes on regression and inheritance in the case of two parents. Proc. R. Soc. 58, 240 (1895).
    """
    return per_feature(_correlation, prediction, truth)


def mse(prediction: Matrix, truth: Matrix) -> np.ndarray:
    """Mean squared error after scaling prediction and truth of each feature to [0, 1].

    Parameters
    ----------
    prediction, truth
        n_targets x n_features.

    Returns
    -------
    np.ndarray
        n_features values in [0, 1]. NaN where the truth is constant; a constant prediction is scaled to 0.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, or the shapes differ.

    References
    ----------
    Li, B., Bao, F., Hou, Y. et al. Tissue characterization at an enhanced resolution across spatial omics platforms
    with deep generative model. Nat. Commun. 15, 6541 (2024).
    """
    return per_feature(_scaled_error, prediction, truth)


def within_r(prediction: Matrix, truth: Matrix, spot: ArrayLike) -> np.ndarray:
    """Pearson correlation of prediction and truth after subtracting each spot's mean.

    It measures resolution alone, since differences between spots cancel: a prediction that is constant within spots
    scores 0.

    Parameters
    ----------
    prediction, truth
        n_targets x n_features.
    spot
        n_targets labels of the low-resolution spot of each target.

    Returns
    -------
    np.ndarray
        n_features values in [-1, 1]. NaN where the truth is constant within all spots; 0 where only the prediction is.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, the shapes differ, or ``spot`` does not have one label per target.

    Notes
    -----
    It is the within-group correlation of the analysis of covariance (Fisher, R. A. Statistical Methods for Research
    Workers, 1925).
    """
    labels, n_targets = np.asarray(spot).ravel(), n_rows(prediction)
    if len(labels) != n_targets:
        msg = f"Expected one `spot` label for each of the {n_targets} targets, found {len(labels)}."
        raise ValueError(msg)
    _, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))))
    mean = diags(1 / counts) @ members

    def correlation(p: np.ndarray, t: np.ndarray) -> np.ndarray:
        return _cosine(p - (mean @ p)[group], t - (mean @ t)[group], p, t)

    return per_feature(correlation, prediction, truth)


def normalized_pearson(prediction: Matrix, truth: Matrix) -> np.ndarray:
    """Pearson correlation after dividing prediction and truth by the library size of each target.

    It excludes variation of the library size, which is shared by all features and easy to predict. Targets without
    counts remain 0.

    Parameters
    ----------
    prediction, truth
        n_targets x n_features, non-negative.

    Returns
    -------
    np.ndarray
        n_features values in [-1, 1]; for NaN and 0 see :func:`pearson`.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, or the shapes differ.
    """
    return pearson(_shares(prediction), _shares(truth))


def normalized_within_r(prediction: Matrix, truth: Matrix, spot: ArrayLike) -> np.ndarray:
    """Pearson correlation within spots after dividing prediction and truth by the library size of each target.

    The strictest of the four correlations: neither differences between spots nor the library sizes of the targets
    within a spot, which all features share, contribute. Targets without counts remain 0.

    Parameters
    ----------
    prediction, truth
        n_targets x n_features, non-negative.
    spot
        n_targets labels of the low-resolution spot of each target.

    Returns
    -------
    np.ndarray
        n_features values in [-1, 1]; for NaN and 0 see :func:`within_r`.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, the shapes differ, or ``spot`` does not have one label per target.
    """
    return within_r(_shares(prediction), _shares(truth), spot)


def ks_distance(values: Matrix, inside: ArrayLike) -> np.ndarray:
    """Kolmogorov-Smirnov distance of each feature between the targets inside and outside a region.

    Parameters
    ----------
    values
        n_targets x n_features.
    inside
        n_targets booleans, True in the region.

    Returns
    -------
    np.ndarray
        n_features values in [0, 1], the largest difference between the two empirical distribution functions; NaN for
        features with NaN.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, ``inside`` does not have one boolean per target, or the region contains no
        target or all targets.

    References
    ----------
    Smirnov, N. Table for estimating the goodness of fit of empirical distributions. Ann. Math. Stat. 19, 279 (1948).
    """
    values = read.numbers_or_sparse("values", values)
    region, n_targets = np.asarray(inside).ravel(), values.shape[0] if values.ndim else 0
    if region.dtype != bool or len(region) != n_targets:
        msg = f"Expected `inside` to be {n_targets} booleans, found {len(region)} values of type {region.dtype}."
        raise ValueError(msg)
    n_inside = int(region.sum())
    if n_inside in (0, len(region)):
        msg = f"Expected a region with targets inside and outside, found {n_inside} of {len(region)} targets inside."
        raise ValueError(msg)
    step = np.where(region, 1 / n_inside, -1 / (len(region) - n_inside))

    def distance(x: np.ndarray) -> np.ndarray:
        order = np.argsort(x, axis=0)
        ordered = np.take_along_axis(x, order, axis=0)
        difference = np.abs(np.cumsum(step[order], axis=0))
        difference[:-1][ordered[1:] == ordered[:-1]] = 0  # ties: only the last of equal values counts
        return np.where(np.isnan(ordered[-1]), np.nan, np.minimum(difference.max(axis=0), 1))

    return per_feature(distance, values)


def coverage(truth: Matrix, lower: Matrix, upper: Matrix) -> np.ndarray:
    """Share of the true values within their predicted intervals, bounds included.

    Parameters
    ----------
    truth, lower, upper
        n_targets x n_features. Calibrated 90 % intervals have a coverage of 0.9.

    Returns
    -------
    np.ndarray
        n_features values in [0, 1]; NaN for features with NaN in any of the three.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, the shapes differ, or a lower bound exceeds its upper bound.
    """

    def share(t: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        if (low > high).any():
            msg = "Expected `lower` <= `upper`, found lower bounds above their upper bounds. Are the arguments swapped?"
            raise ValueError(msg)
        covered = ((low <= t) & (t <= high)).mean(axis=0)
        return np.where(np.isnan(t + low + high).any(axis=0), np.nan, covered)

    return per_feature(share, truth, lower, upper)


def n_rows(values: Matrix) -> int:
    """Number of rows of a matrix or anything convertible to one; 0 for scalars."""
    return (*np.shape(values), 0)[0]


def check_same_shape(*matrices: Matrix) -> None:
    """Raise a ValueError unless all are n_targets x n_features of one shape, with targets."""
    shapes = [np.shape(matrix) for matrix in matrices]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][0] == 0:
        msg = f"Expected matrices of one shape, n_targets x n_features with n_targets > 0, found {shapes}."
        raise ValueError(msg)


def per_feature(function: Callable[..., np.ndarray], *matrices: Matrix) -> np.ndarray:
    """Apply a function of dense float64 columns to blocks of columns and concatenate the results.

    Parameters
    ----------
    function
        Takes one n_targets x n_columns array per matrix, returns n_columns values.
    *matrices
        n_targets x n_features, dense or sparse, all of the same shape.

    Returns
    -------
    np.ndarray
        n_features values.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, the matrices are not two-dimensional or their shapes differ.
    """
    columns = [csc_matrix(matrix) if issparse(matrix) else read.numbers("values", matrix) for matrix in matrices]
    check_same_shape(*columns)
    blocks = [slice(start, start + BLOCK) for start in range(0, columns[0].shape[1], BLOCK)]
    results = [function(*(_dense(matrix[:, block]) for matrix in columns)) for block in blocks]
    return np.concatenate(results) if results else np.empty(0)


def _dense(matrix: Matrix) -> np.ndarray:
    array = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
    return np.asarray(array, dtype=float)


def _shares(matrix: Matrix) -> Matrix:
    """Divide each row by its total; rows without counts remain 0."""
    matrix = read.numbers_or_sparse("values", matrix)
    if np.ndim(matrix) != 2:
        return matrix  # rejected by the caller
    total = np.asarray(matrix.sum(axis=1), dtype=float).ravel()
    scale = np.divide(1, total, out=np.zeros_like(total), where=total != 0)
    return diags(scale) @ matrix if issparse(matrix) else scale[:, None] * np.asarray(matrix)


def _correlation(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    return _cosine(p - p.mean(axis=0), t - t.mean(axis=0), p, t)


def _cosine(p: np.ndarray, t: np.ndarray, whole_p: np.ndarray, whole_t: np.ndarray) -> np.ndarray:
    """Cosine of the columns of two sets of residuals; those negligible relative to ``whole`` are treated as 0."""
    norm_p, norm_t = np.linalg.norm(p, axis=0), np.linalg.norm(t, axis=0)
    flat_p = norm_p <= NEGLIGIBLE * np.linalg.norm(whole_p, axis=0)
    flat_t = norm_t <= NEGLIGIBLE * np.linalg.norm(whole_t, axis=0)
    scale = np.where(flat_p | flat_t, 1, norm_p * norm_t)
    cosine = np.where(flat_p, 0, np.clip((p * t).sum(axis=0) / scale, -1, 1))
    return np.where(flat_t, np.nan, cosine)


def _scaled_error(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    error = ((_unit_range(p) - _unit_range(t)) ** 2).mean(axis=0)
    return np.where(np.ptp(t, axis=0) == 0, np.nan, error)


def _unit_range(x: np.ndarray) -> np.ndarray:
    span = np.ptp(x, axis=0)
    return (x - x.min(axis=0)) / np.where(span == 0, 1, span)
