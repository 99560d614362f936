"""Number of training steps: held-out spots decide it, and nothing else changes."""

import logging

import numpy as np
import pytest
import torch

from helpers import QUIET, seeded
from soscope_scverse import SoScope, datasets, pp
from soscope_scverse.model.training.steps import best_steps


def fitted(adata, **train):
    SoScope.setup_anndata(adata)
    model = SoScope(adata)
    model.train(**QUIET, **train)
    return model


def n_steps(model):
    return len(model.history["train_loss"])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]], 100),
        ([[4, 4, 4, 4], [2, 2, 2, 2], [3, 3, 3, 3]], 200),
        ([[4, 4, 4, 4], [4, 4, 4, 4], [3, 3, 3, 3]], 400),
        ([[3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]], 400),
        ([[3, 3, 3, 1], [2, 2, 4, 4], [3, 3, 3, 3]], 400),  # better on average, but not in most folds
        ([[8, 8, 0, 0], [2.9, 2.9, 2.9, 2.8], [3, 3, 3, 3]], 200),
    ],
)
def test_fewer_steps_need_evidence(scores, expected):
    assert best_steps(np.array(scores, dtype=float)) == expected


def test_spots_of_pure_noise_are_trained_for_a_shorter_time(caplog):
    """Positions and profiles are independent: all that more steps fit is the noise of the spots."""
    adata = datasets.synthetic_section(n_genes=20).adata[:60].copy()
    rng = np.random.default_rng(0)
    adata.X = rng.poisson(rng.gamma(2, 5, adata.shape)).astype(np.float32)
    pp.subspots(adata)
    pp.spot_graph(adata)
    with caplog.at_level(logging.INFO, logger="soscope_scverse"):
        model = seeded(fitted, adata)
    assert n_steps(model) < 400
    assert f"Training for {n_steps(model)} instead of 400 steps" in caplog.text


def test_a_given_length_is_kept_and_nothing_is_drawn_for_the_choice(prepared):
    states = []
    for length in ({"max_steps": 2}, {"max_epochs": 2}):
        model = seeded(fitted, prepared, **length)
        assert n_steps(model) == 2
        states.append(model.get_enhanced().X)
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize("clip", [{}, {"gradient_clip_val": None}], ids=["clipped", "not clipped"])
def test_the_choice_leaves_random_numbers_and_the_module_as_they_are(prepared, monkeypatch, clip):
    """400 steps that were chosen are those that were asked for."""
    from soscope_scverse.model.training import steps

    monkeypatch.setattr(steps, "_STEPS", (30, 35, 40))
    monkeypatch.setattr(steps, "best_steps", lambda scores: 4)
    chosen, given = (seeded(fitted, prepared, **length, **clip).get_enhanced().X for length in ({}, {"max_steps": 4}))
    np.testing.assert_array_equal(chosen, given)


def test_profiles_of_held_out_spots_are_not_seen(prepared):
    """The latent states of all spots are the same for other profiles of hidden ones."""
    SoScope.setup_anndata(prepared)
    model = seeded(fitted, prepared, max_steps=2)
    hidden = np.arange(prepared.n_obs) % 4 == 0
    section = model._section(model._inputs)
    other = section._replace(
        x=np.where(hidden[:, None], 7, section.x.toarray() if hasattr(section.x, "toarray") else section.x)
    )
    states = []
    for part in (section, other):
        tile = model._tiles(part).tile(hidden=hidden)
        with torch.no_grad():
            states.append(model.module.eval().inference(tile)["qz"].loc)
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert not torch.equal(states[0], model.module.inference(model._tiles(section).tile())["qz"].loc)
