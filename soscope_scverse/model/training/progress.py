"""What a user reads while a model is trained: what it will take, and how far it is.

Everything is written to standard error, since standard output belongs to the user's script.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import ProgressBar

from soscope_scverse._progress import bars_are_readable, progress_bar, write_above
from soscope_scverse.model.training.datamodule import TileDataModule
from soscope_scverse.module.vae import SoScopeVAE

logger = logging.getLogger(__name__)

PRETRAIN, TRAIN = "pretrain", "train"
"""Phases of a training."""
_WORDS = {PRETRAIN: "Pre-training the encoder", TRAIN: "Training"}


class PhaseBar(ProgressBar):
    """Progress bar of a phase, in epochs, with the loss of the last one.

    It replaces that of scvi-tools, which writes to standard output and stays open after an exception.

    Parameters
    ----------
    phase
        The phase.
    """

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._words, self._is_enabled = _WORDS[phase], True
        self._bar: Any = None

    def disable(self) -> None:
        """Show no bar; Lightning calls this on all processes but the first."""
        self._is_enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._is_enabled = True

    def on_train_start(self, trainer: Any, plan: Any) -> None:
        """Begin at the epoch that a checkpoint was written at."""
        done, total = trainer.current_epoch, trainer.max_epochs
        self._bar = progress_bar(shown=self._is_enabled, desc=self._words, initial=done, total=total, unit="epoch")

    def on_train_epoch_end(self, trainer: Any, plan: Any) -> None:
        """Advance the bar."""
        losses = {name: value for name, value in self.get_metrics(trainer, plan).items() if name != "v_num"}
        self._bar.set_postfix(losses, refresh=False)
        self._bar.update()

    def on_train_end(self, trainer: Any, plan: Any) -> None:
        """Close the bar."""
        self._bar.close()

    def on_exception(self, trainer: Any, plan: Any, exception: BaseException) -> None:
        """Close the bar, so that the error is below it."""
        if self._bar is not None:  # else it has failed before the first step
            self._bar.close()


def with_progress_bar(trainer_kwargs: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """Return arguments of the trainer of scvi-tools, with a progress bar unless these decide otherwise.

    Parameters
    ----------
    trainer_kwargs
        Arguments of the user: ``enable_progress_bar=False`` shows no bar, ``simple_progress_bar=False`` that of
        Lightning, and a progress bar among the callbacks is used.
    phase
        The phase that the bar is for.
    """
    callbacks = list(trainer_kwargs.get("callbacks") or [])  # scvi-tools appends to the list
    wanted = [trainer_kwargs.get(name, True) for name in ("enable_progress_bar", "simple_progress_bar")]
    if all(wanted) and not any(isinstance(one, ProgressBar) for one in callbacks):
        callbacks.append(PhaseBar(phase))
    return {**trainer_kwargs, "callbacks": callbacks, "simple_progress_bar": False}


def announce_training(module: SoScopeVAE, data: TileDataModule, n_steps: int, *, bars: bool) -> None:
    """Announce the size of a training and, from one step that is timed, how long it takes and in how much memory.

    This is a line of the log; where the log is not shown but progress bars are, it is written above these.

    Parameters
    ----------
    module
        The module, which is not changed.
    data
        Tiles to train on.
    n_steps
        Steps of both phases.
    bars
        Whether progress bars are wanted.
    """
    is_logged = logger.isEnabledFor(logging.INFO)
    if not is_logged and not (bars and bars_are_readable()):
        return
    n_spots, n_subspots = data.tiles.section.exposure.shape
    seconds = data.n_accumulated * _seconds(module, next(iter(data.epoch(0))))
    memory = _peak_gb()
    line = (
        f"Training on {n_spots:,} spots x {n_subspots} subspots x {module.n_features:,} features: {n_steps} steps of "
        f"{seconds:.2g} s, about {_duration(n_steps * seconds)}{'' if memory is None else f', {memory:.1f} GB'}, "
        f"with {torch.get_num_threads()} threads on {next(module.parameters()).device.type}."
    )
    if is_logged:
        logger.info(line)
    else:
        write_above(line)


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
