"""The one call."""

from soscope_scverse.tl.enhance import enhance

__all__ = ["enhance"]
