"""Number of training steps of a section of few spots: as long as spots that are held out are predicted better.

Networks that are trained for too long on few spots fit the noise of these, and less of what lies between them.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scvi.module.base import LossOutput

from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.training.plan import adam
from soscope_scverse.module.vae import SoScopeVAE, Tensors

N_STEPS = 400
"""Steps of a training whose length is not given."""

_STEPS = (100, 200, N_STEPS)
_FEWEST_SPOTS, _MOST_SPOTS = 16, 128  # the first trains on 12; with more spots all steps pay
_FOLDS = 4
_EVERY, _SCORES = 10, 3  # a score is the mean of three, ten steps apart: masks and latent states are random


def training_steps(module: SoScopeVAE, tiles: Tiles, *, lr: float, weight_decay: float, clip: float | None) -> int:
    """Number of steps after which spots that the networks were not trained on are predicted best.

    Parameters
    ----------
    module
        Not trained, with its starting values; it is not changed.
    tiles
        Of its section.
    lr, weight_decay, clip
        Of the training; `clip` is the largest norm of the gradients, None or 0 any.

    Returns
    -------
    100, 200 or 400 (see :func:`best_steps`); 400 for sections of fewer than 16 or more than 128 spots.
    """
    if not _FEWEST_SPOTS <= tiles.n_spots <= _MOST_SPOTS:
        return _STEPS[-1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fold = torch.randperm(tiles.n_spots).numpy() % _FOLDS
        curves = [_curve(copy.deepcopy(module), tiles, fold == i, lr, weight_decay, clip) for i in range(_FOLDS)]
    ends = [steps // _EVERY for steps in _STEPS]
    return best_steps(np.stack([np.mean([curve[end - _SCORES : end] for curve in curves], axis=1) for end in ends]))


def best_steps(scores: np.ndarray) -> int:
    """Number of steps with the lowest mean score, and 400 unless fewer are better by more than a standard error.

    Parameters
    ----------
    scores
        Of 100, 200 and 400 steps in every fold, 3 x n_folds.
    """
    gain = scores[-1] - scores
    error = gain.std(axis=1, ddof=1) / gain.shape[1] ** 0.5
    expected = np.where(gain.mean(axis=1) > error, gain.mean(axis=1), 0.0)
    return _STEPS[int(expected.argmax())] if expected.any() else _STEPS[-1]


def _curve(
    module: SoScopeVAE, tiles: Tiles, held_out: np.ndarray, lr: float, weight_decay: float, clip: float | None
) -> list[float]:
    """Negative log likelihood of the held-out spots, every ten steps of a training on the others."""
    steps = _STEPS[-1]
    optimizer, schedule = adam(module, steps, lr, weight_decay)
    kept, scored = (tiles.tile(np.flatnonzero(rows), hidden=held_out) for rows in (~held_out, held_out))
    curve = []
    for step in range(1, steps + 1):
        module.train()
        optimizer.zero_grad()
        _loss(module, kept).loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        schedule.step()
        if step % _EVERY == 0:
            module.eval()
            with torch.no_grad():
                curve.append(_loss(module, scored).reconstruction_loss_sum.item() / held_out.sum())
    return curve


def _loss(module: SoScopeVAE, tile: Tensors) -> LossOutput:
    return module(tile)[2]
