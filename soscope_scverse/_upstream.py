"""Everything that reaches into private parts of other packages, with the version it was seen in."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anndata import AnnData

LIGHTNING_NOTICES = "lightning.pytorch.utilities.rank_zero"
"""Logger of Lightning's notices of devices, tips and the end of a phase (lightning 2.6.6)."""

SPATIALDATA_NOTICES = "spatialdata._logging"
"""Logger of squidpy's notices (squidpy 1.8.2, spatialdata 0.7.3)."""

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
def without_notices(logger: str = LIGHTNING_NOTICES) -> Iterator[None]:
    """Silence the notices of another package, not its warnings."""
    notices = logging.getLogger(logger)
    level = notices.level
    notices.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        notices.setLevel(level)
