"""Plots. Each returns its Axes and takes ``ax`` and ``save``."""

from soscope_scverse.pl._alignment import alignment
from soscope_scverse.pl._benchmark import benchmark
from soscope_scverse.pl._calibration import calibration
from soscope_scverse.pl._clusters import spatial_clusters
from soscope_scverse.pl._history import history
from soscope_scverse.pl._maps import compare, uncertainty
from soscope_scverse.pl._report import report
from soscope_scverse.pl._validation import validation

__all__ = [
    "alignment",
    "benchmark",
    "calibration",
    "compare",
    "history",
    "report",
    "spatial_clusters",
    "uncertainty",
    "validation",
]
