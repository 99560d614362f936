"""Plots. Each returns its Axes and takes ``ax`` and ``save``."""

from soscope_scverse.pl._alignment import alignment
from soscope_scverse.pl._benchmark import benchmark
from soscope_scverse.pl._calibration import calibration
from soscope_scverse.pl._clusters import spatial_clusters
from soscope_scverse.pl._history import history
from soscope_scverse.pl._maps import compare, uncertainty
from soscope_scverse.pl._report import report
from soscope_scverse.pl._validation import validation
from soscope_scverse.pl.analyses.comparisons import factors
from soscope_scverse.pl.analyses.correlations import feature_correlations
from soscope_scverse.pl.analyses.genes import gene_variability, ranked_genes, scores_by_group
from soscope_scverse.pl.analyses.regions import before_after, marker_boxes, marker_patterns

__all__ = [
    "alignment",
    "before_after",
    "benchmark",
    "calibration",
    "compare",
    "factors",
    "feature_correlations",
    "gene_variability",
    "history",
    "marker_boxes",
    "marker_patterns",
    "ranked_genes",
    "report",
    "scores_by_group",
    "spatial_clusters",
    "uncertainty",
    "validation",
]
