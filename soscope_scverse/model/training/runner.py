"""Runs the phases of a training through scvi-tools and Lightning, to the end or until Ctrl-C."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus
from scvi.model._utils import parse_device_args
from scvi.train import Trainer as ScviTrainer
from scvi.train import TrainRunner

from soscope_scverse.model._serialization import tables
from soscope_scverse.model.estimates.initialise import sampled
from soscope_scverse.model.training.checkpoints import Checkpoints, CheckpointWriter, check_checkpoint
from soscope_scverse.model.training.datamodule import TileDataModule
from soscope_scverse.model.training.plan import CosineTrainingPlan
from soscope_scverse.module.vae import GraphAutoencoder

if TYPE_CHECKING:
    from soscope_scverse.model._soscope import SoScope

TRAINER: Mapping[str, Any] = {
    "benchmark": False,
    "gradient_clip_val": 5.0,
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,  # the tiles are spread by the data module
}
"""What is asked of Lightning unless the user says otherwise."""

EARLY_STOPPING: Mapping[str, Any] = {
    "early_stopping": True,
    "early_stopping_monitor": "reconstruction_loss_validation",
    "early_stopping_patience": 5,  # scores are taken every ten steps
}

_N_STEPS = 400
_PRETRAIN, _TRAIN = "pretrain", "train"


class Training:
    """The two phases of a model's training.

    Parameters
    ----------
    model
        Its module is trained; it is given the history and the trainer.
    data
        Tiles to train on.
    plan
        Arguments of :class:`CosineTrainingPlan`.
    trainer_kwargs
        Arguments of Lightning's trainer.
    checkpoints
        Where to write checkpoints and which one to go on from, if any.
    """

    def __init__(
        self,
        model: SoScope,
        data: TileDataModule,
        plan: Mapping[str, Any],
        trainer_kwargs: Mapping[str, Any],
        checkpoints: Checkpoints | None,
    ) -> None:
        self.model, self.data, self.plan, self.checkpoints = model, data, plan, checkpoints
        # scored about every ten steps, but not more than once a pass
        every = max(data.n_epochs, 10 // data.n_steps) if data.n_val else None
        self.trainer_kwargs = {"check_val_every_n_epoch": every, **trainer_kwargs}
        self.saved = None if checkpoints is None else checkpoints.saved
        self.history = dict(model.history_ or {})
        if self.saved is not None:
            self.model.module.load_state_dict(self.saved["module"])
            self.history = tables(self.saved["history"])

    def lengths(
        self, max_epochs: int | None, max_steps: int | None, pretrain_epochs: int | None, *, starting: bool
    ) -> tuple[int, int]:
        """Steps of both phases, see :meth:`SoScope.train`; `starting` tells that the model was not trained before."""
        if max_steps is None:
            max_steps = _N_STEPS if max_epochs is None else max_epochs * self.data.n_steps
        if pretrain_epochs is not None:
            return pretrain_epochs * self.data.n_steps, max_steps
        return max_steps // 6 if starting and self.model.module.uses_latent else 0, max_steps

    def pretrain(self, n_steps: int) -> None:
        """Warm up the encoder; the history of this phase has names that begin with ``pretrain_``."""
        if self.saved is not None and self.saved["phase"] != _PRETRAIN:
            return
        module = self.model.module
        autoencoder = GraphAutoencoder(
            module.encoder,
            module.sizes,
            module.likelihood,
            n_latent=module.encoder.mean.out_features,
            n_hidden=module.encoder.mean.in_features,
            masked=module.masked,
            n_graph_samples=module.n_graph_samples,
            n_batches=0 if module.batch_effect is None else len(module.batch_effect),
        )
        autoencoder.start_from(*sampled(self.data.tiles.section, is_counts=module.likelihood.is_counts))
        autoencoder.library_size_noise.copy_(module.library_size_noise)
        kwargs = {**self.trainer_kwargs, "check_val_every_n_epoch": None}
        if self._fit(_PRETRAIN, autoencoder, self.data.without_validation(), n_steps, kwargs):
            self.model.is_trained_ = False
            raise KeyboardInterrupt
        self.history |= {f"pretrain_{name}": values for name, values in (self.model.history_ or {}).items()}

    def train(self, n_steps: int, *, early_stopping: bool) -> None:
        """Train the whole model; at Ctrl-C it keeps what it has learnt."""
        kwargs = {**(EARLY_STOPPING if early_stopping else {}), **self.trainer_kwargs}
        best = _Best()
        interrupted = self._fit(_TRAIN, self.model.module, self.data, n_steps, kwargs, best)
        self.model.history_ = self.history | (self.model.history_ or {})
        if interrupted:
            kept = best.restore(self.model.module)
            warnings.warn(
                f"The training was interrupted (Ctrl-C) after {self.model.trainer.global_step} of {n_steps} steps. "
                f"The model has {kept}; it can be used as it is or trained on.",
                UserWarning,
                stacklevel=3,
            )

    def _fit(
        self,
        phase: str,
        module: torch.nn.Module,
        data: TileDataModule,
        n_steps: int,
        kwargs: Mapping[str, Any],
        *callbacks: Callback,
    ) -> bool:
        """Run one phase; returns whether it was interrupted. Afterwards ``history_`` is that of this phase."""
        model = self.model
        model.is_trained_ = False  # else scvi-tools appends to the history, and drops metrics that were not in it
        module.train()
        resumed = None if self.checkpoints is None else self.checkpoints.resumed(phase)
        if resumed is not None:
            module.load_state_dict(resumed["module"])
        steps = {
            "max_epochs": math.ceil(n_steps / data.n_steps) * data.n_epochs,
            "max_steps": n_steps - (0 if resumed is None else resumed["step"]),
            "accumulate_grad_batches": data.n_accumulated,
            "reload_dataloaders_every_n_epochs": int(data.n_tiles > 1),
        }
        added = {"callbacks": list(kwargs.get("callbacks") or [])}  # scvi-tools adds its own to the list
        plan = CosineTrainingPlan(module, n_steps=n_steps, resumed=resumed, **self.plan)
        with _without_notices():
            runner = TrainRunner(model, training_plan=plan, data_splitter=data, **{**steps, **kwargs, **added})
        trainer = runner.trainer
        trainer.callbacks.extend(callbacks)
        if self.checkpoints is not None:
            writer = CheckpointWriter(self.checkpoints, phase, model.module, self.history)
            trainer.callbacks.append(writer)
            writer.take_up(trainer)
        with _interruptible(trainer), _without_notices():
            runner()
        return trainer.interrupted


class _Best(Callback):
    """Remembers the weights with the best score of the held-out molecules, for a training that is interrupted."""

    def __init__(self) -> None:
        self.score = math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Trainer, plan: Any) -> None:
        score = float(trainer.callback_metrics.get(EARLY_STOPPING["early_stopping_monitor"], math.inf))
        if score < self.score:
            self.score = score
            self.weights = {name: value.clone() for name, value in plan.module.state_dict().items()}

    def restore(self, module: torch.nn.Module) -> str:
        """Go back to these weights, if there are any; says which the module has."""
        if not self.weights:
            return "the weights of the last step"
        module.load_state_dict(self.weights)
        return f"the weights that scored best on the held-out molecules ({self.score:.4g})"


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C end the training after the step that is running; a second one ends it at once.

    Lightning itself would leave the interpreter, and a model in the middle of a step.
    """
    alone = threading.current_thread() is threading.main_thread() and trainer.world_size == 1
    if not alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    pressed = False

    def stop(*_: Any) -> None:
        nonlocal pressed
        pressed = trainer.should_stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        trainer.state.status = TrainerStatus.INTERRUPTED


def check_training(arguments: Mapping[str, Any], *, is_counts: bool) -> Trainer:
    """Raise unless arguments of :meth:`SoScope.train` go together and Lightning's trainer takes the further ones.

    Parameters
    ----------
    arguments
        By name, all of them.
    is_counts
        Whether molecules can be held out.

    Returns
    -------
    Trainer
        As it will train, for what it says of devices and processes.
    """
    max_epochs, max_steps = arguments["max_epochs"], arguments["max_steps"]
    if max_epochs is not None and max_steps is not None:
        msg = f"Expected one of `max_epochs` and `max_steps`, found {max_epochs} and {max_steps}."
        raise ValueError(msg)
    if arguments["early_stopping"] and not (is_counts and arguments["train_size"] < 1):
        msg = "Expected held-out molecules for `early_stopping`: pass train_size=0.9 (counts only)."
        raise ValueError(msg)
    check_checkpoint(arguments["checkpoint_dir"], resume=arguments["resume"])
    return trainer_of({name: arguments[name] for name in ("accelerator", "devices")} | arguments["trainer_kwargs"])


def trainer_of(trainer_kwargs: Mapping[str, Any]) -> Trainer:
    """Lightning's trainer as scvi-tools will make it; raises if it cannot be made of these arguments."""
    kwargs = dict(trainer_kwargs)
    try:
        kwargs["callbacks"] = list(kwargs.get("callbacks") or [])
        with _without_notices(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is told when the training starts
            kwargs["accelerator"], kwargs["devices"], _ = parse_device_args(
                kwargs["accelerator"], kwargs["devices"], return_device="torch"
            )
            trainer = ScviTrainer(**kwargs)
        strange = [one for one in trainer.callbacks if not isinstance(one, Callback)]
        strange += [one for one in trainer.loggers if not isinstance(one, Logger)]
        if strange:
            raise TypeError(f"{strange[0]!r} is neither a callback nor a logger of Lightning")
        return trainer
    except Exception as error:  # Lightning has several kinds for arguments that it does not take
        found = ", ".join(f"{name}={value!r}" for name, value in trainer_kwargs.items())
        msg = f"Expected arguments that Lightning's trainer takes on this machine, found {found}: {error}"
        raise ValueError(msg) from error


@contextmanager
def _without_notices() -> Iterator[None]:
    """Keep Lightning from telling of devices, tips and its end in every phase; warnings are told."""
    notices = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = notices.level
    notices.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        notices.setLevel(level)
