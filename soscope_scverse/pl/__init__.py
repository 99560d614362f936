"""Plots; each returns its Axes and takes ``ax`` and ``save``."""

from soscope_scverse.pl.benchmark import benchmark
from soscope_scverse.pl.calibration import calibration
from soscope_scverse.pl.maps import compare
from soscope_scverse.pl.report import report

__all__ = ["benchmark", "calibration", "compare", "report"]
