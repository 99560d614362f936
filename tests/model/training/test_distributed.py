"""Two processes on one machine, joined by gloo."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from soscope_scverse import SoScope, datasets, tl

SCRIPTS = Path(__file__).parent / "scripts"


def run(*command, killed=False):
    alone = {name: value for name, value in os.environ.items() if not name.startswith("COV_CORE")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=alone | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    assert done.returncode == (-signal.SIGKILL if killed else 0), done.stderr[-4000:]
    return done.stdout


def test_gradients_of_two_processes_are_those_of_one_on_the_same_tiles():
    told = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, SCRIPTS / "gradients.py")
    assert "process 0" in told
    assert "process 1" in told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run(SCRIPTS / "enhance.py", folder)
    return folder


def both(folder, name):
    return [np.load(folder / f"{name}_{rank}.npy") for rank in (0, 1)]


@pytest.mark.parametrize("name", ["lazy", "memory", "prior", "weights"])
def test_both_processes_hold_the_same(folder, name):
    first, second = both(folder, name)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


def test_the_prediction_of_two_processes_is_that_of_one(folder):
    for model, name in (("saved", "lazy"), ("model", "memory")):
        expected = SoScope.load(folder / model, accelerator="cpu").get_enhanced().X
        np.testing.assert_allclose(both(folder, name)[0], expected, rtol=1e-5, atol=1e-6)


def test_two_processes_are_as_good_as_one(folder):
    adata, image, truth = datasets.synthetic_section(60, n_genes=8)
    alone = tl.enhance(adata, image=image, accelerator="cpu", train_kwargs={"enable_progress_bar": False})
    scores = [np.corrcoef(x.ravel(), truth.layers["mean"].ravel())[0, 1] for x in (alone.X, both(folder, "lazy")[0])]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)


def test_the_store_of_two_processes_is_complete(folder):
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["enhanced.zarr", "model", "saved"]
    enhanced = ad.read_zarr(folder / "enhanced.zarr")
    np.testing.assert_array_equal(enhanced.X, both(folder, "lazy")[0])
    assert len(enhanced.uns["soscope"]["history"]["train_loss"]) == 400


def test_two_processes_that_are_killed_end_with_the_bits_of_uninterrupted_ones(tmp_path):
    run(SCRIPTS / "resume.py", tmp_path / "a", tmp_path / "expected.npz", 0)
    run(SCRIPTS / "resume.py", tmp_path / "b", tmp_path / "lost.npz", 7, killed=True)
    assert (tmp_path / "b" / "checkpoint.pt").exists()
    run(SCRIPTS / "resume.py", tmp_path / "b", tmp_path / "resumed.npz", 0)
    expected, resumed = np.load(tmp_path / "expected.npz"), np.load(tmp_path / "resumed.npz")
    assert set(expected) == set(resumed)
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)
