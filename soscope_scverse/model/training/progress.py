"""What a user reads while a model is trained: what it will take, and which phase it is in."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback
from tqdm.auto import tqdm

from soscope_scverse.model.training.datamodule import TileDataModule
from soscope_scverse.module.vae import SoScopeVAE

logger = logging.getLogger(__name__)

PRETRAIN, TRAIN = "pretrain", "train"
"""Phases of a training."""
_WORDS = {PRETRAIN: "Pre-training the encoder", TRAIN: "Training"}


class PhaseName(Callback):
    """Names the phase in the progress bar.

    Parameters
    ----------
    phase
        The phase.
    """

    def __init__(self, phase: str) -> None:
        self.words = _WORDS[phase]

    def on_train_epoch_start(self, trainer: Any, plan: Any) -> None:
        """Replace the words that the bar has set, if it is one with words."""
        bar = getattr(trainer.progress_bar_callback, "main_progress_bar", None)
        if bar is not None and hasattr(bar, "set_description"):
            bar.set_description(f"{self.words}, epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def announce(message: str, *, shown: bool) -> None:
    """Log a line, and write it above the progress bars if these are shown."""
    logger.info(message)
    if shown:
        tqdm.write(message, file=sys.stderr)


def announce_training(module: SoScopeVAE, data: TileDataModule, n_steps: int, *, shown: bool) -> None:
    """Announce the size of a training and, from one step that is timed, how long it takes and in how much memory.

    Parameters
    ----------
    module
        The module, which is not changed.
    data
        Tiles to train on.
    n_steps
        Steps of both phases.
    shown
        Whether progress bars are shown.
    """
    if not (shown or logger.isEnabledFor(logging.INFO)):
        return
    n_spots, n_subspots = data.tiles.section.exposure.shape
    seconds = data.n_accumulated * _seconds(module, next(iter(data.epoch(0))))
    memory = _peak_gb()
    announce(
        f"Training on {n_spots:,} spots x {n_subspots} subspots x {module.n_features:,} features: {n_steps} steps of "
        f"{seconds:.2g} s, about {_duration(n_steps * seconds)}{'' if memory is None else f', {memory:.1f} GB'}, "
        f"with {torch.get_num_threads()} threads on {next(module.parameters()).device.type}.",
        shown=shown,
    )


def _seconds(module: SoScopeVAE, tile: dict[str, torch.Tensor]) -> float:
    """Seconds that a tile takes, forward and backward; random states and gradients stay as they are."""
    device = next(module.parameters()).device
    tile = {name: value.to(device) for name, value in tile.items()}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        start = time.perf_counter()
        *_, output = module(tile)
        output.loss.backward()
        seconds = time.perf_counter() - start
    module.zero_grad(set_to_none=True)
    return seconds


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _peak_gb() -> float | None:
    """Largest memory of the process so far, in units of 10^9 bytes; None where the system does not keep it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
