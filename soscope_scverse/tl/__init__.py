"""Tools: enhancement, its validation, domains, results as SpatialData, and the analyses of the paper."""

from soscope_scverse.tl._domains import domains
from soscope_scverse.tl._elements import to_spatialdata
from soscope_scverse.tl._enhance import enhance
from soscope_scverse.tl._validate import validate
from soscope_scverse.tl.analyses.omics import omics_correlation
from soscope_scverse.tl.analyses.peaks import gene_activity
from soscope_scverse.tl.analyses.regions import marker_patterns, signal_outside
from soscope_scverse.tl.analyses.variability import gene_variability

__all__ = [
    "domains",
    "enhance",
    "gene_activity",
    "gene_variability",
    "marker_patterns",
    "omics_correlation",
    "signal_outside",
    "to_spatialdata",
    "validate",
]
