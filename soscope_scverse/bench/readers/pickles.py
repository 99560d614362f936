"""Arrays in pickles, read without running what else a pickle may hold."""

from __future__ import annotations

import io
import pickle
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),  # how protocols 0 to 2 write bytes
}
"""All that an array of numbers needs; none of them opens a file or runs code that the pickle brings."""


class _ArraysOnly(pickle.Unpickler):
    """Finds what arrays are made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            msg = f"it calls {module}.{name}"
            raise pickle.UnpicklingError(msg)
        return super().find_class(module, name)


def read_array(path: str | PathLike) -> np.ndarray:
    """Return the array of numbers in a pickle.

    Raises
    ------
    ValueError
        If it holds anything else, is damaged, or cannot be read.
    """
    path = Path(path)
    try:
        found = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a damaged pickle may raise anything
        msg = f"Expected a pickle of a numpy array, found {path.name!r}: {error}. Nothing of it was run."
        raise ValueError(msg) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        kind = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else type(found).__name__
        msg = f"Expected a pickle of a numpy array of real numbers, found {kind} in {path.name!r}."
        raise ValueError(msg)
    return found
