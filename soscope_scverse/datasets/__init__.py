"""Data sets for tests, tutorials and simulations."""

from soscope_scverse.datasets._synthetic import (
    SyntheticComponents,
    SyntheticSection,
    synthetic_components,
    synthetic_section,
)

__all__ = ["SyntheticComponents", "SyntheticSection", "synthetic_components", "synthetic_section"]
