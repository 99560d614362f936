"""Slots that a function writes to the spots go back to the object that the spots were taken from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anndata import AnnData
from mudata import MuData

_SLOTS = ("obs", "obsm", "obsp", "uns")


@contextmanager
def handed_back(spots: AnnData, data: AnnData | MuData) -> Iterator[None]:
    """Do to the slots of `data` what is done to those of `spots` while this is open: written, replaced, or deleted."""
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
