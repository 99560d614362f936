"""Results on disk: written in pieces, complete or absent, and opened lazily."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata import AnnData
from anndata.experimental import read_elem_lazy
from mudata import MuData
from zarr.errors import ZarrUserWarning

from soscope_scverse._files import completed
from soscope_scverse._storable import name_sections, nested_sections
from soscope_scverse._validators import check_no_mudata_on_disk, check_output

Arrays: TypeAlias = dict[str, Any]
"""Arrays by their slot of the AnnData, as "X" or "layers/std"; rows can be assigned to."""


def output_path(
    out: str | PathLike | None,
    data: AnnData | MuData | None = None,
    *,
    overwrite: bool,
    suffixes: Sequence[str] = (".zarr", ".h5ad"),
) -> Path | None:
    """Return the path of a result that can be written, None for a result in memory.

    Parameters
    ----------
    out
        The argument of a user.
    data
        Spots whose container the result has; those of a MuData cannot be written in pieces.
    overwrite
        Whether an existing file or store may be replaced.
    suffixes
        Those of the formats that can be written.
    """
    check_no_mudata_on_disk(data, out)
    if out is None:
        return None
    check_output("out", out, overwrite=overwrite, suffixes=suffixes)
    return Path(out)


@contextmanager
def new_store(
    path: Path, frame: AnnData, slots: list[str], chunks: tuple[int, int], dtype: str = "float32"
) -> Iterator[Arrays]:
    """Arrays of a new zarr store or h5ad file, which is renamed to `path` when they have been filled.

    Parameters
    ----------
    path
        Ends in ``.zarr`` or ``.h5ad``; an existing one is replaced at the end.
    frame
        Everything else in the store.
    slots
        The n_obs x n_vars arrays to create.
    chunks
        Rows and columns of a chunk.
    dtype
        Of the arrays.
    """
    make = _h5ad_arrays if path.suffix == ".h5ad" else _zarr_arrays
    if path.suffix == ".h5ad":
        _check_space(path, np.dtype(dtype).itemsize * len(slots) * frame.n_obs * frame.n_vars)
    with completed(path) as part:
        chunks = min(chunks[0], max(frame.n_obs, 1)), min(chunks[1], frame.n_vars)
        with nested_sections(frame), make(part, frame, slots, chunks, dtype) as arrays:
            yield arrays
        if part.suffix == ".zarr":
            with _consolidating():
                zarr.consolidate_metadata(part)


@contextmanager
def new_array(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[Any]:
    """A new float32 zarr array, which is renamed to `path` when it has been filled."""
    with completed(path) as part:
        yield zarr.create_array(part, shape=shape, dtype=np.float32, chunks=chunks)


def _check_space(path: Path, size: int) -> None:
    """Raise an OSError if the disk has no room for a file: HDF5 may crash on a full disk instead of raising one."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        msg = f"No space left on device: {str(path)!r} needs {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are free."
        raise OSError(msg)


@contextmanager
def _h5ad_arrays(part: Path, frame: AnnData, slots: list[str], chunks: tuple[int, int], dtype: str) -> Iterator[Arrays]:
    frame.write_h5ad(part)
    with h5py.File(part, "r+") as file:
        arrays = {}
        for slot in slots:
            arrays[slot] = file.create_dataset(slot, frame.shape, dtype, chunks=chunks)
            arrays[slot].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        yield arrays


@contextmanager
def _zarr_arrays(part: Path, frame: AnnData, slots: list[str], chunks: tuple[int, int], dtype: str) -> Iterator[Arrays]:
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False), _consolidating():
        frame.write_zarr(part)
    group = zarr.open_group(part, mode="r+", use_consolidated=False)
    arrays = {}
    for slot in slots:
        arrays[slot] = group.create_array(slot, shape=frame.shape, dtype=dtype, chunks=chunks)
        arrays[slot].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    yield arrays


@contextmanager
def _consolidating() -> Iterator[None]:
    """Silence the warning that other readers of zarr 3 may ignore consolidated metadata; anndata reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        yield


def open_lazily(path: Path) -> AnnData:
    """Return the AnnData of a store, with profiles and image features as dask arrays."""
    if path.suffix == ".h5ad":
        with h5py.File(path, "r") as file:
            return _lazy(file)
    return _lazy(zarr.open_group(path, mode="r"))


def _lazy(group: Any) -> AnnData:
    in_memory = {name: ad.io.read_elem(group[name]) for name in ("obs", "var", "uns")}
    adata = AnnData(
        read_elem_lazy(group["X"]),
        **in_memory,
        layers={name: read_elem_lazy(group["layers"][name]) for name in group["layers"]},
        obsm={name: read_elem_lazy(group["obsm"][name]) for name in group["obsm"]},
    )
    name_sections(adata)
    return adata
