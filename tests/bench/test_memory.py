"""The memory that benchmarks report."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

spec = importlib.util.spec_from_file_location("memory", Path(__file__).parents[2] / "benchmarks" / "memory.py")
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_that_of_the_block():
    rises = []
    for size in (25_000_000, 1, 25_000_000):
        with memory.PeakMemory() as peak:
            np.ones(size)  # 200 MB, freed before the next block
        rises.append(peak.mb)
    assert 190 < rises[0] < 260
    assert 190 < rises[2] < 260
    assert rises[1] < 50


def test_peak_memory_is_nan_on_other_systems(tmp_path):
    with memory.PeakMemory(tmp_path / "nowhere") as peak:
        pass
    assert np.isnan(peak.mb)
