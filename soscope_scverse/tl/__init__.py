"""Tools: enhancement in one call, and results as SpatialData."""

from soscope_scverse.tl._elements import to_spatialdata
from soscope_scverse.tl._enhance import enhance

__all__ = ["enhance", "to_spatialdata"]
