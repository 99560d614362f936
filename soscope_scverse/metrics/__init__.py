"""Scores of enhanced profiles."""

from soscope_scverse.metrics.agreement import coverage, ks_distance, mse, normalized_pearson, pearson, within_r
from soscope_scverse.metrics.structure import compactness, kmeans_ari, morans_i

__all__ = [
    "compactness",
    "coverage",
    "kmeans_ari",
    "ks_distance",
    "morans_i",
    "mse",
    "normalized_pearson",
    "pearson",
    "within_r",
]
