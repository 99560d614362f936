"""What a file cannot hold, found before the work whose result is written to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from mudata import MuData
from scipy.sparse import issparse

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read

if TYPE_CHECKING:
    from spatialdata import SpatialData

_SLOTS = ("layers", "obsm", "varm", "obsp", "varp", "uns")
_NO_NAMES = ("", ".", "..")
"""Keys that files take for a folder itself, or the one above."""

_SHOWN = 5
"""Slots that a message names."""


def check_storable(name: str, data: AnnData | MuData, suffix: str) -> None:
    """Raise a ValueError, which names the slots, if a file cannot hold something in `data`.

    The writer of anndata is asked itself, with a file in memory; of numbers it gets one row.

    Parameters
    ----------
    name
        Argument that names the file.
    data
        What will be written.
    suffix
        Of the file: ``.zarr``, or anything else for HDF5.
    """
    parts = {f"mod[{key!r}].": part for key, part in data.mod.items()} if isinstance(data, MuData) else {}
    _refuse(
        name, suffix, [one for prefix, part in {**parts, "": data}.items() for one in _faults(part, prefix, suffix)]
    )


def check_elements(name: str, sdata: SpatialData) -> None:
    """Raise a ValueError, which names the slots, if a store cannot hold something in the tables and shapes of `sdata`.

    Parameters
    ----------
    name
        Argument that names the store.
    sdata
        What will be written.
    """
    faults = [one for key, table in sdata.tables.items() for one in _faults(table, f"tables[{key!r}].", ".zarr")]
    for key, shapes in sdata.shapes.items():
        for column in shapes.columns.drop(shapes.geometry.name):
            try:
                pd.DataFrame(shapes[[column]]).to_parquet(BytesIO())
            except Exception:  # of many types
                faults.append(f"shapes[{key!r}][{column!r}] ({_kind(shapes[column])})")
    _refuse(name, ".zarr", faults)


def _refuse(name: str, suffix: str, faults: list[str]) -> None:
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        msg = (
            f"Expected what a {suffix} file can hold for `{name}`, found {'; '.join(faults[:_SHOWN])}{more}. Convert "
            "these, a column for example with `.astype(str)`, rename their keys, or delete them."
        )
        raise ValueError(msg)


@contextmanager
def nested_sections(*data: AnnData | MuData) -> Iterator[None]:
    """Within this context, ``uns["spatial"]`` is as a file can hold it: the "/" in the name of a section is a level.

    :func:`soscope_scverse._read.libraries` finds such sections under their names, see :func:`name_sections`.
    """
    before = [(one, one.uns[keys.SPATIAL]) for one in data if _has_paths(one.uns.get(keys.SPATIAL))]
    try:
        for one, _ in before:
            one.uns[keys.SPATIAL] = _nested(read.libraries(one))
        yield
    finally:
        for one, libraries in before:
            one.uns[keys.SPATIAL] = libraries


def name_sections(*data: AnnData | MuData) -> None:
    """Give the sections in ``uns["spatial"]`` of what was read from a file their names again, in place."""
    for one in data:
        found = one.uns.get(keys.SPATIAL)
        if isinstance(found, Mapping) and _has_paths(named := read.libraries(one)):
            one.uns[keys.SPATIAL] = named


def _has_paths(libraries: Any) -> bool:
    return isinstance(libraries, Mapping) and any("/" in str(name) for name in libraries)


def _nested(libraries: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, entry in libraries.items():
        *folders, last = name.split("/") if isinstance(name, str) else [name]
        level = tree
        for folder in folders:
            level[folder] = dict(level.get(folder, {}))  # a copy: the entry may be the user's
            level = level[folder]
        level[last] = {**level.get(last, {}), **entry}
    return tree


def _fault_of_section(name: Any, libraries: Mapping[str, Any]) -> str:
    """Why a file cannot hold the name of a section as levels; empty if it can."""
    first, *levels = name.split("/") if isinstance(name, str) else [name]
    if levels and any(level in _NO_NAMES for level in (first, *levels)):
        return "a name of a section with a level that is no name"
    for i, level in enumerate(levels):
        above = "/".join([first, *levels[:i]])
        if level in read.PARTS_OF_SECTION or level in libraries.get(above, {}):
            return f"a name of a section that in the file is {level!r} of section {above!r}"
    return ""


def _faults(data: AnnData | MuData, prefix: str, suffix: str) -> Iterator[str]:
    """What cannot be written, with its slot and the reason."""
    for slot in ("obs", "var"):
        yield from _faults_of_table(f"{prefix}{slot}", _with_categories(getattr(data, slot)), suffix)
    for slot in _SLOTS if isinstance(data, AnnData) else _SLOTS[1:]:
        for key, value in dict(getattr(data, slot)).items():
            if key is None:
                continue  # `X`, in anndata 0.13 and newer
            if slot == "uns" and key == keys.SPATIAL and _has_paths(value):
                libraries = read.libraries(data)
                faults = {name: fault for name in libraries if (fault := _fault_of_section(name, libraries))}
                yield from (f"{prefix}uns[{key!r}][{name!r}] ({fault})" for name, fault in faults.items())
                value = _nested({name: entry for name, entry in libraries.items() if name not in faults})
            yield from _faults_of(f"{prefix}{slot}", key, value, suffix)


def _with_categories(table: pd.DataFrame) -> pd.DataFrame:
    """Return ``obs`` or ``var`` as they are written: with categories instead of text."""
    table = table.copy()
    with suppress(Exception):  # what cannot be converted cannot be written either
        AnnData(obs=pd.DataFrame(index=table.index)).strings_to_categoricals(table)
    return table


def _faults_of_table(slot: str, table: pd.DataFrame, suffix: str) -> Iterator[str]:
    """Columns, or the index, of a table that cannot be written."""
    if not _fails(suffix, table):
        return
    columns = [table.iloc[:, [i]].reset_index(drop=True) for i in range(table.shape[1])]
    bad = [column for column in columns if _fails(suffix, column)]
    for column in bad:
        yield f"{slot}[{column.columns.tolist()[0]!r}] ({_kind_of_column(column)})"
    if not bad and table.index.name in table.columns:
        yield f"{slot} (its index has the name of the column {table.index.name!r}, with other values)"
    elif not bad:
        many = f"{table.shape[1]} columns" if table.shape[1] > _SHOWN else f"columns {list(table.columns)}"
        yield f"{slot} ({many}, index {table.index.name!r} of {table.index.dtype})"


def _faults_of(slot: str, key: Any, value: Any, suffix: str) -> Iterator[str]:
    """What cannot be written of an entry of a dict."""
    name = f"{slot}[{key!r}]"
    if not isinstance(key, str):
        yield f"{name} (a key of type {type(key).__name__})"
    elif "/" in key or key in _NO_NAMES:
        yield f"{name} (a key that is a path)"
    elif isinstance(value, Mapping):
        for inner, entry in value.items():
            yield from _faults_of(name, inner, entry, suffix)
    elif isinstance(value, AnnData):
        yield from _faults(value, f"{name}.", suffix)
    elif isinstance(value, pd.DataFrame):
        yield from _faults_of_table(name, value, suffix)
    elif _fails(suffix, value):
        yield f"{name} ({_kind(value)})"


def _fails(suffix: str, value: Any) -> bool:
    """Whether something cannot be written, to a file in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the writer follow when the file itself is written
        try:
            if suffix == ".zarr":
                ad.io.write_elem(zarr.open_group(zarr.storage.MemoryStore(), mode="w"), "a", _sample(value))
            else:
                with h5py.File("memory", "w", driver="core", backing_store=False) as file:
                    ad.io.write_elem(file, "a", _sample(value))
        except Exception:  # of many types
            return True
    return False


def _sample(value: Any) -> Any:
    """A row of numbers; anything else as it is written, since each of its values may be of another type."""
    if isinstance(value, pd.DataFrame):
        if any(name in _NO_NAMES for name in value.columns):
            raise ValueError
        return value
    if issparse(value):
        return type(value)((1, 1), dtype=value.dtype)
    is_array = isinstance(value, np.ndarray) or hasattr(value, "compute")  # in memory, or of dask
    if is_array and value.ndim and value.dtype.kind in "biuf":
        return np.zeros((1,) * value.ndim, dtype=value.dtype)
    return value


def _kind_of_column(table: pd.DataFrame) -> str:
    """Type of the values of the only column of a table, or of its name, in words."""
    name = table.columns.tolist()[0]
    if not isinstance(name, str):
        return f"a name of type {type(name).__name__}"
    return "a name that is a path" if "/" in name or name in _NO_NAMES else _kind(table.iloc[:, 0])


def _kind(value: Any) -> str:
    """Type of a value, in words."""
    dtype = getattr(value, "dtype", None)
    of_objects = isinstance(dtype, np.dtype) and dtype.kind == "O"
    if not (of_objects or isinstance(dtype, pd.CategoricalDtype)):
        return type(value).__name__ if dtype is None else str(dtype)
    values = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else np.ravel(value)
    return f"values of type {', '.join(sorted({type(one).__name__ for one in values}))}"
