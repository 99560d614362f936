"""The record of a run in ``uns["soscope"]`` of its result."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from os import PathLike, fspath
from platform import python_version
from typing import Any

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse.model import SoScope

_PACKAGES = ("anndata", "lightning", "numpy", "scvi-tools", "torch", "torch-geometric")
"""Packages that determine the numbers of a result; their versions are recorded."""


class Stopwatch:
    """Wall time of the stages of a run, in seconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}
        """By name of the stage."""

    def end(self, stage: str) -> None:
        """Record the time since the last stage ended."""
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now


def given_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that a user gave: those that differ from their defaults."""
    return {name: value for name, value in options.items() if not _is_default(value, defaults[name])}


def _is_default(value: Any, default: Any) -> bool:
    if value is default or (default is None and isinstance(value, Mapping) and not value):
        return True
    return type(value) is type(default) and bool(value == default)  # defaults are numbers, names and booleans


def record(
    spots: AnnData | MuData,
    model: SoScope,
    arguments: Mapping[str, Any],
    given: Mapping[str, Any],
    warned: list[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything needed to reproduce the result, in types that h5ad and zarr can hold.

    Arguments that a file cannot hold, such as the pixels of an image, are described in a few words under ``"inputs"``.

    Parameters
    ----------
    spots
        The spots, with their slots.
    model
        The trained model.
    arguments
        All that decide on the result.
    given
        Those that the user gave.
    warned
        Warnings of the run.
    seconds
        Wall time by stage.
    """
    stored, inputs = _storable(arguments)
    record: dict[str, Any] = {
        "version": version("soscope-scverse"),
        "versions": {"python": python_version(), **{name: version(name) for name in _PACKAGES}},
        "seed": arguments["seed"],
        "arguments": json.dumps(stored),
        "given": json.dumps(_storable({name: value for name, value in given.items() if name in arguments})[0]),
        "inputs": json.dumps(inputs),
        "image_strength": float(model.module.image_strength),
        "warnings": np.array(warned, dtype=str),
        "history": {name: frame.to_numpy(float).ravel() for name, frame in (model.history or {}).items()},
        "seconds": dict(seconds),
    }
    memory = _peak_memory()
    if memory is not None:
        record["peak_memory_gb"] = memory
    for name, key in (("geometry", keys.SUBSPOTS), ("encoder", keys.FEATURES)):
        if key in spots.uns:
            record[name] = spots.uns[key]
    return record


def _peak_memory() -> float | None:
    """Largest main memory of the process so far, in units of 10^9 bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _storable(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that JSON can hold, and descriptions of those that it cannot; of ``..._kwargs`` entry by entry."""
    stored: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for name, value in arguments.items():
        if name.endswith("_kwargs"):
            stored[name], inside = _storable(value)
            described |= {f"{name}.{entry}": words for entry, words in inside.items()}
            continue
        try:
            stored[name] = json.loads(json.dumps(value, default=_simple))
        except TypeError:
            described[name] = _describe(value)
    return stored, described


def _describe(thing: Any) -> Any:
    """Description of an image, cells or an encoder in a few words."""
    if isinstance(thing, str):
        return thing
    if isinstance(thing, Mapping):
        return {str(name): _describe(value) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_describe(one) for one in thing]
    shape = getattr(thing, "shape", None)
    return f"{type(thing).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"


def _simple(value: Any) -> Any:
    """Numbers and short lists of numpy, and paths, in built-in types."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, np.generic | np.ndarray) and value.ndim < 2:
        return value.tolist()
    raise TypeError
