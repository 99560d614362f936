"""What ``preset="paper"`` sets: the model of Li et al. 2024 and, where the paper gives no number, that of its code.

docs/model.md lists what is as published and what is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MODEL_KWARGS: Mapping[str, Any] = {
    "n_latent": 128,
    "decoder": "joint",
    "interpolation": "none",
    "observation": "gaussian",
    "dispersion": "shape",
    "image_shrinkage": 0.0,
    "n_image_components": 2048,
    "image_strength": 1.0,
    "kriging": False,
    "library_size_noise": 0.0,
    "masked": 0.0,
    "n_graph_samples": None,
    "loss_per": "spot",
}

ENCODER = "inception_v3"
CONTEXT = 10.0
"""Width of the patch of a subspot, in spot radii."""


class _Training(NamedTuple):
    """Length and learning rate of a training in the published code's examples (soScope_demo)."""

    n_epochs: int
    """Of each of the two phases."""
    lr: float
    """Of the second phase."""


_TRAININGS: Mapping[frozenset[str], _Training] = {
    frozenset({"nb"}): _Training(2500, 5e-4),
    frozenset({"poisson"}): _Training(5000, 1e-4),
    frozenset({"gaussian"}): _Training(10_000, 1e-3),
    frozenset({"poisson", "nb"}): _Training(8000, 1e-4),
    frozenset({"gaussian", "nb"}): _Training(4000, 1e-4),
}
_JOINT = _TRAININGS[frozenset({"poisson", "nb"})]  # of other combinations there is no example
_CELLS = _Training(8000, 1e-4)


def model_kwargs(*, has_cells: bool) -> dict[str, Any]:
    """Arguments of the model; those of cells differ in what the image regulariser compares."""
    return {**MODEL_KWARGS, "image_deviation": "overall" if has_cells else "observed"}


def train_kwargs(
    likelihood: str | Mapping[str, str],
    max_epochs: int | None,
    given: Mapping[str, Any],
    *,
    has_cells: bool,
    pretrains: bool,
) -> dict[str, Any]:
    """Arguments of the training: two phases of equal length, without weight decay and gradient clipping.

    Parameters
    ----------
    likelihood
        That of the only modality, or of each.
    max_epochs, given
        Length and further arguments of the training that the user gives; they take precedence.
    has_cells
        Whether subspots are cells.
    pretrains
        Whether there are latent states to pre-train.
    """
    names = frozenset([likelihood] if isinstance(likelihood, str) else likelihood.values())
    n_epochs, lr = _CELLS if has_cells else _TRAININGS.get(names, _JOINT)
    kwargs: dict[str, Any] = {"lr": lr, "weight_decay": 0.0, "gradient_clip_val": None}
    if given.get("max_steps") is not None:
        return kwargs
    asked = max_epochs or given.get("max_epochs")
    if not asked:
        kwargs["max_epochs"] = n_epochs
    if pretrains:
        kwargs["pretrain_epochs"] = asked or n_epochs
    return kwargs
