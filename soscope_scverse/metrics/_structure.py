"""What enhanced profiles show of the tissue's structure: clusters, their compactness and spatial autocorrelation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from soscope_scverse import _validation as check
from soscope_scverse.metrics._agreement import Matrix, n_rows, per_feature


def kmeans_ari(profiles: Matrix, labels: ArrayLike, seed: int = 0) -> float:
    """Agreement of k-means clusters of the profiles with known labels, by the adjusted Rand index.

    Parameters
    ----------
    profiles
        n_targets x n_features, normalised or reduced as wanted: they are clustered as they are.
    labels
        n_targets known labels; k-means looks for as many clusters as there are different ones.
    seed
        Seed of the ten starts of k-means.

    Returns
    -------
    float
        1 for the same partition, 0 on average for an unrelated one.

    Raises
    ------
    ValueError
        If there is not one label per target.

    References
    ----------
    Hubert, L. & Arabie, P. Comparing partitions. J. Classif. 2, 193-218 (1985).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    check.given(kmeans_ari, locals())
    check.finite(profiles)
    known = _one_label_each(labels, n_rows(profiles))
    clusters = KMeans(n_clusters=int(known.max()) + 1, n_init=10, random_state=seed).fit_predict(profiles)
    return float(adjusted_rand_score(known, clusters))


def compactness(positions: np.ndarray, labels: ArrayLike, *, n_sample: int = 2000, seed: int = 0) -> float:
    """Mean spatial distance of a target to the others of its cluster; smaller is more compact.

    Parameters
    ----------
    positions
        n_targets x 2.
    labels
        n_targets cluster labels.
    n_sample
        Larger clusters are represented by so many of their targets, drawn at random, since the number of pairs grows
        with the square.
    seed
        Seed of that draw.

    Returns
    -------
    float
        In units of the positions: the mean over clusters of the mean distance of their pairs, weighted by the number of
        their targets. Clusters of one target have no pair and are left out; NaN if there are no others.

    Raises
    ------
    TypeError, ValueError
        If there is not one label per target.
    """
    check.given(compactness, locals())
    cluster = _one_label_each(labels, n_rows(positions))
    xy = check.xy(positions)
    generator = np.random.default_rng(seed)
    distances, sizes = [], []
    for members in np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1]):
        if len(members) < 2:
            continue
        drawn = generator.choice(members, n_sample, replace=False) if len(members) > n_sample else members
        distances.append(pdist(xy[drawn]).mean())
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
        n_features values, 1 for smooth features and about -1 / (n_obs - 1) for features without spatial order; NaN for
        constant ones.

    Raises
    ------
    TypeError, ValueError
        If there is not one position per observation or there are not more than ``n_neighbors`` of them.

    References
    ----------
    Moran, P. A. P. Notes on continuous stochastic phenomena. Biometrika 37, 17-23 (1950).
    """
    xy = check.xy(positions)
    check.number("n_neighbors", n_neighbors, 1, whole=True)
    n_obs = n_rows(values)
    if len(xy) != n_obs or not 1 <= n_neighbors < n_obs:
        msg = (
            f"Expected one position for each of {n_obs} observations and 1 <= `n_neighbors` < {n_obs}, "
            f"found {len(xy)} positions and {n_neighbors} neighbours."
        )
        raise ValueError(msg)
    weights = _nearest(xy, n_neighbors)

    def score(x: np.ndarray) -> np.ndarray:
        z = x - x.mean(axis=0)
        variance = (z**2).sum(axis=0)
        flat = np.ptp(x, axis=0) == 0
        return np.where(flat, np.nan, (z * (weights @ z)).sum(axis=0) / np.where(flat, 1, variance))

    return per_feature(score, values)


def _nearest(xy: np.ndarray, k: int) -> csr_matrix:
    """Row-standardised n_obs x n_obs weights of the k nearest others."""
    n_obs = len(xy)
    found = KDTree(xy).query(xy, k + 1)[1]
    own = found == np.arange(n_obs)[:, None]
    own[~own.any(axis=1), -1] = True  # more than k others at the same place: any k of them are the nearest
    neighbors = found[~own].reshape(n_obs, k)
    rows = np.repeat(np.arange(n_obs), k)
    return csr_matrix((np.full(n_obs * k, 1 / k), (rows, neighbors.ravel())), shape=(n_obs, n_obs))


def _one_label_each(labels: ArrayLike, n_targets: int) -> np.ndarray:
    """Number the labels from 0."""
    values = np.asarray(labels).ravel()
    if len(values) != n_targets or not n_targets:
        msg = f"Expected one label for each of the {n_targets} targets, found {len(values)}."
        raise ValueError(msg)
    return np.unique(values, return_inverse=True)[1]
