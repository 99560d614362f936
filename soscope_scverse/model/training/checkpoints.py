"""Checkpoints of a training: a run that was killed goes on from the last one as if nothing had happened."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from dask.base import tokenize
from lightning.pytorch import Callback

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._files import completed, remove_unfinished
from soscope_scverse.model._inputs import read_section
from soscope_scverse.model._serialization import curves, plain, tables

if TYPE_CHECKING:
    from soscope_scverse.model._soscope import SoScope

logger = logging.getLogger(__name__)

_NAME = "checkpoint.pt"
_DONE = "done"
_FORMAT = 1
_DECIDING = (
    *("max_epochs", "max_steps", "pretrain_epochs", "batch_size", "train_size", "early_stopping"),
    *("lr", "weight_decay", "kl_weight"),
)
"""Arguments of :meth:`SoScope.train` that decide on the result."""
_SECONDS = 30.0  # between two checkpoints
_ROUNDING = 1e-6  # inputs that were computed again, perhaps by another processor, are the same up to this


def check_checkpoint(folder: str | PathLike | None, *, resume: bool) -> None:
    """Raise if there is a checkpoint in a folder that is not to be resumed, or no folder to resume from."""
    if folder is None:
        if resume:
            msg = "Expected `checkpoint_dir` with `resume=True`, found None. Name the folder of the checkpoint."
            raise ValueError(msg)
        return
    check.folder("checkpoint_dir", folder)
    path = Path(folder) / _NAME
    if path.exists() and not resume:
        msg = (
            f"Expected no checkpoint in `checkpoint_dir`, found {str(path)!r}. Pass `resume=True` to go on from it, "
            "choose another folder, or remove the file."
        )
        raise ValueError(msg)


class Checkpoints:
    """The checkpoint of a training, one file in a folder, replaced by the next one; taken up if there is one.

    It is written between two epochs, at most every half a minute, and holds everything that the rest of the training
    depends on: weights, optimiser, learning rate, random states, early stopping and history. The seed of the tiles and
    of the held-out molecules follows from the random state at the start, which is set again on resumption.

    Parameters
    ----------
    folder
        Is made if it does not exist.
    run
        Arguments and inputs by name, in plain values: what tells the run from others.

    Raises
    ------
    ValueError
        If there is a checkpoint that cannot be read or is that of another run.
    """

    def __init__(self, folder: str | PathLike, run: Mapping[str, Any]) -> None:
        self.path = Path(folder) / _NAME
        self.run = plain(run)
        self.start = torch.get_rng_state()
        self.saved: dict[str, Any] | None = None
        self.written = time.monotonic()
        if self.path.exists():
            self.saved = self._read()
            self.start = self.saved["start"]
            torch.set_rng_state(self.start)
            logger.info("Going on from %s (%s).", self.path, self.saved["phase"])
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
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return time.monotonic() - self.written >= _SECONDS

    def write(self, phase: str, module: torch.nn.Module, history: Mapping[str, Any], fit: Mapping[str, Any]) -> None:
        """Replace the checkpoint.

        Parameters
        ----------
        phase
            What is being trained.
        module
            The model's module.
        history
            History of what was trained before.
        fit
            State of the trainer, see :class:`CheckpointWriter`.
        """
        self._replace({"phase": phase, "module": module.state_dict(), "history": curves(history), "fit": fit})

    def finish(self, module: torch.nn.Module, history: Mapping[str, Any]) -> None:
        """Leave the trained module in place of the checkpoint."""
        end = torch.get_rng_state()
        self._replace({"phase": _DONE, "module": module.state_dict(), "history": curves(history), "end": end})

    def _replace(self, content: Mapping[str, Any]) -> None:
        with completed(self.path) as part:
            torch.save(plain({"format": _FORMAT, "run": self.run, "start": self.start, **content}), part)
        self.written = time.monotonic()

    def _read(self) -> dict[str, Any]:
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            form = saved["format"]
        except Exception as error:  # what is raised for a broken file differs with the kind of damage
            msg = (
                f"Expected a checkpoint of soscope_scverse in {str(self.path)!r}, but it cannot be read as one: "
                f"{shorten(str(error), 200)}. Remove it to train from the start."
            )
            raise ValueError(msg) from error
        if form != _FORMAT:
            msg = (
                f"Expected a checkpoint of format {_FORMAT} in {str(self.path)!r}, found format {form}. Go on with the "
                "version of soscope_scverse that wrote it, or remove it to train from the start."
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
    """Writes a checkpoint before an epoch begins, and takes up the one that a phase goes on from.

    At this moment the epoch before has been validated, logged and judged by early stopping.

    Parameters
    ----------
    checkpoints
        Where to.
    phase
        Name of the phase.
    module
        The model's module; in the first phase another one is trained.
    curves
        History of what was trained before.
    """

    def __init__(self, checkpoints: Checkpoints, phase: str, module: torch.nn.Module, history: Mapping) -> None:
        self.resumed = checkpoints.resumed(phase)
        self.write: Callable[[Mapping[str, Any]], None] = lambda fit: checkpoints.write(phase, module, history, fit)
        self.checkpoints = checkpoints
        self.steps_before = 0

    def take_up(self, trainer: Any) -> None:
        """Bring a new trainer to the epoch, the history and the callbacks' states of the checkpoint."""
        if self.resumed is None:
            return
        progress = trainer.fit_loop.epoch_progress
        for count in (progress.current, progress.total):
            count.ready = count.started = count.processed = count.completed = self.resumed["epoch"]
        _logged(trainer).update(tables(self.resumed["history"]))
        for callback in trainer.callbacks:
            if callback.state_key in self.resumed["callbacks"]:
                callback.load_state_dict(self.resumed["callbacks"][callback.state_key])

    def on_train_epoch_start(self, trainer: Any, plan: Any) -> None:
        """Set the random states of the checkpoint, or write one if it is time."""
        if self.resumed is not None:
            _set_random_states(self.resumed["random"], trainer, plan)
            self.steps_before, self.resumed = self.resumed["step"], None
        elif trainer.strategy.broadcast(self.checkpoints.is_due):
            fit = self._state(trainer, plan)
            if trainer.is_global_zero:
                self.write(fit)

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
    """What scvi-tools' logger, that of the first process, has kept; loggers of the user keep theirs themselves."""
    return getattr(trainer.logger, "history", {}) if trainer.is_global_zero else {}


def _random_states(trainer: Any, plan: Any) -> list[torch.Tensor]:
    """States of torch's generators on all processes; nothing else is drawn from in training."""
    states = [torch.get_rng_state()]
    if plan.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(plan.device))
    return [plan.all_gather(state).reshape(trainer.world_size, -1).cpu() for state in states]


def _set_random_states(states: list[torch.Tensor], trainer: Any, plan: Any) -> None:
    own = [state[trainer.global_rank].clone() for state in states]  # a row of a matrix makes torch crash
    torch.set_rng_state(own[0])
    if plan.device.type == "cuda" and len(own) > 1:
        torch.cuda.set_rng_state(own[1], plan.device)


def describe_run(model: SoScope, arguments: Mapping[str, Any], n_processes: int) -> dict[str, Any]:
    """Plain values that tell a training from others: its arguments, those of the model, and the inputs."""
    manager, setup = model.adata_manager, model.registry["setup_args"]
    section = read_section(manager, np.arange(manager.adata.n_obs), None, [])
    inputs = {
        "profiles": section.x,
        "features": section.x.T,
        "positions": section.spatial,
        "subspots": np.nan_to_num(section.subspots),
        "exposures": section.exposure,
        "spot graph": section.graph,
    }
    if keys.FEATURES in manager.data_registry:
        inputs["image features"] = np.asarray(manager.get_from_registry(keys.FEATURES))
    spots = spots_of(manager.adata)
    labels = [setup[name] for name in ("library_key", "batch_key") if setup[name] is not None]
    columns = [spots.obs[label].astype(str).tolist() for label in labels]
    return {
        **{name: repr(value) for name, value in model.init_params_["non_kwargs"].items() if name != "adata"},
        **{name: arguments[name] for name in _DECIDING},
        "precision": arguments["trainer_kwargs"].get("precision"),
        "processes": n_processes,
        "seed": model._seed,
        "spots": tokenize(spots.obs_names.tolist(), columns),
        "names of features": tokenize(manager.adata.var_names.tolist()),
        "trained before": model.is_trained_,
        **{name: _sketch(values) for name, values in inputs.items()},
    }


def _sketch(values: Any) -> list[float]:
    """Shape and a few sums of an input: enough to tell it from others, and the same up to rounding if made again."""
    rows = np.asarray(values.sum(axis=tuple(range(1, values.ndim)), dtype=float)).ravel()
    return [*map(float, values.shape), rows.mean(), rows.std(), (rows * np.linspace(0, 1, len(rows))).mean()]


def _difference(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In which way an entry differs between two runs, "" if it does not."""
    a, b = there.get(name), here.get(name)
    if isinstance(a, list) and isinstance(b, list):
        return "" if len(a) == len(b) and np.allclose(a, b, rtol=_ROUNDING) else name
    if a == b:
        return ""
    return name if isinstance(a, str) and len(a) > 30 else f"{name} ({a!r} there, {b!r} here)"
