"""Losses of a training."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt

from soscope_scverse import pl

pytestmark = pytest.mark.usefixtures("closed_figures")


HISTORY = {
    "pretrain_train_loss": [3.0, 2.0],
    "pretrain_reconstruction_loss_train": [2.0, 1.0],
    "pretrain_graph_loss_train": [1.0, 1.0],
    "train_loss": [2.0, 1.5, 1.0],
    "validation_loss": [2.5, 2.0, 1.5],
    "reconstruction_loss_train": [2.0, 1.0, 0.5],
    "image_loss_train": [0.3, 0.2, 0.1],
    "kl_global_train": [0.0, 0.0, 0.0],
}


class _Model:
    history = {name: pd.DataFrame({name: values}) for name, values in HISTORY.items()}  # noqa: RUF012


@pytest.mark.parametrize("of", ["result", "model"])
def test_history_of_both_phases(of, tmp_path):
    uns = {"soscope": {"history": {name: np.array(values) for name, values in HISTORY.items()}}}
    axes = pl.history(AnnData(uns=uns) if of == "result" else _Model(), save=tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    titles = {ax.get_title(): ax for ax in axes.ravel() if ax.axison}
    assert list(titles) == [
        *(f"pretraining: {term}" for term in ("loss", "reconstruction", "spot graph")),
        *(f"training: {term}" for term in ("loss", "reconstruction", "image")),
    ]
    train, validation = titles["training: loss"].lines
    np.testing.assert_array_equal(train.get_xydata(), [[1, 2], [2, 1.5], [3, 1]])
    np.testing.assert_array_equal(validation.get_ydata(), [2.5, 2, 1.5])
    np.testing.assert_array_equal(titles["pretraining: loss"].lines[0].get_ydata(), [3, 2])


def test_history_without_pretraining():
    history = {name: values for name, values in HISTORY.items() if not name.startswith("pretrain_")}
    assert pl.history(AnnData(uns={"soscope": {"history": history}})).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "missing"),
    [("image_loss_train", "training: image"), ("pretrain_graph_loss_train", "pretraining: spot graph")],
)
def test_a_loss_that_stays_at_ln_2_is_not_drawn(name, missing):
    def titles(history):
        axes = pl.history(AnnData(uns={"soscope": {"history": history}}))
        return [ax.get_title() for ax in axes.flat if ax.axison]

    before, after = titles(HISTORY), titles({**HISTORY, name: [0.6931, 0.6938, 0.6935]})
    assert missing in before
    assert after == [title for title in before if title != missing]


def test_no_history(small):
    for thing, advice in ((small.truth, "Pass a result of `tl.enhance`"), (object(), "Call `model.train")):
        with pytest.raises(ValueError, match=f"Expected the training losses in .*found none.*{advice}"):
            pl.history(thing)
    with pytest.raises(ValueError, match=r"`ax` to be 2 x 3 Axes, found shape \(1, 2\). Pass a row for each of"):
        pl.history(_Model(), ax=plt.subplots(1, 2, squeeze=False)[1])
