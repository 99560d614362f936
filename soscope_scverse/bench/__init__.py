"""Benchmark tasks with known subspots, and baseline methods."""

from soscope_scverse.bench._compare import compare
from soscope_scverse.bench._simulate import LowResolution, simulate_low_resolution, simulate_spots
from soscope_scverse.bench._summary import summary
from soscope_scverse.bench.baselines import BASELINES

__all__ = ["BASELINES", "LowResolution", "compare", "simulate_low_resolution", "simulate_spots", "summary"]
