"""The model class."""

from soscope_scverse.model._soscope import SoScope

__all__ = ["SoScope"]
