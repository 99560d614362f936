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
from soscope_scverse.metrics._correlations import CorrelationAgreement, correlation_agreement, feature_correlations
from soscope_scverse.metrics._high_expression import high_expression, high_expression_compactness
from soscope_scverse.metrics._image import image_r2
from soscope_scverse.metrics._structure import cluster_ari, compactness, kmeans_ari, morans_i, seam_index

__all__ = [
    "CorrelationAgreement",
    "central_coverage",
    "cluster_ari",
    "compactness",
    "correlation_agreement",
    "coverage",
    "feature_correlations",
    "high_expression",
    "high_expression_compactness",
    "image_r2",
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
