"""Options and file formats of AnnData, MuData and SpatialData."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from soscope_scverse.cli._command import without_none

ELEMENTS = ("table_key", "image_key", "shapes_key", "coordinate_system", "key_added")


def kind(data: Any) -> str:
    """Return ``"AnnData"``, ``"MuData"`` or ``"SpatialData"``, without importing them."""
    return type(data).__name__


def formats(data: Any) -> tuple[str, ...]:
    """Return the suffixes of the files that data of this kind are written to."""
    return {"AnnData": (".h5ad", ".zarr"), "MuData": (".h5mu",), "SpatialData": (".zarr",)}[kind(data)]


def pop_elements(data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options that name elements of a SpatialData from `options` and return them.

    Raises
    ------
    ValueError
        If such options are given and the data is not a SpatialData.
    """
    named = without_none(**{name: options.pop(name) for name in ELEMENTS if name in options})
    if named and kind(data) != "SpatialData":
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        msg = f"Expected {flags} with SpatialData only, found {kind(data)}. Omit these options."
        raise ValueError(msg)
    return named


def by_modality(data: Any, option: str, values: Sequence[str], read: Callable[[str], Any] = str) -> Any:
    """Return the value of an option, for a MuData as a dict parsed from ``MODALITY=VALUE``; None if it is not given.

    Raises
    ------
    ValueError
        If the values do not have this form.
    """
    if kind(data) == "MuData":
        pairs = [value.partition("=") for value in values]
        if not all(sign and name in data.mod for name, sign, _ in pairs):
            msg = (
                f"Expected {option} MODALITY=VALUE for each modality to model, of {list(data.mod)}, found "
                f"{', '.join(values)}."
            )
            raise ValueError(msg)
        return {name: read(value) for name, _, value in pairs} or None
    if len(values) > 1:
        msg = f"Expected {option} once, found {', '.join(values)}. Several values require a MuData."
        raise ValueError(msg)
    return read(values[0]) if values else None


def subspots_and_spots(enhanced: Any, data: Any, named: dict[str, Any]) -> tuple[Any, Any]:
    """Return subspots and spots, of a SpatialData from its tables; `named` is the result of :func:`pop_elements`."""
    if kind(enhanced) != "SpatialData":
        return enhanced, spots_in(data, named) if kind(data) == "SpatialData" else data
    key_added = named.get("key_added", "enhanced")
    if key_added not in enhanced.tables:
        msg = f"Expected --key-added to be one of the tables {list(enhanced.tables)}, found {key_added!r}."
        raise ValueError(msg)
    return enhanced.tables[key_added], spots_in(enhanced, _with_table_key(enhanced, named, key_added))


def _with_table_key(enhanced: Any, named: dict[str, Any], key_added: str) -> dict[str, Any]:
    """Return `named` with the table of the spots: that of the user, ``table``, or the only one beside the result."""
    others = [name for name in enhanced.tables if name != key_added]
    if "table_key" in named or len(others) != 1:
        return named
    return {**named, "table_key": others[0]}


def spots_in(data: Any, named: dict[str, Any]) -> Any:
    """Return the spots of a SpatialData as AnnData."""
    from soscope_scverse._containers.spatialdata import SpatialSpots

    of_spots = {name: named[name] for name in ("table_key", "shapes_key", "coordinate_system") if name in named}
    return SpatialSpots(data, **of_spots).adata()


def check_storable(data: Any, named: dict[str, Any], library_key: str | None, out: Any) -> None:
    """Raise a ValueError, before any work, if the file of the result cannot hold something of its input.

    An AnnData is written by :func:`~soscope_scverse.tl.enhance`, which checks it itself.
    """
    from soscope_scverse import _storable
    from soscope_scverse._containers.mudata import spots_of
    from soscope_scverse.tl._results import check_result

    if kind(data) == "MuData":
        check_result("--out", spots_of(data), library_key, out.suffix)
        for part in data.mod.values():
            check_result("--out", part, None, out.suffix)
    elif kind(data) == "SpatialData" and out.suffix == ".zarr":
        _storable.check_elements("--out", data)
    elif kind(data) == "SpatialData":
        check_result("--out", spots_in(data, named), library_key, out.suffix)


def obsm_of(data: Any, named: dict[str, Any]) -> Any:
    """Return ``obsm`` of the spots."""
    if kind(data) != "SpatialData":
        return data.obsm
    from soscope_scverse._containers.spatialdata import table_name

    return data.tables[table_name(data, named.get("table_key", "table"))].obsm
