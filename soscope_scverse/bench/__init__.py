"""Benchmark tasks with known subspots, baseline methods, and results of other tools."""

from soscope_scverse.bench._compare import compare
from soscope_scverse.bench._factors import compare_factors
from soscope_scverse.bench._groups import scores_by_group
from soscope_scverse.bench._simulate import LowResolution, simulate_low_resolution, simulate_spots
from soscope_scverse.bench._summary import summary
from soscope_scverse.bench.baselines import BASELINES
from soscope_scverse.bench.readers.bayesspace import read_bayesspace
from soscope_scverse.bench.readers.istar import read_istar
from soscope_scverse.bench.readers.points import read_finest, read_tesla
from soscope_scverse.bench.readers.spahdmap import read_spahdmap

__all__ = [
    "BASELINES",
    "LowResolution",
    "compare",
    "compare_factors",
    "read_bayesspace",
    "read_finest",
    "read_istar",
    "read_spahdmap",
    "read_tesla",
    "scores_by_group",
    "simulate_low_resolution",
    "simulate_spots",
    "summary",
]
