"""What ``preset="paper"`` sets, and what it refuses."""

import json

import mudata as md
import numpy as np
import pytest

from helpers import QUICK
from soscope_scverse import pp, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse._read import read_spots
from soscope_scverse.tl import _images, _options
from soscope_scverse.tl import _paper as paper

PLAIN = {"weight_decay": 0.0, "gradient_clip_val": None}
DEFAULTS = {
    "preset": "paper",
    "encoder": None,
    "image": None,
    "cells": None,
    "sources": "both",
    "likelihood": "nb",
    "max_epochs": None,
    "expectation": None,
    "genes": None,
    **dict.fromkeys(("features_kwargs", "model_kwargs", "train_kwargs")),
}


def resolved(adata, **options):
    return _options.resolved(DEFAULTS | options, read_spots(adata, None))


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Where the weights of Inception v3 are looked for; they are not there."""
    file = tmp_path / "inception.pth"
    monkeypatch.setattr(_images, "cached_weights", lambda: file)
    return file


@pytest.mark.parametrize(
    ("likelihood", "n_epochs", "lr"),
    [
        ("nb", 2500, 5e-4),
        ("poisson", 5000, 1e-4),
        ("gaussian", 10_000, 1e-3),
        ({"rna": "nb"}, 2500, 5e-4),
        ({"prot": "poisson", "rna": "nb"}, 8000, 1e-4),
        ({"atac": "gaussian", "rna": "nb"}, 4000, 1e-4),
    ],
)
def test_two_phases_are_as_long_as_in_the_published_examples(prepared, weights, likelihood, n_epochs, lr):
    found = resolved(prepared, likelihood=likelihood)["train_kwargs"]
    assert found == {"lr": lr, **PLAIN, "max_epochs": n_epochs, "pretrain_epochs": n_epochs}


def test_a_length_of_the_user_is_that_of_both_phases(prepared, weights):
    assert resolved(prepared, max_epochs=7)["train_kwargs"] == {"lr": 5e-4, **PLAIN, "pretrain_epochs": 7}
    given = resolved(prepared, train_kwargs={"max_epochs": 7, "lr": 0.01})["train_kwargs"]
    assert given == {"lr": 0.01, **PLAIN, "pretrain_epochs": 7, "max_epochs": 7}
    given = resolved(prepared, train_kwargs={"max_steps": 7})["train_kwargs"]
    assert given == {"lr": 5e-4, **PLAIN, "max_steps": 7}
    assert "pretrain_epochs" not in resolved(prepared, sources="image")["train_kwargs"]


def test_cells_deviate_from_the_mean_of_all_cells(prepared, weights):
    assert resolved(prepared)["model_kwargs"]["image_deviation"] == "observed"
    assert resolved(prepared, cells="cells.csv")["model_kwargs"]["image_deviation"] == "overall"
    prepared.uns["subspots"]["geometry"] = "cells"
    found = resolved(prepared)
    assert found["model_kwargs"]["image_deviation"] == "overall"
    assert found["train_kwargs"]["max_epochs"] == 8000


def test_the_encoder_is_that_of_the_paper_where_its_weights_are_at_hand(section, prepared, weights):
    adata = section.adata
    with pytest.warns(UserWarning, match=r"'inception_v3', has no weights at .*those of 'texture'"):
        found = resolved(adata, image=section.image)
    assert (found["encoder"], found["features_kwargs"]) == ("texture", {})
    assert resolved(prepared, image=section.image)["encoder"] == "texture"  # no features are computed: no warning
    assert resolved(adata, image=section.image, encoder="noise")["encoder"] == "noise"
    given = resolved(adata, image=section.image, features_kwargs={"weights": "own.pth"})
    assert (given["encoder"], given["features_kwargs"]) == ("inception_v3", {"context": 10.0, "weights": "own.pth"})
    weights.touch()
    found = resolved(adata, image=section.image)
    assert (found["encoder"], found["features_kwargs"]) == ("inception_v3", {"context": 10.0})
    for width in ({"context": 4.0}, {"context_um": 50.0}):
        assert resolved(adata, image=section.image, features_kwargs=width)["features_kwargs"] == width
    assert resolved(adata, image=section.image, preset="default")["encoder"] == "texture"


def test_every_argument_of_the_preset_is_one_of_the_model(prepared):
    """Nothing is reachable by the preset alone: the same arguments make the same result."""
    del prepared.obsp["spot_graph"]
    result = tl.enhance(prepared, preset="paper", encoder="precomputed", **QUICK)
    arguments = json.loads(result.uns["soscope"]["arguments"])
    pp.spot_graph(prepared, normalize=False)
    own = {
        "model_kwargs": paper.model_kwargs(has_cells=False),
        "train_kwargs": {"lr": 5e-4, **PLAIN, "pretrain_epochs": 4, "enable_progress_bar": False},
    }
    assert arguments["model_kwargs"] == {"sources": "both", **own["model_kwargs"]}
    by_hand = tl.enhance(prepared, expectation="decoded", encoder="precomputed", **QUICK | own)
    np.testing.assert_array_equal(by_hand.X, result.X)


@pytest.mark.parametrize("likelihood", ["nb", "gaussian"])
def test_samples_without_a_measured_dispersion_are_refused(prepared, monkeypatch, likelihood):
    """Before any training, and of a model that was trained."""
    options = {"preset": "paper", "likelihood": likelihood, "encoder": "precomputed", **QUICK}
    with monkeypatch.context() as patched:
        patched.setattr("soscope_scverse.tl._enhance.prepare", lambda *_: pytest.fail("it goes on"))
        with pytest.raises(ValueError, match=r"no posterior samples .* measures the dispersion of"):
            tl.enhance(prepared, n_samples=2, **options)
    _, model = tl.enhance(prepared, return_model=True, **options)
    with pytest.raises(ValueError, match="no posterior samples"):
        model.get_enhanced(n_samples=2)
    with pytest.raises(ValueError, match="no posterior samples"):
        model.sample_enhanced(2)
    if likelihood == "nb":  # one dispersion per feature is estimated from the spots
        tl.enhance(prepared, n_samples=2, **options, model_kwargs={"dispersion": "feature"})


@pytest.mark.parametrize("likelihood", [{"prot": "poisson", "rna": "nb"}, {"prot": "gaussian", "rna": "nb"}])
def test_two_modalities_are_not_weighted(section, likelihood):
    """The two combinations of the published code; the second is its "GNB"."""
    rna, prot = section.adata[:, 3:].copy(), section.adata[:, :3].copy()
    prot.var_names = [f"protein {i}" for i in range(3)]
    if likelihood["prot"] == "gaussian":
        prot.X = np.log1p(prot.X.toarray())
    with columns_apart():
        mdata = md.MuData({"prot": prot, "rna": rna})
    result, model = tl.enhance(
        mdata, preset="paper", likelihood=likelihood, encoder="noise", return_model=True, **QUICK
    )
    assert (model.module.modality_weight == 1).all()
    assert model.module.residual_length.shape == (2,)
    assert all(np.isfinite(np.asarray(result[name].X)).all() for name in likelihood)
    with pytest.raises(ValueError, match="measures the dispersion of"):
        model.get_enhanced(n_samples=2)


def test_poisson_samples_need_no_dispersion(prepared):
    options = {"preset": "paper", "likelihood": "poisson", "encoder": "precomputed", **QUICK}
    result = tl.enhance(prepared, n_samples=3, expectation="conditional", **options)
    counts = np.asarray(result.layers["sampled_counts"]).reshape(60, 7, 8).sum(axis=1)
    np.testing.assert_array_equal(counts, prepared.X.toarray())
