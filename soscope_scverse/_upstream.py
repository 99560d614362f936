"""Everything that reaches into private parts of other packages, with the version it was seen in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from anndata import AnnData

LIGHTNING_NOTICES = "lightning.pytorch.utilities.rank_zero"
"""Logger of Lightning's notices of devices, tips and the end of a phase (lightning 2.6.6)."""

SPATIALDATA_NOTICES = "spatialdata._logging"
"""Logger of squidpy's notices (squidpy 1.8.2, spatialdata 0.7.3)."""

_AMONG_THEMSELVES = (
    "`torch.jit.script` is deprecated",  # torch-geometric 2.8.1 of torch 2.14.1, when it is imported
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # lightning 2.6.6 of torch 2.14.1, at the first step
    "'.*' is not a valid key",  # squidpy 1.8.2 of docrep 0.3.2, when it is imported
    "zarr v3 autosharding will be the default",  # spatialdata 0.7.3 of anndata 0.12.19, for every array it writes
    r"From 0\.4 \.update\(\) will not pull",  # mudata 0.3.10 of itself, when it writes
)
"""Beginnings of warnings that packages cause in each other, about which a user can do nothing."""

SCVI_SLOTS = ("_scvi_uuid", "_scvi_manager_uuid")
"""Entries of ``uns`` by which scvi-tools finds the registry of an AnnData (1.4.2: ``scvi.data._constants``)."""


def make_actual(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own, in place (anndata 0.12.19: ``AnnData._init_as_actual``)."""
    adata._init_as_actual(adata.copy())


def file_mode(adata: AnnData) -> str:
    """Return the mode in which the file of an AnnData was opened (anndata 0.12.19: ``AnnDataFileManager``)."""
    return adata.file._filemode or "r"


def device_arguments(accelerator: str, devices: Any) -> tuple[str, Any]:
    """Convert to what scvi-tools passes to Lightning (scvi-tools 1.4.2: ``scvi.model._utils.parse_device_args``)."""
    from scvi.model._utils import parse_device_args  # the package is imported without torch

    accelerator, devices, _ = parse_device_args(accelerator, devices, return_device="torch")
    return accelerator, devices


def set_epoch(trainer: Any, epoch: int) -> None:
    """Let a new trainer begin at an epoch (lightning 2.6.6: ``fit_loop.epoch_progress``)."""
    progress = trainer.fit_loop.epoch_progress
    for count in (progress.current, progress.total):
        count.ready = count.started = count.processed = count.completed = epoch


def mark_interrupted(trainer: Any) -> None:
    """Let ``trainer.interrupted`` be True (lightning 2.6.6: ``trainer.state``)."""
    from lightning.pytorch.trainer.states import TrainerStatus

    trainer.state.status = TrainerStatus.INTERRUPTED


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Ignore what packages warn each other of (:data:`_AMONG_THEMSELVES`), not what concerns the user."""
    with warnings.catch_warnings():
        for beginning in _AMONG_THEMSELVES:
            warnings.filterwarnings("ignore", message=beginning)
        yield


@contextmanager
def logged_prints(log: Callable[[str], None]) -> Iterator[None]:
    """Log what scvi-tools prints to standard output while it trains (1.4.2: ``scvi.train``).

    These are reasons for stopping early. "Exception raised during training." is dropped: the exception follows.
    """
    from scvi.train import _callbacks, _trainrunner

    replaced = {_callbacks: lambda *words: log(" ".join(map(str, words))), _trainrunner: lambda *_: None}
    for module, write in replaced.items():
        vars(module)["print"] = write
    try:
        yield
    finally:
        for module in replaced:
            vars(module).pop("print", None)


@contextmanager
def without_notices(logger: str = LIGHTNING_NOTICES) -> Iterator[None]:
    """Silence the notices of another package, not its warnings."""
    notices = logging.getLogger(logger)
    level = notices.level
    notices.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        notices.setLevel(level)
