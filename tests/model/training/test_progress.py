"""What a user reads while a model is trained."""

import logging

import pytest
import torch

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


def test_one_line_before_the_training(prepared, lines, capsys):
    trained(prepared, enable_progress_bar=True)
    (line,) = [record.message for record in lines.records if "progress" in record.name]
    assert line.startswith("Training on 60 spots x 7 subspots x 8 features: 7 steps of ")
    assert "seconds" in line
    assert "GB" in line
    shown, err = capsys.readouterr()  # scvi-tools writes its bars to standard output
    assert line in err
    assert "Pre-training the encoder, epoch 1/1" in shown
    assert "Training, epoch 6/6" in shown


def test_nothing_is_shown_without_progress_bars(prepared, capsys):
    trained(prepared, enable_progress_bar=False)
    assert capsys.readouterr().err == ""


def test_the_step_that_is_timed_changes_nothing(prepared, lines):
    with_line = trained(prepared, enable_progress_bar=False).module.state_dict()
    assert any("Training on" in record.message for record in lines.records)
    logging.getLogger("soscope_scverse.model.training.progress").setLevel(logging.WARNING)
    without = trained(prepared, enable_progress_bar=False).module.state_dict()
    for name, value in without.items():
        torch.testing.assert_close(with_line[name], value, rtol=0, atol=0)
