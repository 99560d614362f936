"""Where a function writes: slots of the spots are written back to the object that the spots were taken from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from anndata import AnnData
from mudata import MuData

from soscope_scverse._upstream import make_actual

_SLOTS = ("obs", "obsm", "obsp", "uns")


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """Return the object to write to: a copy, or `adata` itself, which is made actual if it is a view."""
    if copy:
        return adata.copy()
    if adata.is_view:
        warnings.warn(
            "Received a view of an AnnData: it becomes a copy before it is written to, and edges of its graphs to "
            "observations outside of the view are gone. Call `.copy()` on the view first to silence this.",
            UserWarning,
            stacklevel=3,
        )
        make_actual(adata)
    return adata


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
