"""Threads of torch during training and inference."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from helpers import QUIET
from soscope_scverse import SoScope
from soscope_scverse.model import _threads
from soscope_scverse.model._threads import torch_threads


class Count(Callback):
    """Number of threads at every step."""

    def __init__(self):
        self.found = set()

    def on_train_batch_end(self, *_):
        self.found.add(torch.get_num_threads())


@numba.njit(parallel=True)
def total(x):
    value = 0.0
    for i in numba.prange(len(x)):
        value += x[i]
    return value


@pytest.fixture
def _set_to_one(monkeypatch):
    """Torch is set to one thread, and four processors are there."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(_threads, "cpu_count", lambda: 4)
    yield
    torch.set_num_threads(before)


def in_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.usefixtures("_set_to_one")
def test_a_training_is_not_caught_by_the_threads_of_numba(prepared):
    SoScope.setup_anndata(prepared)
    model, count = SoScope(prepared), Count()
    total(np.ones(100))
    before = torch.get_num_threads()
    if numba.get_num_threads() > 1 and numba.threading_layer() == "omp":
        assert before == numba.get_num_threads()
    model.train(3, callbacks=[count], **QUIET)
    assert count.found == {1}
    assert (torch.get_num_threads(), in_new_thread()) == (before, 1)
    other = Count()
    model.train(3, callbacks=[other], threads=3, **QUIET)
    assert other.found == {3}
    assert (torch.get_num_threads(), in_new_thread()) == (before, 1)


@pytest.mark.usefixtures("_set_to_one")
def test_results_are_not_caught_either(prepared, monkeypatch):
    SoScope.setup_anndata(prepared)
    model = SoScope(prepared)
    model.train(2, **QUIET)
    found, generative = set(), model.module.generative
    monkeypatch.setattr(
        model.module, "generative", lambda *args: found.add(torch.get_num_threads()) or generative(*args)
    )
    total(np.ones(100))
    model.get_enhanced(n_samples=1)
    model.sample_enhanced(1)
    model.predict(prepared.obsm["spatial"], np.zeros((prepared.n_obs, prepared.obsm["subspot_features"].shape[2])))
    assert found == {1}


@pytest.mark.usefixtures("_set_to_one")
def test_no_more_threads_than_processors():
    torch.set_num_threads(8)
    with torch_threads():
        assert torch.get_num_threads() == 4
        with torch_threads(2), torch_threads():  # inside, it is what torch is set to
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == in_new_thread() == 8


@torch_threads(3)
def powerless():
    assert torch.get_num_threads() == 3
    raise RuntimeError("power")


@pytest.mark.usefixtures("_set_to_one")
def test_the_number_is_restored_after_an_error():
    with pytest.raises(RuntimeError, match="power"):
        powerless()
    assert torch.get_num_threads() == in_new_thread() == 1


def test_the_environment_is_heeded():
    code = (
        "import torch; from soscope_scverse.model._threads import torch_threads\n"
        "with torch_threads(): print(torch.get_num_threads())"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
