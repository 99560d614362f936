"""What a user reads while a model is trained."""

import logging

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar

from helpers import seeded
from soscope_scverse import SoScope


def trained(adata, **options):
    SoScope.setup_anndata(adata)
    model = seeded(SoScope, adata)
    seeded(model.train, 6, accelerator="cpu", **options)
    return model


@pytest.fixture
def lines(caplog):
    with caplog.at_level(logging.INFO, logger="soscope_scverse.model.training.progress"):
        yield caplog


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Where progress bars are readable: what pytest captures is never a terminal, so it is said to be a notebook."""
    monkeypatch.setattr("soscope_scverse._progress.tqdm_of_terminals", None)
    return capsys


def test_one_line_before_the_training(prepared, lines, terminal):
    trained(prepared)
    (line,) = [record.message for record in lines.records if "progress" in record.name]
    assert line.startswith("Training on 60 spots x 7 subspots x 8 features: 7 steps of ")
    assert "seconds" in line
    assert "GB" in line
    out, err = terminal.readouterr()
    assert out == ""
    assert line not in err  # it is in the log
    assert "Pre-training the encoder: 100%" in err
    assert "Training: 100%" in err
    assert "train_loss" in err


def test_without_a_log_the_line_is_above_the_bars(prepared, terminal):
    trained(prepared)
    first, _, bars = terminal.readouterr().err.partition("\n")
    assert first.startswith("Training on 60 spots")
    assert "Training: 100%" in bars


def test_no_bars_in_a_file(prepared, capsys):
    trained(prepared, enable_progress_bar=True)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_without_progress_bars(prepared, terminal):
    trained(prepared, enable_progress_bar=False)
    assert terminal.readouterr().err == ""


class Own(ProgressBar):
    """Counts epochs."""

    epochs = 0

    def disable(self):
        """Nothing to hide."""

    def on_train_epoch_end(self, *_):
        """Count."""
        self.epochs += 1


def test_a_progress_bar_of_the_user_replaces_ours(prepared, terminal):
    own = Own()
    trained(prepared, callbacks=[own])
    assert own.epochs == 7
    assert "100%" not in terminal.readouterr().err


def test_an_exception_closes_the_bar(prepared, terminal):
    class Stop(Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        trained(prepared, callbacks=[Stop()])
    out, err = terminal.readouterr()
    assert out == ""
    assert err.endswith("\n")  # what follows is below the bar


def test_the_step_that_is_timed_changes_nothing(prepared, lines):
    with_line = trained(prepared, enable_progress_bar=False).module.state_dict()
    assert any("Training on" in record.message for record in lines.records)
    logging.getLogger("soscope_scverse.model.training.progress").setLevel(logging.WARNING)
    without = trained(prepared, enable_progress_bar=False).module.state_dict()
    for name, value in without.items():
        torch.testing.assert_close(with_line[name], value, rtol=0, atol=0)
