"""The targets where a feature is highly expressed, and how compact the region is that they form."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._validators import POSITIVE_INTEGER, SEED, Rules, check_arguments, check_finite
from soscope_scverse.metrics._agreement import Matrix, n_rows, per_feature

_RULES: Rules = {"n_sample": POSITIVE_INTEGER, "seed": SEED}


def high_expression(values: Matrix) -> np.ndarray:
    """Targets with high expression of each feature: the upper of two groups of least variance.

    The groups are those of k-means with two clusters of a single feature, found exactly: of all thresholds, the one
    that minimises the sum of squares within the groups (Otsu's).

    Parameters
    ----------
    values
        n_targets x n_features, finite.

    Returns
    -------
    np.ndarray
        n_targets x n_features booleans; all False for constant features.

    Raises
    ------
    TypeError, ValueError
        If values are not finite real numbers or no n_targets x n_features matrix.

    References
    ----------
    Otsu, N. A threshold selection method from gray-level histograms. IEEE Trans. Syst. Man Cybern. 9, 62-66 (1979).
    """
    values = read.numbers_or_sparse("values", values)
    check_finite(values)
    threshold = per_feature(_thresholds, values)
    return dense(values) > threshold


def high_expression_compactness(
    values: Matrix, positions: np.ndarray, *, n_sample: int = 2000, seed: int = 0
) -> np.ndarray:
    """Compactness of the region of high expression of each feature, in the paper's scale; smaller is more compact.

    Positions are scaled to the unit square, each axis by its own extent. The score is the mean distance of a target of
    :func:`high_expression` to all others of them, and of these means the median.

    Parameters
    ----------
    values
        n_targets x n_features, finite.
    positions
        n_targets x 2.
    n_sample
        Larger regions are represented by a random sample of this size, since the number of pairs is quadratic in the
        number of targets.
    seed
        Seed of that sample.

    Returns
    -------
    np.ndarray
        n_features values between 0 and 1.41, the diagonal of the unit square; about 0.5 for a region that is scattered
        over the section. NaN for regions of less than two targets.

    Raises
    ------
    TypeError, ValueError
        If values or positions are not finite real numbers, or their numbers differ.

    See Also
    --------
    compactness : Compactness of given clusters, in units of the positions.

    References
    ----------
    Li, B., Bao, F., Hou, Y. et al. Tissue characterization at an enhanced resolution across spatial omics platforms
    with deep generative model. Nat. Commun. 15, 6541 (2024), Supplementary Fig. 5.
    """
    check_arguments(locals(), _RULES)
    xy = read.xy(positions)
    if len(xy) != n_rows(values):
        msg = f"Expected one position for each of the {n_rows(values)} targets, found {len(xy)}."
        raise ValueError(msg)
    extent = np.ptp(xy, axis=0)
    unit = (xy - xy.min(axis=0)) / np.where(extent == 0, 1, extent)
    generator = np.random.default_rng(seed)
    scores = []
    for high in high_expression(values).T:
        members = np.flatnonzero(high)
        if len(members) > n_sample:
            members = generator.choice(members, n_sample, replace=False)
        n = len(members)
        distances = cdist(unit[members], unit[members]).sum(axis=1) / max(n - 1, 1)
        scores.append(np.median(distances) if n > 1 else np.nan)
    return np.array(scores)


def _thresholds(x: np.ndarray) -> np.ndarray:
    """Largest value of the lower group of every column."""
    ordered = np.sort(x, axis=0)
    n = len(ordered)
    if n < 2:
        return ordered[-1]
    below = np.cumsum(ordered - ordered.mean(axis=0), axis=0)[:-1]
    size = np.arange(1, n)[:, None]
    between = below**2 / (size * (n - size))  # variance between the groups, up to a constant
    between[ordered[1:] == ordered[:-1]] = -1  # equal values are of one group
    return np.take_along_axis(ordered, between.argmax(axis=0)[None], axis=0)[0]
