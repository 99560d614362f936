"""AnnData, MuData and SpatialData take different options and go to different files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from soscope_scverse.cli._command import given

ELEMENTS = ("table_key", "image_key", "shapes_key", "coordinate_system", "key_added")


def kind(data: Any) -> str:
    """AnnData, MuData or SpatialData, none of which needs to be imported to tell."""
    return type(data).__name__


def formats(data: Any) -> tuple[str, ...]:
    """How the names of files end that data of this kind are written to."""
    return {"AnnData": (".h5ad", ".zarr"), "MuData": (".h5mu",), "SpatialData": (".zarr",)}[kind(data)]


def elements(data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Take the options that name elements of a SpatialData out of all options.

    Raises
    ------
    ValueError
        If the data are no SpatialData and have none.
    """
    named = given(**{name: options.pop(name) for name in ELEMENTS if name in options})
    if named and kind(data) != "SpatialData":
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in named)
        msg = f"Expected {flags} with SpatialData only, found {kind(data)}. Leave it out."
        raise ValueError(msg)
    return named


def by_modality(data: Any, option: str, values: Sequence[str], read: Callable[[str], Any] = str) -> Any:
    """The value of an option, of a MuData as a dict of ``MODALITY=VALUE``; None if it is not given.

    Raises
    ------
    ValueError
        If the values are not of this form.
    """
    if kind(data) == "MuData":
        pairs = [value.partition("=") for value in values]
        if not all(sign and name in data.mod for name, sign, _ in pairs):
            msg = (
                f"Expected {option} MODALITY=VALUE for each of the modalities to model out of {list(data.mod)}, found "
                f"{', '.join(values)}."
            )
            raise ValueError(msg)
        return {name: read(value) for name, _, value in pairs} or None
    if len(values) > 1:
        msg = f"Expected {option} once, found {', '.join(values)}. Only of a MuData there are several."
        raise ValueError(msg)
    return read(values[0]) if values else None


def pair(enhanced: Any, data: Any, named: dict[str, Any]) -> tuple[Any, Any]:
    """Subspots and spots, of a SpatialData those in its tables; `named` as of :func:`elements`."""
    if kind(enhanced) != "SpatialData":
        return enhanced, data
    from soscope_scverse._containers.spatialdata import SpatialSpots

    of_spots = {name: named[name] for name in ("table_key", "shapes_key", "coordinate_system") if name in named}
    spots = SpatialSpots(enhanced, **of_spots).adata()
    key_added = named.get("key_added", "enhanced")
    if key_added not in enhanced.tables:
        msg = f"Expected --key-added to be one of the tables {list(enhanced.tables)}, found {key_added!r}."
        raise ValueError(msg)
    return enhanced.tables[key_added], spots


def slots_of(data: Any, named: dict[str, Any]) -> Any:
    """``obsm`` of the spots."""
    return data.tables[named.get("table_key", "table")].obsm if kind(data) == "SpatialData" else data.obsm
