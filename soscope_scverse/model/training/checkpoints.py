"""Checkpoints: interrupted training resumes bit-for-bit from the last one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from dask.base import tokenize
from lightning.pytorch import Callback

from soscope_scverse._files import completed, remove_unfinished
from soscope_scverse._upstream import set_epoch
from soscope_scverse._validators import check_folder
from soscope_scverse.model._inputs import Inputs
from soscope_scverse.model._plain_values import curves, plain, tables

logger = logging.getLogger(__name__)

_NAME = "checkpoint.pt"
_DONE = "done"
_FORMAT = 1
_DECIDING = (
    *("max_epochs", "max_steps", "pretrain_epochs", "batch_size", "train_size", "early_stopping"),
    *("lr", "weight_decay", "kl_weight", "seed"),
)
"""Arguments of :meth:`SoScope.train` that determine the result."""
_KEPT_SECONDS = 1.0  # of a training that may be lost at Ctrl-C or SIGTERM
_ROUNDING = 1e-6  # relative difference of inputs that were computed again, perhaps by another processor


def check_checkpoint(folder: str | PathLike | None, *, resume: bool) -> None:
    """Raise if a folder has a checkpoint that is not to be resumed, or if there is no folder to resume from."""
    if folder is None:
        if resume:
            msg = "Expected `checkpoint_dir` with `resume=True`, found None. Name the folder of the checkpoint."
            raise ValueError(msg)
        return
    check_folder("checkpoint_dir", folder)
    path = Path(folder) / _NAME
    if path.exists() and not resume:
        msg = (
            f"Expected no checkpoint in `checkpoint_dir`, found {str(path)!r}. Pass `resume=True` to resume from it, "
            "choose another folder, or remove the file."
        )
        raise ValueError(msg)


class Checkpoints:
    """The checkpoint of a training: one file in a folder, replaced by the next one; read if it exists.

    It is written between two epochs, or when the process is asked to end, and contains everything that the rest of the
    training depends on: weights, optimiser, learning rate, random states, early stopping and history. The seeds of the
    tiles and of the held-out molecules follow from the random state at the start, which is restored on resumption.

    Parameters
    ----------
    folder
        Created if it does not exist.
    run
        Arguments and inputs by name, in plain values, that identify the run, see :func:`describe_run`.
    seconds
        Least time between two checkpoints.

    Raises
    ------
    ValueError
        If there is a checkpoint that cannot be read or is that of another run.
    """

    def __init__(self, folder: str | PathLike, run: Mapping[str, Any], *, seconds: float = 30.0) -> None:
        self.path = Path(folder) / _NAME
        self.run = plain(run)
        self.seconds = seconds
        self.start = torch.get_rng_state()
        self.saved: dict[str, Any] | None = None
        self.kept: dict[str, Any] | None = None
        self.kept_at = -math.inf
        self.written = time.monotonic()
        if self.path.exists():
            self.saved = self._read()
            self.start = self.saved["start"]
            torch.set_rng_state(self.start)
            logger.info("Resuming from %s (%s).", self.path, self.saved["phase"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)

    @property
    def finished(self) -> dict[str, Any] | None:
        """The checkpoint if the training was finished: ``module``, ``history`` and ``end``, the random state."""
        return self.saved if self.saved is not None and self.saved["phase"] == _DONE else None

    def resumed(self, phase: str) -> dict[str, Any] | None:
        """State of the trainer at the checkpoint if it is of this phase."""
        return self.saved["fit"] if self.saved is not None and self.saved["phase"] == phase else None

    @property
    def is_outdated(self) -> bool:
        """Whether the training has gone on for so long that its state is worth keeping."""
        return time.monotonic() - self.kept_at >= min(_KEPT_SECONDS, self.seconds)

    def keep(self, phase: str, module: torch.nn.Module, history: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
        """Keep the state of a training in memory, and replace the checkpoint by it if that is old enough.

        Parameters
        ----------
        phase
            Name of the phase of the training.
        module
            The model's module.
        history
            Training curves of earlier phases and trainings.
        fit
            State of the trainer, see :class:`CheckpointWriter`.
        """
        self.kept = deepcopy({"phase": phase, "module": module.state_dict(), "history": curves(history), "fit": fit})
        self.kept_at = time.monotonic()
        if self.kept_at - self.written >= self.seconds:
            self.write()

    def write(self) -> None:
        """Replace the checkpoint by the state that was kept last, if there is one."""
        if self.kept is not None:
            self._replace(self.kept)

    def finish(self, module: torch.nn.Module, history: Mapping[str, Any]) -> None:
        """Replace the checkpoint by the trained module."""
        end = torch.get_rng_state()
        self._replace({"phase": _DONE, "module": module.state_dict(), "history": curves(history), "end": end})

    def _replace(self, content: Mapping[str, Any]) -> None:
        with completed(self.path) as part:
            torch.save(plain({"format": _FORMAT, "run": self.run, "start": self.start, **content}), part)
        self.written, self.kept = time.monotonic(), None

    def _read(self) -> dict[str, Any]:
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            form = saved["format"]
        except Exception as error:  # the kind of error depends on the damage
            msg = (
                f"Expected a checkpoint of soscope_scverse in {str(self.path)!r}, but it cannot be read as one: "
                f"{shorten(str(error), 200)}. Remove it to train from the start."
            )
            raise ValueError(msg) from error
        if form != _FORMAT:
            msg = (
                f"Expected a checkpoint of format {_FORMAT} in {str(self.path)!r}, found format {form}. Resume with "
                "the version of soscope_scverse that wrote it, or remove it to train from the start."
            )
            raise ValueError(msg)
        differ = [_difference(name, saved["run"], self.run) for name in sorted({*saved["run"], *self.run})]
        if any(differ):
            msg = (
                f"Expected the checkpoint of this run in {str(self.path)!r}, found that of a run with other "
                f"{', '.join(filter(None, differ))}. Resume with the data and arguments of that run, or choose another "
                "`checkpoint_dir`."
            )
            raise ValueError(msg)
        return saved


class CheckpointWriter(Callback):
    """Writes a checkpoint before an epoch begins, and restores the one that a phase resumes from.

    At this moment the previous epoch has been validated and logged, and early stopping has been updated.

    Parameters
    ----------
    checkpoints
        The checkpoints of the training.
    phase
        Name of the phase.
    module
        The model's module; in the first phase another one is trained.
    history
        Training curves of earlier phases and trainings.
    """

    def __init__(self, checkpoints: Checkpoints, phase: str, module: torch.nn.Module, history: Mapping) -> None:
        self.resumed = checkpoints.resumed(phase)
        self.keep: Callable[[Mapping[str, Any]], None] = lambda fit: checkpoints.keep(phase, module, history, fit)
        self.checkpoints = checkpoints
        self.steps_before = 0

    def restore(self, trainer: Any) -> None:
        """Set epoch, history and callback states of a new trainer to those of the checkpoint."""
        if self.resumed is None:
            return
        set_epoch(trainer, self.resumed["epoch"])
        _logged(trainer).update(tables(self.resumed["history"]))
        for callback in trainer.callbacks:
            if callback.state_key in self.resumed["callbacks"]:
                callback.load_state_dict(self.resumed["callbacks"][callback.state_key])

    def on_train_epoch_start(self, trainer: Any, plan: Any) -> None:
        """Restore the random states of the checkpoint, or keep the state of the training."""
        if self.resumed is not None:
            _set_random_states(self.resumed["random"], trainer, plan)
            self.steps_before, self.resumed = self.resumed["step"], None
        elif trainer.strategy.broadcast(self.checkpoints.is_outdated):
            fit = self._state(trainer, plan)
            if trainer.is_global_zero:
                self.keep(fit)

    def on_exception(self, trainer: Any, plan: Any, exception: BaseException) -> None:
        """Write the last state before the process ends, at Ctrl-C or SIGTERM."""
        if isinstance(exception, KeyboardInterrupt | SystemExit):
            self.checkpoints.write()

    def _state(self, trainer: Any, plan: Any) -> dict[str, Any]:
        return {
            "epoch": trainer.current_epoch,
            "step": self.steps_before + trainer.global_step,
            "module": plan.module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "callbacks": {c.state_key: state for c in trainer.callbacks if (state := c.state_dict())},
            "history": curves(_logged(trainer)),
            "random": _random_states(trainer, plan),
        }


def _logged(trainer: Any) -> dict:
    """Curves of scvi-tools' logger, which the first process has; a logger of the user has none."""
    return getattr(trainer.logger, "history", {}) if trainer.is_global_zero else {}


def _random_states(trainer: Any, plan: Any) -> list[torch.Tensor]:
    """States of torch's generators on all processes; training uses no other random numbers."""
    states = [torch.get_rng_state()]
    if plan.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(plan.device))
    return [plan.all_gather(state).reshape(trainer.world_size, -1).cpu() for state in states]


def _set_random_states(states: list[torch.Tensor], trainer: Any, plan: Any) -> None:
    own = [state[trainer.global_rank].clone() for state in states]  # a row of a matrix makes torch crash
    torch.set_rng_state(own[0])
    if plan.device.type == "cuda" and len(own) > 1:
        torch.cuda.set_rng_state(own[1], plan.device)


def describe_run(
    inputs: Inputs, model: Mapping[str, Any], training: Mapping[str, Any], *, n_processes: int, is_trained: bool
) -> dict[str, Any]:
    """Plain values that identify a training.

    Parameters
    ----------
    inputs
        The spots.
    model
        Arguments of the model.
    training
        Arguments of :meth:`SoScope.train`.
    n_processes
        Processes that share the training.
    is_trained
        Whether the model was trained before.
    """
    section = inputs.section()._replace(batches=None)
    arrays = {
        "profiles": section.x,
        "features": section.x.T,
        "positions": section.spatial,
        "subspots": np.nan_to_num(section.subspots),
        "exposures": section.exposure,
        "areas": section.area,
        "spot graph": section.graph,
    }
    if inputs.has_image_features:
        arrays["image features"] = inputs.image_features()
    return {
        **{name: repr(value) for name, value in model.items() if name != "adata"},
        **{name: training[name] for name in _DECIDING},
        "precision": training["trainer_kwargs"].get("precision"),
        "processes": n_processes,
        "spots": tokenize(inputs.data.obs_names.tolist(), inputs.labels()),
        "names of features": tokenize(inputs.data.var_names.tolist()),
        "trained before": is_trained,
        **{name: _sketch(values) for name, values in arrays.items()},
    }


def _sketch(values: Any) -> list[float]:
    """Shape and a few sums of an input: they identify it, and are equal up to rounding if it is computed again."""
    rows = np.asarray(values.sum(axis=tuple(range(1, values.ndim)), dtype=float)).ravel()
    return [*map(float, values.shape), rows.mean(), rows.std(), (rows * np.linspace(0, 1, len(rows))).mean()]


def _difference(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describe how an entry differs between two runs, "" if it does not."""
    a, b = there.get(name), here.get(name)
    if isinstance(a, list) and isinstance(b, list):
        return "" if len(a) == len(b) and np.allclose(a, b, rtol=_ROUNDING) else name
    if a == b:
        return ""
    return name if isinstance(a, str) and len(a) > 30 else f"{name} ({a!r} there, {b!r} here)"
