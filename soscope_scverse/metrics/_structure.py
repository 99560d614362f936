"""Tissue structure in enhanced profiles: clusters, their compactness and spatial autocorrelation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._touching import touching
from soscope_scverse._validators import POSITIVE_INTEGER, SEED, Number, Rules, check_arguments, check_finite
from soscope_scverse.metrics._agreement import Matrix, check_same_shape, n_rows, per_feature

_CHUNK_PAIRS = 20_000  # 80 MB for a block of 512 features
_KMEANS_RULES: Rules = {"seed": SEED}
_CLUSTER_RULES: Rules = {"n_clusters": Number(2, integer=True), "seed": SEED}
_COMPACTNESS_RULES: Rules = {"n_sample": POSITIVE_INTEGER, "seed": SEED}
_MORANS_RULES: Rules = {"n_neighbors": POSITIVE_INTEGER}


def kmeans_ari(profiles: Matrix, labels: ArrayLike, seed: int = 0) -> float:
    """Agreement of k-means clusters of the profiles with known labels, by the adjusted Rand index.

    Parameters
    ----------
    profiles
        n_targets x n_features, clustered without further normalisation or dimensionality reduction.
    labels
        n_targets known labels; the number of clusters is that of distinct labels.
    seed
        Seed of the ten initialisations of k-means.

    Returns
    -------
    float
        1 for identical partitions, 0 on average for unrelated ones.

    Raises
    ------
    ValueError
        If the number of labels is not that of targets.

    References
    ----------
    Hubert, L. & Arabie, P. Comparing partitions. J. Classif. 2, 193-218 (1985).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    check_arguments(locals(), _KMEANS_RULES)
    check_finite(profiles)
    known = _label_codes(labels, n_rows(profiles))
    clusters = KMeans(n_clusters=int(known.max()) + 1, n_init=10, random_state=seed).fit_predict(profiles)
    return float(adjusted_rand_score(known, clusters))


def cluster_ari(prediction: Matrix, truth: Matrix, n_clusters: int, *, seed: int = 0) -> float:
    """Agreement of k-means clusters of the prediction with those of the truth, by the adjusted Rand index.

    Features of either are scaled to [0, 1] first, as in the paper, so that all have the same weight.

    Parameters
    ----------
    prediction, truth
        n_targets x n_features.
    n_clusters
        Number of clusters of both. The paper has 3 and 4.
    seed
        Seed of the ten initialisations of k-means.

    Returns
    -------
    float
        1 for identical clusters, 0 on average for unrelated ones.

    Raises
    ------
    TypeError, ValueError
        If values are not finite real numbers, the shapes differ, or there are fewer targets than clusters.

    References
    ----------
    Li, B., Bao, F., Hou, Y. et al. Tissue characterization at an enhanced resolution across spatial omics platforms
    with deep generative model. Nat. Commun. 15, 6541 (2024), Fig. 4e.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from sklearn.preprocessing import minmax_scale

    check_arguments(locals(), _CLUSTER_RULES)
    check_same_shape(prediction, truth)
    if n_rows(truth) < n_clusters:
        msg = f"Expected `n_clusters` to be at most the number of targets, {n_rows(truth)}, found {n_clusters}."
        raise ValueError(msg)
    for values in (prediction, truth):
        check_finite(values)
    model = KMeans(n_clusters=n_clusters, n_init=10, random_state=seed)
    known, found = (model.fit_predict(minmax_scale(dense(values))) for values in (truth, prediction))
    return float(adjusted_rand_score(known, found))


def compactness(positions: np.ndarray, labels: ArrayLike, *, n_sample: int = 2000, seed: int = 0) -> float:
    """Mean spatial distance between targets of the same cluster; smaller values are more compact.

    Parameters
    ----------
    positions
        n_targets x 2.
    labels
        n_targets cluster labels.
    n_sample
        Larger clusters are represented by a random sample of this size, since the number of pairs is quadratic in the
        number of targets.
    seed
        Seed of that sample.

    Returns
    -------
    float
        Mean distance of the pairs in a cluster, averaged over clusters weighted by their size, in units of the
        positions. Clusters of a single target are excluded; NaN if there are no others.

    Raises
    ------
    TypeError, ValueError
        If the number of labels is not that of targets.
    """
    check_arguments(locals(), _COMPACTNESS_RULES)
    cluster = _label_codes(labels, n_rows(positions))
    xy = read.xy(positions)
    generator = np.random.default_rng(seed)
    distances, sizes = [], []
    for members in np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1]):
        if len(members) < 2:
            continue
        sampled = generator.choice(members, n_sample, replace=False) if len(members) > n_sample else members
        distances.append(pdist(xy[sampled]).mean())
        sizes.append(len(members))
    return float(np.average(distances, weights=sizes)) if sizes else np.nan


def morans_i(values: Matrix, positions: np.ndarray, n_neighbors: int = 6) -> np.ndarray:
    r"""Moran's I of each feature with row-standardised weights of the nearest neighbours.

    .. math:: I = \frac{\sum_i z_i \sum_j w_{ij} z_j}{\sum_i z_i^2}, \qquad w_{ij} = 1 / k
        \text{ for the } k \text{ nearest } j, \qquad z = x - \bar x

    Parameters
    ----------
    values
        n_obs x n_features.
    positions
        n_obs x 2.
    n_neighbors
        Number k of neighbours.

    Returns
    -------
    np.ndarray
        n_features values, near 1 for smooth features, with expectation -1 / (n_obs - 1) for features without spatial
        autocorrelation; NaN for constant features.

    Raises
    ------
    TypeError, ValueError
        If the number of positions is not that of observations or does not exceed ``n_neighbors``.

    References
    ----------
    Moran, P. A. P. Notes on continuous stochastic phenomena. Biometrika 37, 17-23 (1950).
    """
    check_arguments(locals(), _MORANS_RULES)
    xy = read.xy(positions)
    n_obs = n_rows(values)
    if len(xy) != n_obs or not 1 <= n_neighbors < n_obs:
        msg = (
            f"Expected one position for each of {n_obs} observations and 1 <= `n_neighbors` < {n_obs}, "
            f"found {len(xy)} positions and {n_neighbors} neighbours."
        )
        raise ValueError(msg)
    # squidpy 1.8.2 gives the same values, but 2.4 to 7.7 times slower, and its numba threads reset those of torch
    weights = _nearest(xy, n_neighbors)

    def score(x: np.ndarray) -> np.ndarray:
        z = x - x.mean(axis=0)
        variance = (z**2).sum(axis=0)
        flat = np.ptp(x, axis=0) == 0
        return np.where(flat, np.nan, (z * (weights @ z)).sum(axis=0) / np.where(flat, 1, variance))

    return per_feature(score, values)


def seam_index(values: Matrix, positions: np.ndarray, spot: ArrayLike, sections: ArrayLike | None = None) -> np.ndarray:
    r"""Visibility of the borders of the spots in maps of the subspots.

    .. math:: \frac{\operatorname{mean} |x_i - x_j| \text{ over touching subspots of different spots}}
        {\operatorname{mean} |x_i - x_j| \text{ over touching subspots of one spot}}

    Subspots touch if they share a side on their lattice; of cells, the nearest ones touch.

    Parameters
    ----------
    values
        n_targets x n_features.
    positions
        n_targets x 2.
    spot
        n_targets labels of the spot of each target.
    sections
        n_targets labels of their sections; None is one section.

    Returns
    -------
    np.ndarray
        n_features values: 1 where the borders of the spots do not differ from the inside, infinity for features that
        are constant within all spots, NaN for constant features or without touching subspots of both kinds.

    Raises
    ------
    TypeError, ValueError
        If values are not real numbers, or there is not one position, spot and section for each target.

    Notes
    -----
    The true profiles are the yardstick: their index is 1 if the lattice of the spots is independent of the tissue.
    """
    n_targets = n_rows(values)
    xy, spots = read.xy(positions), _label_codes(spot, n_targets)
    section = np.zeros(n_targets, dtype=int) if sections is None else _label_codes(sections, n_targets)
    if len(xy) != n_targets:
        msg = f"Expected one position for each of the {n_targets} targets, found {len(xy)}."
        raise ValueError(msg)
    groups = [np.flatnonzero(section == code) for code in range(section.max() + 1)]
    i, j = np.concatenate([rows[touching(xy[rows])] for rows in groups]).T
    across = spots[i] != spots[j]

    def score(x: np.ndarray) -> np.ndarray:
        border, inside = (_mean_difference(x, i[pairs], j[pairs]) for pairs in (across, ~across))
        with np.errstate(divide="ignore", invalid="ignore"):
            return border / inside

    return per_feature(score, values)


def _mean_difference(x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Mean absolute difference of the rows i and j, in chunks of pairs to bound the memory; NaN without pairs."""
    total = np.zeros(x.shape[1])
    for start in range(0, len(i), _CHUNK_PAIRS):
        part = slice(start, start + _CHUNK_PAIRS)
        total += np.abs(x[i[part]] - x[j[part]]).sum(axis=0)
    return total / len(i) if len(i) else np.full(x.shape[1], np.nan)


def _nearest(xy: np.ndarray, k: int) -> csr_matrix:
    """Row-standardised n_obs x n_obs weights of the k nearest neighbours."""
    n_obs = len(xy)
    found = KDTree(xy).query(xy, k + 1)[1]
    own = found == np.arange(n_obs)[:, None]
    own[~own.any(axis=1), -1] = True  # more than k others at the same position: any k of them are nearest
    neighbors = found[~own].reshape(n_obs, k)
    rows = np.repeat(np.arange(n_obs), k)
    return csr_matrix((np.full(n_obs * k, 1 / k), (rows, neighbors.ravel())), shape=(n_obs, n_obs))


def _label_codes(labels: ArrayLike, n_targets: int) -> np.ndarray:
    """Integer codes of the labels, from 0."""
    values = np.asarray(labels).ravel()
    if len(values) != n_targets or not n_targets:
        msg = f"Expected one label for each of the {n_targets} targets, found {len(values)}."
        raise ValueError(msg)
    return np.unique(values, return_inverse=True)[1]
