"""Where a function writes: slots of the spots are written back to the object that the spots were taken from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from anndata import AnnData
from mudata import MuData

from soscope_scverse._upstream import file_mode, make_actual

_SLOTS = ("obs", "var", "obsm", "obsp", "uns")


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """Return the object to write to: a copy in memory, or `adata` itself, which is made actual if it is a view.

    Raises
    ------
    ValueError
        If it is a view of a file, which cannot be made actual.
    """
    if copy:
        return adata.to_memory() if adata.isbacked else adata.copy()
    if adata.isbacked:
        _check_backed(adata)
    elif adata.is_view:
        warnings.warn(
            "Received a view of an AnnData: it becomes a copy before it is written to, and edges of its graphs to "
            "observations outside of the view are gone. Call `.copy()` on the view first to silence this.",
            UserWarning,
            stacklevel=3,
        )
        make_actual(adata)
    return adata


def _check_backed(adata: AnnData) -> None:
    """Raise or warn where slots that are written do not get to the file of an AnnData."""
    if adata.is_view:
        msg = (
            f"Expected an AnnData to write to, found a view of the file {str(adata.filename)!r}. Call `.to_memory()` "
            "on the view, and pass what it returns."
        )
        raise ValueError(msg)
    if file_mode(adata) == "r+":
        warnings.warn(
            f"The AnnData is open in mode 'r+', in which anndata writes only `X` to {str(adata.filename)!r}: what is "
            "added to obs, obsm, obsp and uns stays in memory. Call `adata.write_h5ad` with another path to keep it.",
            UserWarning,
            stacklevel=4,
        )


@contextmanager
def written_back(spots: AnnData, data: AnnData | MuData) -> Iterator[None]:
    """Within this context, slots of `spots` that are written, replaced or deleted are so in `data`, too.

    Yields
    ------
    None
    """
    before = {slot: dict(getattr(spots, slot)) for slot in _SLOTS}
    yield
    for slot, old in before.items():
        new, target = getattr(spots, slot), getattr(data, slot)
        for key in old.keys() - new.keys():
            if key in target:
                del target[key]
        for key, value in new.items():
            if key not in old or not _same(value, old[key]):
                target[key] = value


def _same(value: object, old: object) -> bool:
    return value.equals(old) if hasattr(value, "equals") else value is old
