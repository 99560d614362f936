"""Fitted heads on disk: an interrupted fit resumes from the block after the last one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from dask.base import tokenize

from soscope_scverse._files import completed, remove_unfinished
from soscope_scverse.model._plain_values import plain
from soscope_scverse.model.estimates.heads import Fitted
from soscope_scverse.module.further_features import Heads
from soscope_scverse.module.likelihoods import Start

_NAME = "heads.pt"
_SECONDS = 30.0  # between two writes, as for checkpoints of a training


class FittedHeads:
    """Heads of blocks of features, in order; a context in which blocks are added, and written if there is a folder.

    Parameters
    ----------
    folder
        Where they are kept; None is in memory alone.
    run
        What determines the heads; those in the folder that follow from something else are ignored.
    """

    def __init__(self, folder: str | PathLike | None, run: Mapping[str, Any]) -> None:
        self.path = None if folder is None else Path(folder) / _NAME
        self.run = "" if folder is None else tokenize(run)
        self.blocks: list[Fitted] = []
        self.written = time.monotonic()
        if self.path is not None and self.path.exists():
            self.blocks = self._read(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def add(self, fitted: Fitted) -> None:
        """Add a block."""
        self.blocks.append(fitted)
        if time.monotonic() - self.written >= _SECONDS:
            self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.path)
        with completed(self.path) as part:
            torch.save(plain({"run": self.run, "blocks": self.blocks}), part)
        self.written = time.monotonic()

    def _read(self, path: Path) -> list[Fitted]:
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            if saved["run"] != self.run:
                return []
            return [_fitted(*block) for block in saved["blocks"]]
        except Exception:  # the kind of error depends on the damage; they are fitted again
            return []


def _fitted(heads: list, evidence: torch.Tensor) -> Fitted:
    weight, bias, start, batch_effect, loadings = heads
    return Fitted(Heads(weight, bias, Start(*start), batch_effect, loadings), evidence)
