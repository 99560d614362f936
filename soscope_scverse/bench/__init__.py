"""Tasks with a known answer, and the simple methods to beat on them."""

from soscope_scverse.bench._baselines import BASELINES
from soscope_scverse.bench._compare import compare
from soscope_scverse.bench._simulate import LowResolution, simulate_low_resolution

__all__ = ["BASELINES", "LowResolution", "compare", "simulate_low_resolution"]
