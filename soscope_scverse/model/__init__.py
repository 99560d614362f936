"""The model class."""

from soscope_scverse.model.soscope import SoScope

__all__ = ["SoScope"]
