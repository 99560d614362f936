"""Correlations between features, and how much of them a prediction keeps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._validators import Choice, Rules, check_arguments, check_finite
from soscope_scverse.metrics._agreement import NEGLIGIBLE, Matrix, check_same_shape

_RULES: Rules = {"diagonal": Choice((False, True))}


class CorrelationAgreement(NamedTuple):
    """Agreement of two matrices of correlations, see :func:`correlation_agreement`."""

    r: float
    """Pearson correlation of the entries."""

    mse: float
    """Mean squared difference of the entries."""


def feature_correlations(values: Matrix) -> np.ndarray:
    """Pearson correlation of every pair of features over the targets.

    Parameters
    ----------
    values
        n_targets x n_features, finite.

    Returns
    -------
    np.ndarray
        n_features x n_features values in [-1, 1], NaN in rows and columns of constant features.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers or not finite, or are no matrix of at least two targets.
    """
    values = read.numbers_or_sparse("values", values)
    check_finite(values)
    if np.ndim(values) != 2 or values.shape[0] < 2:
        msg = f"Expected n_targets x n_features values of at least two targets, found shape {np.shape(values)}."
        raise ValueError(msg)
    x = dense(values).astype(float)
    centred = x - x.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    flat = norm <= NEGLIGIBLE * np.linalg.norm(x, axis=0)
    unit = np.where(flat, np.nan, centred) / np.where(flat, 1, norm)
    return np.clip(unit.T @ unit, -1, 1)


def correlation_agreement(prediction: Matrix, truth: Matrix, *, diagonal: bool = False) -> CorrelationAgreement:
    """Agreement of the correlations between features in a prediction with those in the truth.

    Every pair of features counts once. Pairs with a feature that is constant in the truth are ignored; correlations
    with a feature that is constant in the prediction count as 0.

    Parameters
    ----------
    prediction, truth
        n_targets x n_features.
    diagonal
        Score the complete matrices, both triangles and the ones on the diagonal, as the published code does. The ones
        agree in any case: they raise r and lower the MSE.

    Returns
    -------
    CorrelationAgreement
        ``r`` in [-1, 1] and ``mse`` in [0, 4]. r is NaN for less than two pairs or if all correlations of the truth are
        equal, and 0 if only those of the prediction are; mse is NaN without pairs.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers or not finite, or the shapes differ.

    References
    ----------
    Li, B., Bao, F., Hou, Y. et al. Tissue characterization at an enhanced resolution across spatial omics platforms
    with deep generative model. Nat. Commun. 15, 6541 (2024), Fig. 2i.
    """
    check_arguments(locals(), _RULES)
    check_same_shape(prediction, truth)
    found, known = feature_correlations(prediction), feature_correlations(truth)
    found = np.where(np.isnan(found), np.eye(len(found)), found)
    kept = ~np.isnan(known) & (True if diagonal else np.tri(len(known), k=-1, dtype=bool))
    p, t = found[kept], known[kept]
    if not len(t):
        return CorrelationAgreement(np.nan, np.nan)
    return CorrelationAgreement(_entries_r(p, t), float(((p - t) ** 2).mean()))


def _entries_r(p: np.ndarray, t: np.ndarray) -> float:
    if len(t) < 2 or np.ptp(t) <= NEGLIGIBLE:
        return np.nan
    return 0.0 if np.ptp(p) <= NEGLIGIBLE else float(np.corrcoef(p, t)[0, 1])
