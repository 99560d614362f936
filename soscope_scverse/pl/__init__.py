"""Plots; each returns its Axes and takes ``ax`` and ``save``."""

from soscope_scverse.pl.maps import compare

__all__ = ["compare"]
