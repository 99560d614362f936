"""Data sets for tests, tutorials and simulations."""

from soscope_scverse.datasets.synthetic import SyntheticSection, synthetic_section

__all__ = ["SyntheticSection", "synthetic_section"]
