"""Trainings that are killed, interrupted or diverge."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from helpers import QUIET
from soscope_scverse import SoScope, tl
from soscope_scverse.model.training.checkpoints import Checkpoints
from soscope_scverse.model.training.datamodule import TileDataModule

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
train = runpy.run_path(str(SCRIPT))


@pytest.fixture(autouse=True)
def _before_every_epoch(monkeypatch):
    monkeypatch.setattr(SoScope, "_checkpoints_cls", staticmethod(partial(Checkpoints, seconds=0)))
    monkeypatch.setattr(SoScope, "_data_splitter_cls", TileDataModule)  # the script changes it


@pytest.fixture(autouse=True)
def _heeds_ctrl_c():
    """As at a terminal; jobs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def assert_same(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# "whole" pretrains for 2 steps and "early" for 66; "tiles" has 3 batches a step, "steps" 15 steps a pass
KILLED = {"whole": 1, "tiles": 22, "steps": 28, "early": 90}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folder with the checkpoints of trainings that were killed, by case."""
    folder = tmp_path_factory.mktemp("killed")
    alone = {name: value for name, value in os.environ.items() if not name.startswith("COV_CORE")}
    cases = [word for case, step in KILLED.items() for word in (case, str(step))]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), *cases]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
    assert done.stdout.split() == [word for case in KILLED for word in (case, str(-signal.SIGKILL))], done.stderr[
        -4000:
    ]
    return folder


@pytest.fixture(scope="module")
def uninterrupted(_prepared):
    """What an uninterrupted training leaves, by case."""
    return cache(lambda case: train["bits"](train["trained"](_prepared.copy(), case)))


@pytest.mark.parametrize("case", KILLED)
def test_a_killed_training_ends_with_the_bits_of_an_uninterrupted_one(prepared, killed, uninterrupted, case):
    assert (killed / case / "checkpoint.pt").exists()
    # another seed: the random state is that of the checkpoint
    resumed = train["bits"](train["trained"](prepared, case, killed / case, seed=7))
    assert_same(resumed, uninterrupted(case))


@pytest.fixture(scope="module")
def finished_training(_prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder, train["bits"](train["trained"](_prepared.copy(), "tiles", folder))


def test_a_finished_training_is_taken_from_its_checkpoint(prepared, finished_training, monkeypatch):
    folder, expected = finished_training
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", None)  # is not called
    again = train["trained"](prepared, "tiles", folder, seed=7)
    assert again.is_trained
    assert_same(train["bits"](again), expected)


def test_checkpoints_change_nothing(finished_training, uninterrupted):
    assert_same(finished_training[1], uninterrupted("tiles"))


@pytest.fixture(scope="module")
def stopped_training(_prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(RuntimeError, match="power"):
        train["trained"](_prepared.copy(), "whole", folder, callbacks=[train["Stop"](6)])
    return folder


@pytest.fixture
def stopped(stopped_training, tmp_path):
    """Folder with the checkpoint of a training of `prepared` that ended early."""
    return Path(shutil.copytree(stopped_training, tmp_path / "run"))


def go_on(adata, folder, model=None, **options):
    SoScope.setup_anndata(adata)
    model = SoScope(adata, image_strength=1, **(model or {}))
    model.train(**{**train["CASES"]["whole"], **QUIET, "checkpoint_dir": folder, "resume": True, **options})


def others(adata, kind):
    if kind == "genes":
        return adata[:, ::-1].copy()
    other = adata.copy()
    if kind == "spots":
        other.obs_names = [f"other_{name}" for name in other.obs_names]
    if kind == "profiles":
        x = other.X.toarray()
        x[3, 2] += 1
        other.X = x
    if kind == "image features":
        other.obsm["subspot_features"] = other.obsm["subspot_features"][::-1].copy()
    return other


@pytest.mark.parametrize("kind", ["genes", "spots", "profiles", "image features"])
def test_checkpoints_of_other_data_are_refused(prepared, stopped, kind):
    name = "names of features" if kind == "genes" else kind
    with pytest.raises(ValueError, match=f"checkpoint of this run .* with other .*{name}"):
        go_on(others(prepared, kind), stopped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.01}, r"lr \(0.002 there, 0.01 here\)"),
        ({"max_epochs": 13}, "max_epochs"),
        ({"model": {"n_latent": 8}}, r"n_latent \('32' there, '8' here\)"),
        ({"model": {"likelihood": "poisson"}}, "likelihood"),
    ],
    ids=str,
)
def test_checkpoints_of_other_arguments_are_refused(prepared, stopped, options, message):
    with pytest.raises(ValueError, match=message):
        go_on(prepared, stopped, **options)


def test_a_checkpoint_of_another_seed_is_refused(section, tmp_path):
    run = {"max_epochs": 2, "accelerator": "cpu", "checkpoint_dir": tmp_path / "run", "resume": True}
    quiet = {"train_kwargs": {"enable_progress_bar": False}}
    first = tl.enhance(section.adata, sources="positions", **run, **quiet)
    again = tl.enhance(section.adata, sources="positions", **run, **quiet)
    np.testing.assert_array_equal(again.X, first.X)
    with pytest.raises(ValueError, match=r"other seed \(0 there, 5 here\)"):
        tl.enhance(section.adata, sources="positions", seed=5, **run, **quiet)


def test_inputs_that_were_computed_again_are_the_same_up_to_rounding(prepared, stopped):
    prepared.obsm["subspot_features"] *= np.float32(1 + 1e-7)
    go_on(prepared, stopped)


def test_a_checkpoint_is_not_written_over_unasked(prepared, stopped):
    before = (stopped / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="resume=True"):
        go_on(prepared, stopped, resume=False)
    assert (stopped / "checkpoint.pt").read_bytes() == before
    with pytest.raises(ValueError, match="checkpoint_dir"):
        go_on(prepared, None)


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"x" * 999])
def test_damaged_checkpoints_are_refused(prepared, stopped, damage):
    path = stopped / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot be read as one.*Remove it"):
        go_on(prepared, stopped)


def test_checkpoints_of_a_newer_format_are_refused(prepared, stopped):
    path = stopped / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    with pytest.raises(ValueError, match="format 99"):
        go_on(prepared, stopped)


def test_a_checkpoint_runs_no_code(prepared, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"format": 1, "run": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        go_on(prepared, tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_leaves_the_last_checkpoint(prepared, uninterrupted, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def full(content, path):
        calls.append(path)
        save(content, path)
        if len(calls) > 3:
            Path(path).write_bytes(Path(path).read_bytes()[:1000])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            train["trained"](prepared.copy(), "whole", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert_same(train["bits"](train["trained"](prepared, "whole", tmp_path)), uninterrupted("whole"))


def test_what_killed_writers_left_is_removed(prepared, tmp_path):
    (tmp_path / ".checkpoint.0123abcd.part.pt").write_bytes(b"half")
    train["trained"](prepared, "whole", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_training_draws_from_torch_alone(prepared):
    import random

    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    train["trained"](prepared, "tiles")
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


class Press(Callback):
    """Ctrl-C after some steps."""

    def __init__(self, *steps):
        self.steps, self.step = steps, 0

    def on_train_batch_end(self, *_):
        self.step += 1
        if self.step in self.steps:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_the_model(prepared):
    SoScope.setup_anndata(prepared)
    model = SoScope(prepared, image_strength=1)
    with pytest.warns(UserWarning, match=r"interrupted \(Ctrl-C\) after 5 of 30 steps.*last step"):
        model.train(30, callbacks=[Press(10)], **QUIET)  # 5 steps of the first phase come before
    assert model.is_trained
    assert len(model.history["train_loss"]) == 5
    assert len(model.history["pretrain_train_loss"]) == 5
    total = model.get_enhanced(n_samples=2).X.reshape(60, 7, 8).sum(axis=1)
    np.testing.assert_allclose(total, prepared.X.toarray(), rtol=1e-4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    model.train(2, **QUIET)


def test_ctrl_c_keeps_the_best_weights(prepared):
    SoScope.setup_anndata(prepared)
    model = SoScope(prepared, image_strength=1)

    class Worse(Press):
        def on_train_batch_end(self, trainer, plan, *_):
            if self.step == 20:
                self.good = plan.module.baseline.detach().clone()
                plan.module.baseline.data += 3  # and no score until the end
            super().on_train_batch_end()

    worse = Worse(24)
    options = {"train_size": 0.8, "pretrain_epochs": 0, "lr": 1e-9}
    with pytest.warns(UserWarning, match="scored best on the held-out molecules"):
        model.train(60, callbacks=[worse], **options, **QUIET)
    assert model.trainer.global_step == 24
    baseline = model.module.baseline.detach() - np.log(1 / 0.8)  # at full depth
    torch.testing.assert_close(baseline.float(), worse.good, rtol=1e-4, atol=1e-4)


def test_ctrl_c_in_the_first_phase_and_a_second_one_end_at_once(prepared):
    SoScope.setup_anndata(prepared)
    for presses in ([Press(2)], [Press(10), Press(10)]):
        model = SoScope(prepared, image_strength=1)
        with pytest.raises(KeyboardInterrupt):
            model.train(30, callbacks=presses, **QUIET)
        assert not model.is_trained
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_enhance_with_nothing_written(section, tmp_path):
    options = {"max_epochs": 30, "accelerator": "cpu", "save_model": tmp_path / "model", "out": tmp_path / "e.zarr"}
    train_kwargs = {"enable_progress_bar": False, "callbacks": [Press(10)]}
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        tl.enhance(section.adata, image=section.image, train_kwargs=train_kwargs, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_on_the_command_line_leave_a_checkpoint(section, tmp_path, number):
    section.adata.write_h5ad(tmp_path / "in.h5ad")
    start = "from soscope_scverse.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", start, "enhance", "in.h5ad", "--out", "out.zarr"]
    options = ["--accelerator", "cpu", "--max-epochs", "100000", "--checkpoint-dir", "checkpoints"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, *options], cwd=tmp_path, text=True, **pipes)
    while process.poll() is None and not (tmp_path / "checkpoints").exists():  # made when the training begins
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert out == ""
    assert "Traceback" not in err
    assert f"Stopped by {number.name}." in err.splitlines()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "in.h5ad"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint.pt"]


def test_an_interrupted_training_resumes_from_where_it_was(prepared, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(SoScope, "_checkpoints_cls", Checkpoints)  # whose next checkpoint is due in 30 seconds
    monkeypatch.setattr(train["trained"].__globals__["Checkpoints"], "is_outdated", True)
    monkeypatch.setitem(train["trained"].__globals__, "Checkpoints", lambda *args, seconds: Checkpoints(*args))
    with pytest.warns(UserWarning, match="interrupted"):
        train["trained"](prepared, "whole", tmp_path, callbacks=[Press(7)])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert_same(train["bits"](train["trained"](prepared, "whole", tmp_path)), uninterrupted("whole"))


def test_enhance_resumes(section, tmp_path):
    options = {"image": section.image, "max_epochs": 8, "accelerator": "cpu", "n_samples": 2}
    expected = tl.enhance(section.adata, train_kwargs={"enable_progress_bar": False}, **options)
    run = {"checkpoint_dir": tmp_path, "resume": True}
    with pytest.raises(RuntimeError, match="power"):
        tl.enhance(
            section.adata,
            train_kwargs={"enable_progress_bar": False, "callbacks": [train["Stop"](5)]},
            **run,
            **options,
        )
    for _ in range(2):  # from the checkpoint, then from the finished training
        resumed = tl.enhance(section.adata, train_kwargs={"enable_progress_bar": False}, **run, **options)
        np.testing.assert_array_equal(resumed.X, expected.X)
        np.testing.assert_array_equal(resumed.layers["sampled_counts"], expected.layers["sampled_counts"])


@pytest.mark.parametrize(
    ("term", "words"),
    [("reconstruction_loss", "reconstruction of the spots"), ("image_loss", "image regulariser")],
)
def test_divergence_names_the_term_and_what_to_try(prepared, monkeypatch, term, words):
    SoScope.setup_anndata(prepared)
    model = SoScope(prepared, image_strength=1)
    loss = model.module.loss

    def broken(*args, **kwargs):
        output = loss(*args, **kwargs)
        terms = output.extra_metrics if term == "image_loss" else output.reconstruction_loss
        terms[term] = terms[term] * float("nan")
        output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(model.module, "loss", broken)
    with pytest.raises(FloatingPointError, match=rf"epoch 0: the {words} not finite\. Lower the learning rate \(`lr="):
        model.train(3, pretrain_epochs=0, **QUIET)
