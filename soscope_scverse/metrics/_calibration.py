"""Whether the spread of draws is that of their errors."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from soscope_scverse import _validation as check
from soscope_scverse._arrays import dense
from soscope_scverse.metrics._agreement import Matrix

_VALUES_AT_ONCE = 50_000_000


def pit(truth: Matrix, draws: Any, *, seed: int = 0) -> np.ndarray:
    r"""Randomised probability integral transform: where the truth lies among draws of it.

    .. math:: u = \frac{\#\{x^{(i)} < x\} + v \, (1 + \#\{x^{(i)} = x\})}{1 + n}, \qquad v \sim \mathrm{uniform}(0, 1)

    for the truth x and n draws. The truth is counted among the draws that equal it, so that u is exactly uniform
    if truth and draws come from one distribution, whatever the number of draws and of ties.

    Parameters
    ----------
    truth
        n_targets x n_features, dense or sparse.
    draws
        n_samples x n_targets x n_features, as :meth:`~soscope_scverse.model.SoScope.sample_enhanced` returns them. It
        is sliced a few targets at a time, so it may be a zarr or dask array on disk.
    seed
        Seed of v.

    Returns
    -------
    np.ndarray
        n_targets x n_features values in (0, 1), NaN where the truth or a draw is. Uniform for calibrated draws; many
        near 0 and 1 if they spread too little, many in the middle if they spread too much.

    Raises
    ------
    TypeError, ValueError
        If values are no real numbers, there are no draws, or their shape is not that of the truth.

    References
    ----------
    Czado, C., Gneiting, T. & Held, L. Predictive model assessment for count data. Biometrics 65, 1254-1261 (2009).
    """
    check.given(pit, locals())
    truth = check.numbers_or_sparse("`truth`", truth)
    draws = draws if hasattr(draws, "shape") else np.asarray(draws)
    shape = tuple(np.shape(draws))
    if len(shape) != 3 or shape[0] == 0 or shape[1:] != np.shape(truth):
        msg = (
            "Expected `draws` of shape n_samples x n_targets x n_features for a truth of shape "
            f"{np.shape(truth)}, found {shape}."
        )
        raise ValueError(msg)
    n_samples, n_targets, n_features = shape
    rng = np.random.default_rng(seed)
    truth = csr_matrix(truth) if issparse(truth) else truth
    values = np.empty((n_targets, n_features))
    step = max(1, _VALUES_AT_ONCE // max(n_samples * n_features, 1))
    for start in range(0, n_targets, step):
        rows = slice(start, start + step)
        known = dense(truth[rows])
        drawn = check.numbers("`draws`", draws[:, rows])
        below, equal = (drawn < known).sum(axis=0), (drawn == known).sum(axis=0)
        u = (below + rng.uniform(size=known.shape) * (1 + equal)) / (1 + n_samples)
        values[rows] = np.where(np.isnan(drawn.sum(axis=0) + known), np.nan, u)
    return values


def central_coverage(pit: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Share of the truth in the central interval of its draws, by feature.

    Unlike :func:`coverage` of an interval with its ends, it is not inflated by ties: counts that are often equal to an
    end count in part.

    Parameters
    ----------
    pit
        n_targets x n_features values of :func:`pit`.
    level
        Probability of the interval.

    Returns
    -------
    np.ndarray
        n_features values in [0, 1], `level` for calibrated draws; NaN where the feature has NaN.

    Raises
    ------
    TypeError, ValueError
        If `level` is not in (0, 1) or a value of `pit` not in [0, 1].
    """
    if not isinstance(level, Real) or not 0 < level < 1:
        msg = f"Expected `level` above 0 and below 1, found {level}."
        raise ValueError(msg)
    values = check.numbers("`pit`", pit)
    if ((values < 0) | (values > 1)).any():
        msg = f"Expected values of `metrics.pit` in [0, 1], found {np.nanmin(values)} to {np.nanmax(values)}."
        raise ValueError(msg)
    inside = (np.abs(values - 0.5) < level / 2).mean(axis=0)
    return np.where(np.isnan(values).any(axis=0), np.nan, inside)
