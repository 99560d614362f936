"""Tools: enhancement in one call, its validation, domains of the result, and results as SpatialData."""

from soscope_scverse.tl._domains import domains
from soscope_scverse.tl._elements import to_spatialdata
from soscope_scverse.tl._enhance import enhance
from soscope_scverse.tl._validate import validate

__all__ = ["domains", "enhance", "to_spatialdata", "validate"]
