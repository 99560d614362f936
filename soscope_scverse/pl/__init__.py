"""Plots; each returns its Axes and takes ``ax`` and ``save``."""

from soscope_scverse.pl.alignment import alignment
from soscope_scverse.pl.benchmark import benchmark
from soscope_scverse.pl.calibration import calibration
from soscope_scverse.pl.clusters import spatial_clusters
from soscope_scverse.pl.history import history
from soscope_scverse.pl.maps import compare, uncertainty
from soscope_scverse.pl.report import report

__all__ = ["alignment", "benchmark", "calibration", "compare", "history", "report", "spatial_clusters", "uncertainty"]
