"""What recovered spots show of each gene: agreement within merged spots, and whether it may be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags
from scipy.stats import false_discovery_control, t

from soscope_scverse.metrics._agreement import Matrix, per_feature, within_r

FALSE_DISCOVERY_RATE = 0.05
"""Expected share of the genes that are believed wrongly, by convention (Benjamini & Hochberg 1995)."""


def verdict(truth: Matrix, recovered: Matrix, linear: Matrix, block: np.ndarray, *, is_counts: bool) -> pd.DataFrame:
    r"""Score how well the differences within merged spots were recovered, one row per gene.

    A gene is believed if its recovered profiles are nearer to the measured spots within merged spots, in squared error,
    than equal shares of the merged spots and those that linear interpolation gives. Errors of counts are in units of
    the mean count of the merged spot, to which the variance of counting noise is proportional: otherwise few spots with
    many counts decide. Noise adds the same to all three errors in expectation. With p and t the recovered and measured
    differences from the merged spot, the error is below that of equal shares if :math:`\sum p t > \sum p^2 / 2`: of the
    detail that the map shows, more than half is real. Both are tested by t tests over merged spots; the larger p-value
    of the two is that of believing wrongly, and the false discovery rate is controlled over genes.

    Parameters
    ----------
    truth, recovered, linear
        n_spots x n_features: the measured spots, and what is recovered of them from merged spots by the model and by
        linear interpolation.
    block
        n_spots numbers of the merged spots, from 0.
    is_counts
        Whether profiles are counts, whose Poisson noise is known.

    Returns
    -------
    DataFrame
        ``within_r``, ``linear_within_r``, ``expected_within_r``, ``p_adjusted`` and ``believed``.
    """
    n_members = np.bincount(block)
    members = csr_matrix((np.ones(len(block)), (block, np.arange(len(block)))))
    mean = diags(1 / n_members) @ members
    noise_share = (1 - 1 / n_members)[:, None] if is_counts else np.zeros((len(n_members), 1))

    def scores(measured: np.ndarray, *predicted: np.ndarray) -> np.ndarray:
        x, p, q = (values - (mean @ values)[block] for values in (measured, *predicted))
        noise = noise_share * (members @ measured)
        xp, pp, xx = (members @ product for product in (x * p, p * p, x * x))
        error, of_linear = members @ (x - p) ** 2, members @ (x - q) ** 2
        total = members @ measured
        weight = np.divide(n_members[:, None], total, out=np.zeros_like(total), where=total > 0) if is_counts else 1.0
        p_value = np.maximum(*(_p_value((other - error) * weight) for other in (xx, of_linear)))
        return np.column_stack([*_noise_free(xp, pp, xx - noise), _reliability(xx - noise, noise, n_members), p_value])

    noise_free, error, reliability, p_value = per_feature(scores, truth, recovered, linear).T
    adjusted = false_discovery_control(p_value)
    return pd.DataFrame(
        {
            "within_r": within_r(recovered, truth, block),
            "linear_within_r": within_r(linear, truth, block),
            "expected_within_r": np.clip(shrunken(noise_free, error), -1, 1) * np.sqrt(reliability),
            "p_adjusted": adjusted,
            "believed": adjusted <= FALSE_DISCOVERY_RATE,
        }
    )


def _p_value(gain: np.ndarray) -> np.ndarray:
    """One-sided p-values that the expectation of the columns, n_blocks x n_features, is above 0."""
    n, mean, deviation = len(gain), gain.mean(axis=0), gain.std(axis=0, ddof=1)
    statistic = np.divide(mean * np.sqrt(n), deviation, out=np.zeros_like(mean), where=deviation > 0)
    return t.sf(statistic, n - 1)


def _noise_free(xp: np.ndarray, pp: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation with the truth without its noise, and its standard error over merged spots (delta method).

    Parameters
    ----------
    xp, pp, signal
        n_blocks x n_features sums over the members of the products of truth and prediction, of the squared prediction,
        and of the squared truth less its expected noise.
    """
    total = [values.sum(axis=0) for values in (xp, pp, signal)]
    known = (total[1] > 0) & (total[2] > 0)
    xp_sum, pp_sum, signal_sum = (np.where(known, values, 1) for values in total)
    r = xp_sum / np.sqrt(pp_sum * signal_sum)
    influence = xp / np.sqrt(pp_sum * signal_sum) - r / 2 * (pp / pp_sum + signal / signal_sum)
    n = len(xp)
    error = np.sqrt((influence**2).sum(axis=0) * n / (n - 1))
    return np.where(known, r, 0), np.where(known, error, np.inf)


def _reliability(signal: np.ndarray, noise: np.ndarray, n_members: np.ndarray) -> np.ndarray:
    """Share of signal in the variance within spots, one level finer.

    A subspot has the counts of its spot divided by the number of subspots, while differences relative to the mean are
    taken to be those between spots within a merged spot.
    """
    ratio = np.clip(signal.sum(axis=0), 0, None)
    noise = noise.sum(axis=0) * n_members.mean()
    return np.divide(ratio, ratio + noise, out=np.zeros_like(ratio), where=ratio > 0)


def shrunken(estimate: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Estimates shrunk to their mean by their standard errors, which may be infinite (empirical Bayes).

    The variance of the true values is that of DerSimonian & Laird, Controlled Clinical Trials 7, 177-188 (1986).
    """
    weight = np.where(error > 0, 1 / np.maximum(error, np.finfo(float).tiny) ** 2, 0)
    if np.count_nonzero(weight) < 2:
        return estimate
    mean = np.average(estimate, weights=weight)
    excess = (weight * (estimate - mean) ** 2).sum() - (np.count_nonzero(weight) - 1)
    variance = max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))
    total = variance + error**2
    mean = np.average(estimate, weights=np.divide(1, total, out=np.zeros_like(total), where=total > 0))
    return mean + np.divide(variance, total, out=np.zeros_like(total), where=total > 0) * (estimate - mean)
