"""Synthetic data sets for tests, tutorials and benchmarks."""

from soscope_scverse.datasets._synthetic import (
    SyntheticComponents,
    SyntheticSection,
    synthetic_components,
    synthetic_section,
)

__all__ = ["SyntheticComponents", "SyntheticSection", "synthetic_components", "synthetic_section"]
