"""Run of a training: preparation, the two phases through scvi-tools and Lightning, and what is set afterwards."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from scvi.train import Trainer as ScviTrainer
from scvi.train import TrainRunner

from soscope_scverse._upstream import (
    device_arguments,
    logged_prints,
    mark_interrupted,
    without_deprecations,
    without_notices,
)
from soscope_scverse._validators import NON_NEGATIVE, POSITIVE, POSITIVE_INTEGER, SEED, Number, Rules
from soscope_scverse.model._inputs import Inputs
from soscope_scverse.model._plain_values import tables
from soscope_scverse.model._section import Section, thin_counts
from soscope_scverse.model._tiles import Tiles
from soscope_scverse.model.estimates.image_projection import set_projection
from soscope_scverse.model.estimates.initialise import set_start, starting_sample
from soscope_scverse.model.estimates.kriging import set_kriging
from soscope_scverse.model.estimates.uncertainty import section_variation, set_variation
from soscope_scverse.model.training.checkpoints import Checkpoints, CheckpointWriter, check_checkpoint, describe_run
from soscope_scverse.model.training.datamodule import HeldOut, TileDataModule
from soscope_scverse.model.training.progress import PRETRAIN, TRAIN, announce_training, with_progress_bar
from soscope_scverse.model.training.steps import N_STEPS, training_steps
from soscope_scverse.module.vae import GraphAutoencoder, SoScopeVAE

logger = logging.getLogger(__name__)

TRAIN_RULES: Rules = {
    **dict.fromkeys(("max_epochs", "max_steps"), POSITIVE_INTEGER.or_(None)),
    "batch_size": POSITIVE_INTEGER,
    "pretrain_epochs": Number(0, integer=True).or_(None),
    "train_size": Number(0, 1, above=True),
    "lr": POSITIVE,
    **dict.fromkeys(("weight_decay", "kl_weight"), NON_NEGATIVE),
    "seed": SEED.or_(None),
    "threads": POSITIVE_INTEGER.or_(None),
}
"""Of :meth:`SoScope.train`."""

TRAINER: Mapping[str, Any] = {
    "benchmark": False,
    "gradient_clip_val": 5.0,
    "log_every_n_steps": 1,
    "use_distributed_sampler": False,  # the data module distributes the tiles
}
"""Defaults of Lightning's trainer."""

EARLY_STOPPING: Mapping[str, Any] = {
    "early_stopping": True,
    "early_stopping_monitor": "reconstruction_loss_validation",
    "early_stopping_patience": 5,  # validation takes place every ten steps
}

_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Those of Lightning in which weights are of single precision, as the data are."""


class TrainableModel(Protocol):
    """The parts of :class:`SoScope` that a training uses."""

    module: SoScopeVAE
    trainer: Any
    history_: dict[str, pd.DataFrame] | None
    is_trained_: bool
    _data_splitter_cls: Any
    _training_plan_cls: Any
    _checkpoints_cls: Any

    @property
    def _inputs(self) -> Inputs: ...

    @property
    def _arguments(self) -> Mapping[str, Any]: ...

    def _section(self, inputs: Inputs, order: np.ndarray | None = None) -> Section: ...

    def _tiles(self, section: Section, similarity_strength: float | None = None) -> Tiles: ...

    def to_device(self, device: Any) -> None:
        """Move the module to a device."""


def train_model(model: TrainableModel, arguments: Mapping[str, Any]) -> None:
    """Train a model, see :meth:`SoScope.train`.

    Parameters
    ----------
    model
        Its module is trained; history and trainer are set.
    arguments
        Those of :meth:`SoScope.train`, all of them by name.
    """
    module, train_size = model.module, arguments["train_size"]
    lightning = check_training(arguments, is_counts=module.likelihood.is_counts)
    checkpoints = _checkpoints(model, arguments, lightning.world_size)
    if checkpoints is not None and checkpoints.finished is not None:
        _restore_finished(model, checkpoints.finished, lightning.strategy.root_device)
        return
    starting = not model.is_trained_
    section, held_out = _prepare(model, train_size, starting=starting)
    variations = section_variation(module, section)
    if starting:  # else latent states would model the noise of single spots
        set_variation(module, variations)
    # W is part of the loss only, with an image that is used
    with_similarity = module.uses_image and model._arguments["image_weight"]
    tiles = model._tiles(section, model._arguments["similarity_strength"] if with_similarity else None)
    if starting and arguments["max_epochs"] is None and arguments["max_steps"] is None:
        arguments = {**arguments, "max_steps": _default_steps(module, tiles, arguments)}
    data = model._data_splitter_cls(
        tiles, arguments["batch_size"], held_out, seed=torch.initial_seed(), n_processes=lightning.world_size
    )
    Training(model, data, arguments, checkpoints).run(starting=starting)
    set_variation(module, variations)
    if lightning.world_size > 1:  # scvi-tools would put the models of all processes on the first device
        model.to_device(model.trainer.strategy.root_device)
    if held_out is not None:
        module.scale_library_size(1 / train_size)
    if checkpoints is not None and not model.trainer.interrupted and model.trainer.is_global_zero:
        checkpoints.finish(module, model.history_ or {})


def _default_steps(module: SoScopeVAE, tiles: Tiles, arguments: Mapping[str, Any]) -> int:
    """Number of steps if none is given; it takes four times as long as a training on these few spots."""
    clip = {**TRAINER, **arguments["trainer_kwargs"]}["gradient_clip_val"]
    steps = training_steps(module, tiles, lr=arguments["lr"], weight_decay=arguments["weight_decay"], clip=clip)
    if steps < N_STEPS:
        logger.info("Training for %d instead of %d steps: held-out spots are predicted best then.", steps, N_STEPS)
    return steps


def _prepare(model: TrainableModel, train_size: float, *, starting: bool) -> tuple[Section, HeldOut | None]:
    """Section to train on and held-out molecules; an untrained module gets its projection and starting values."""
    module, inputs, strength = model.module, model._inputs, model._arguments["image_strength"]
    order, held_out = inputs.order(), None
    if starting and inputs.features_key:
        set_projection(module, inputs.image_features(), inputs.is_subspot(), order)
    section = model._section(inputs, order)
    if module.likelihood.is_counts and train_size < 1:
        kept, rest = thin_counts(section.x, train_size, seed=int(torch.randint(2**31, (1,))))
        section, held_out = section._replace(x=kept), HeldOut(rest, (1 - train_size) / train_size)
    if starting:
        set_start(module, section, model._arguments["library_size_noise"])
        if module.uses_latent:
            set_kriging(module, section, strength, used=model._arguments["kriging"])
    return section, held_out


def _checkpoints(model: TrainableModel, arguments: Mapping[str, Any], n_processes: int) -> Checkpoints | None:
    """Checkpoints of a training, if there is a folder for them."""
    if arguments["checkpoint_dir"] is None:
        return None
    run = describe_run(
        model._inputs, model._arguments, arguments, n_processes=n_processes, is_trained=model.is_trained_
    )
    return model._checkpoints_cls(arguments["checkpoint_dir"], run)


def _restore_finished(model: TrainableModel, finished: Mapping[str, Any], device: torch.device) -> None:
    """Set a model to the result of a finished training."""
    model.module.load_state_dict(finished["module"])
    model.module.eval()
    model.to_device(device)
    model.history_ = tables(finished["history"])
    model.is_trained_ = True
    torch.set_rng_state(finished["end"])


class Training:
    """The two phases of the training of a model.

    Parameters
    ----------
    model
        Its module is trained; history and trainer are set.
    data
        Tiles to train on.
    arguments
        Those of :meth:`SoScope.train`, by name.
    checkpoints
        Where to write checkpoints and which one to resume from, if any.
    """

    def __init__(
        self,
        model: TrainableModel,
        data: TileDataModule,
        arguments: Mapping[str, Any],
        checkpoints: Checkpoints | None,
    ) -> None:
        self.model, self.data, self.arguments, self.checkpoints = model, data, arguments, checkpoints
        # validation about every ten steps, but not more than once per pass
        every = max(data.n_epochs, 10 // data.n_steps) if data.n_val else None
        devices = {name: arguments[name] for name in ("accelerator", "devices")}
        self.trainer_kwargs = {"check_val_every_n_epoch": every, **TRAINER, **devices, **arguments["trainer_kwargs"]}
        self.saved = None if checkpoints is None else checkpoints.saved
        self.history = dict(model.history_ or {})
        if self.saved is not None:
            self.model.module.load_state_dict(self.saved["module"])
            self.history = tables(self.saved["history"])

    def run(self, *, starting: bool) -> None:
        """Train in both phases; `starting` is whether the model was not trained before."""
        n_pretrain, n_train = self.lengths(starting=starting)
        bars = self.trainer_kwargs.get("enable_progress_bar", True)
        announce_training(self.model.module.train(), self.data, n_pretrain + n_train, bars=bars)
        if n_pretrain:
            self.pretrain(n_pretrain)
        self.train(n_train, early_stopping=self.arguments["early_stopping"])

    def lengths(self, *, starting: bool) -> tuple[int, int]:
        """Return the numbers of steps of both phases, see :meth:`SoScope.train`."""
        max_epochs, max_steps, pretrain_epochs = (
            self.arguments[name] for name in ("max_epochs", "max_steps", "pretrain_epochs")
        )
        if max_steps is None:
            max_steps = N_STEPS if max_epochs is None else max_epochs * self.data.n_steps
        if pretrain_epochs is not None:
            return pretrain_epochs * self.data.n_steps, max_steps
        return max_steps // 6 if starting and self.model.module.uses_latent else 0, max_steps

    def pretrain(self, n_steps: int) -> None:
        """Pre-train the encoder; the curves of this phase have names that begin with ``pretrain_``."""
        if self.saved is not None and self.saved["phase"] != PRETRAIN:
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
            loss_per=module.loss_per,
        )
        autoencoder.start_from(*starting_sample(self.data.tiles.section, is_counts=module.likelihood.is_counts))
        autoencoder.library_size_noise.copy_(module.library_size_noise)
        kwargs = {**self.trainer_kwargs, "check_val_every_n_epoch": None}
        if self._fit(PRETRAIN, autoencoder, self.data.without_validation(), n_steps, kwargs):
            self.model.is_trained_ = False
            raise KeyboardInterrupt
        self.history |= {f"pretrain_{name}": values for name, values in (self.model.history_ or {}).items()}

    def train(self, n_steps: int, *, early_stopping: bool) -> None:
        """Train the whole model; after Ctrl-C it keeps its weights."""
        kwargs = {**(EARLY_STOPPING if early_stopping else {}), **self.trainer_kwargs}
        best = _Best()
        interrupted = self._fit(TRAIN, self.model.module, self.data, n_steps, kwargs, best)
        self.model.history_ = self.history | (self.model.history_ or {})
        if interrupted:
            kept = best.restore(self.model.module)
            warnings.warn(
                f"The training was interrupted (Ctrl-C) after {self.model.trainer.global_step} of {n_steps} steps. "
                f"The model has {kept}; it can be used, or trained further.",
                UserWarning,
                stacklevel=5,
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
        """Run one phase and return whether it was interrupted. Afterwards ``history_`` is that of this phase."""
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
        weights = {name: self.arguments[name] for name in ("lr", "weight_decay", "kl_weight")}
        plan = model._training_plan_cls(module, n_steps=n_steps, resumed=resumed, **weights)
        with without_notices():
            of_trainer = with_progress_bar({**steps, **kwargs}, phase)
            runner = TrainRunner(model, training_plan=plan, data_splitter=data, **of_trainer)
        trainer = runner.trainer
        trainer.callbacks.extend(callbacks)
        if self.checkpoints is not None:
            writer = CheckpointWriter(self.checkpoints, phase, model.module, self.history)
            trainer.callbacks.append(writer)
            writer.restore(trainer)
        with _interruptible(trainer), without_notices(), without_deprecations(), logged_prints(logger.info):
            runner()
        if trainer.interrupted and self.checkpoints is not None:
            self.checkpoints.write()
        return trainer.interrupted


class _Best(Callback):
    """Keeps the weights with the best validation score, for a training that is interrupted."""

    def __init__(self) -> None:
        self.score = math.inf
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Trainer, plan: Any) -> None:
        score = float(trainer.callback_metrics.get(EARLY_STOPPING["early_stopping_monitor"], math.inf))
        if score < self.score:
            self.score = score
            self.weights = {name: value.clone() for name, value in plan.module.state_dict().items()}

    def restore(self, module: torch.nn.Module) -> str:
        """Restore these weights, if there are any; return which weights the module has."""
        if not self.weights:
            return "the weights of the last step"
        module.load_state_dict(self.weights)
        return f"the weights that scored best on the held-out molecules ({self.score:.4g})"


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C end the training after the current step; a second one ends it immediately.

    Lightning itself would exit the interpreter, and leave a model in the middle of a step. At SIGTERM it exits with
    code 0, which schedulers take for success; shells and schedulers expect 128 and the number of the signal.
    """
    try:
        with _ended_by_ctrl_c(trainer):
            yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None


@contextmanager
def _ended_by_ctrl_c(trainer: Trainer) -> Iterator[None]:
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
        mark_interrupted(trainer)


def check_training(arguments: Mapping[str, Any], *, is_counts: bool) -> Trainer:
    """Raise unless arguments of :meth:`SoScope.train` are consistent and Lightning's trainer takes the further ones.

    Parameters
    ----------
    arguments
        All of them by name.
    is_counts
        Whether molecules can be held out.

    Returns
    -------
    Trainer
        With the devices and processes of the training.
    """
    max_epochs, max_steps = arguments["max_epochs"], arguments["max_steps"]
    if max_epochs is not None and max_steps is not None:
        msg = f"Expected one of `max_epochs` and `max_steps`, found {max_epochs} and {max_steps}."
        raise ValueError(msg)
    if arguments["early_stopping"] and not (is_counts and arguments["train_size"] < 1):
        msg = "Expected held-out molecules for `early_stopping`: pass train_size=0.9 (counts only)."
        raise ValueError(msg)
    check_checkpoint(arguments["checkpoint_dir"], resume=arguments["resume"])
    trainer = trainer_of({name: arguments[name] for name in ("accelerator", "devices")} | arguments["trainer_kwargs"])
    if trainer.precision not in _PRECISIONS:
        msg = (
            f"Expected `precision` to be one of {list(_PRECISIONS)}, found {trainer.precision!r}: weights and data are "
            "of single precision. Omit it, or choose one of these."
        )
        raise ValueError(msg)
    return trainer


def trainer_of(trainer_kwargs: Mapping[str, Any]) -> Trainer:
    """Return Lightning's trainer as scvi-tools will construct it; raise a ValueError for invalid arguments."""
    try:
        kwargs = with_progress_bar(trainer_kwargs, TRAIN)
        with without_notices(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same warnings follow when the training starts
            kwargs["accelerator"], kwargs["devices"] = device_arguments(kwargs["accelerator"], kwargs["devices"])
            trainer = ScviTrainer(**kwargs)
        strange = [one for one in trainer.callbacks if not isinstance(one, Callback)]
        strange += [one for one in trainer.loggers if not isinstance(one, Logger)]
        if strange:
            raise TypeError(f"{strange[0]!r} is neither a callback nor a logger of Lightning")
        return trainer
    except Exception as error:  # Lightning raises several kinds for invalid arguments
        found = ", ".join(f"{name}={value!r}" for name, value in trainer_kwargs.items())
        msg = f"Expected arguments that Lightning's trainer takes on this machine, found {found}: {error}"
        raise ValueError(msg) from error
