"""Tasks with a known answer, and the simple methods to beat on them."""

from soscope_scverse.bench.baselines import BASELINES
from soscope_scverse.bench.compare import compare
from soscope_scverse.bench.simulate import LowResolution, simulate_low_resolution

__all__ = ["BASELINES", "LowResolution", "compare", "simulate_low_resolution"]
