"""Content of files: tensors, numbers, strings, lists and dicts, which are read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def plain(value: Any) -> Any:
    """Convert to lists and Python's own types; tensors stay, as do objects, which `torch.load` then refuses."""
    if isinstance(value, Mapping):
        return {plain(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return value


def curves(history: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Epochs and values of every training curve."""
    return {
        name: {"axis": table.index.name, "epochs": table.index.tolist(), "values": table.iloc[:, 0].tolist()}
        for name, table in history.items()
    }


def tables(curves: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Training curves as scvi-tools keeps them: a table of one column by epoch."""
    return {
        name: pd.DataFrame(
            {name.removeprefix("pretrain_"): curve["values"]},
            index=pd.Index(curve["epochs"], name=curve["axis"]),
            dtype=object,
        )
        for name, curve in curves.items()
    }
