"""The one call."""

from soscope_scverse.tl.elements import to_spatialdata
from soscope_scverse.tl.enhance import enhance

__all__ = ["enhance", "to_spatialdata"]
