"""Calibration of posterior samples."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse

from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._validators import SEED, Rules, check_arguments
from soscope_scverse.metrics._agreement import Matrix

_VALUES_AT_ONCE = 50_000_000
"""Number of sampled values that are read at a time."""

_PIT_RULES: Rules = {"seed": SEED}


def pit(truth: Matrix, samples: Any, *, seed: int = 0) -> np.ndarray:
    r"""Randomised probability integral transform (PIT) of the truth under posterior samples.

    .. math:: u = \frac{\#\{x^{(i)} < x\} + v \, (1 + \#\{x^{(i)} = x\})}{1 + n}, \qquad v \sim \mathrm{uniform}(0, 1)

    for the truth x and n samples. The truth is counted among the samples that are equal to it, so that u is exactly
    uniform if truth and samples have the same distribution, for any number of samples and ties.

    Parameters
    ----------
    truth
        n_targets x n_features, dense or sparse.
    samples
        n_samples x n_targets x n_features, as returned by :meth:`~soscope_scverse.model.SoScope.sample_enhanced`. It is
        read in blocks of targets, so it may be a zarr or dask array on disk.
    seed
        Seed of v.

    Returns
    -------
    np.ndarray
        n_targets x n_features values in (0, 1), NaN where the truth or a sample is NaN. Uniform for calibrated samples;
        concentrated near 0 and 1 if the variance of the samples is too small, near 0.5 if it is too large.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, there are no samples, or their shape differs from that of the truth.

    References
    ----------
    Czado, C., Gneiting, T. & Held, L. Predictive model assessment for count data. Biometrics 65, 1254-1261 (2009).
    """
    check_arguments(locals(), _PIT_RULES)
    truth = read.numbers_or_sparse("`truth`", truth)
    samples = samples if hasattr(samples, "shape") else np.asarray(samples)
    shape = tuple(np.shape(samples))
    if len(shape) != 3 or shape[0] == 0 or shape[1:] != np.shape(truth):
        msg = (
            "Expected `samples` of shape n_samples x n_targets x n_features for a truth of shape "
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
        sampled = read.numbers("`samples`", samples[:, rows])
        below, equal = (sampled < known).sum(axis=0), (sampled == known).sum(axis=0)
        u = (below + rng.uniform(size=known.shape) * (1 + equal)) / (1 + n_samples)
        values[rows] = np.where(np.isnan(sampled.sum(axis=0) + known), np.nan, u)
    return values


def central_coverage(pit: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Share of the truth in the central interval of the posterior samples, for each feature.

    Unlike :func:`coverage`, it is not inflated by ties: the randomised PIT includes counts that are equal to a bound of
    the interval in proportion.

    Parameters
    ----------
    pit
        n_targets x n_features values of :func:`pit`.
    level
        Probability of the interval.

    Returns
    -------
    np.ndarray
        n_features values in [0, 1], `level` for calibrated samples; NaN for features with NaN.

    Raises
    ------
    TypeError, ValueError
        If `level` is not in (0, 1) or values of `pit` are not in [0, 1].
    """
    if not isinstance(level, Real) or not 0 < level < 1:
        msg = f"Expected `level` above 0 and below 1, found {level}."
        raise ValueError(msg)
    values = read.numbers("`pit`", pit)
    if ((values < 0) | (values > 1)).any():
        msg = f"Expected values of `metrics.pit` in [0, 1], found {np.nanmin(values)} to {np.nanmax(values)}."
        raise ValueError(msg)
    inside = (np.abs(values - 0.5) < level / 2).mean(axis=0)
    return np.where(np.isnan(values).any(axis=0), np.nan, inside)
