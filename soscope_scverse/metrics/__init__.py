"""Metrics of enhanced profiles."""

from soscope_scverse.metrics._agreement import (
    coverage,
    ks_distance,
    mse,
    normalized_pearson,
    normalized_within_r,
    pearson,
    within_r,
)
from soscope_scverse.metrics._calibration import central_coverage, pit
from soscope_scverse.metrics._structure import compactness, kmeans_ari, morans_i, seam_index

__all__ = [
    "central_coverage",
    "compactness",
    "coverage",
    "kmeans_ari",
    "ks_distance",
    "morans_i",
    "mse",
    "normalized_pearson",
    "normalized_within_r",
    "pearson",
    "pit",
    "seam_index",
    "within_r",
]
