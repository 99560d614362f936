"""Two processes on one machine, joined by gloo."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from soscope_scverse import SoScope, tl

SCRIPT = Path(__file__).parents[2] / "scripts" / "two.py"


def run(*arguments, ends=0):
    alone = {name: value for name, value in os.environ.items() if not name.startswith("COV_CORE")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=alone | {"PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    assert done.returncode == ends, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left that were killed in the end."""
    folder = tmp_path_factory.mktemp("two")
    run(folder, ends=-signal.SIGKILL)
    return folder


def both(folder, name):
    return [np.load(folder / f"{name}_{rank}.npy") for rank in (0, 1)]


def test_gradients_of_two_processes_are_those_of_one_on_the_same_tiles(folder):
    for rank in (0, 1):
        gradients = np.load(folder / f"gradients_{rank}.npz")
        np.testing.assert_allclose(gradients["found"], gradients["expected"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["lazy", "memory", "decoded", "weights"])
def test_both_processes_hold_the_same(folder, name):
    first, second = both(folder, name)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("model", "name"), [("saved", "lazy"), ("model", "memory")])
def test_the_prediction_of_two_processes_is_that_of_one(folder, model, name):
    expected = SoScope.load(folder / model, accelerator="cpu").get_enhanced().X
    np.testing.assert_allclose(both(folder, name)[0], expected, rtol=1e-5, atol=1e-6)


def test_two_processes_are_as_good_as_one(folder, section):
    adata, image, truth = section
    quiet = {"enable_progress_bar": False}
    alone = tl.enhance(adata, image=image, accelerator="cpu", max_epochs=100, train_kwargs=quiet)
    mean, results = truth.layers["mean"].ravel(), (alone.X, both(folder, "lazy")[0])
    scores = [np.corrcoef(x.ravel(), mean)[0, 1] for x in results]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)


def test_the_store_of_two_processes_is_complete(folder):
    assert {"enhanced.zarr", "model", "saved"} <= {path.name for path in folder.iterdir() if path.is_dir()}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    enhanced = ad.read_zarr(folder / "enhanced.zarr")
    np.testing.assert_array_equal(enhanced.X, both(folder, "lazy")[0])
    assert len(enhanced.uns["soscope"]["history"]["train_loss"]) == 100


def test_two_processes_that_are_killed_end_with_the_bits_of_uninterrupted_ones(folder):
    assert (folder / "killed" / "checkpoint.pt").exists()
    run(folder, "resume")
    expected, resumed = np.load(folder / "uninterrupted.npz"), np.load(folder / "resumed.npz")
    assert set(expected) == set(resumed)
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)
