"""Results on disk: filled piece by piece, complete or absent, and opened without being read."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import h5py
import numpy as np
import zarr
from anndata import AnnData
from anndata.experimental import read_elem_lazy
from zarr.errors import ZarrUserWarning

from soscope_scverse._files import completed

Arrays: TypeAlias = dict[str, Any]
"""Arrays by their place in the AnnData, as "X" or "layers/std"; rows can be assigned to."""


@contextmanager
def new_store(path: Path, frame: AnnData, places: list[str], chunk_rows: int) -> Iterator[Arrays]:
    """Arrays of a new zarr store or h5ad file, which takes its name when they have been filled.

    Parameters
    ----------
    path
        Ends in ``.zarr`` or ``.h5ad``; whatever is there is replaced in the end.
    frame
        Everything else that the store holds.
    places
        The n_obs x n_vars float32 arrays to make.
    chunk_rows
        Rows of a chunk.
    """
    make = _h5ad_arrays if path.suffix == ".h5ad" else _zarr_arrays
    if path.suffix == ".h5ad":
        _check_space(path, 4 * len(places) * frame.n_obs * frame.n_vars)
    with completed(path) as part:
        with make(part, frame, places, (min(chunk_rows, max(frame.n_obs, 1)), frame.n_vars)) as arrays:
            yield arrays
        if part.suffix == ".zarr":
            with _consolidating():
                zarr.consolidate_metadata(part)


@contextmanager
def new_array(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[Any]:
    """A new float32 zarr array, which takes its name when it has been filled."""
    with completed(path) as part:
        yield zarr.create_array(part, shape=shape, dtype=np.float32, chunks=chunks)


def _check_space(path: Path, size: int) -> None:
    """Raise an OSError if the disk has no room for a file: HDF5 may crash when it fills up, instead of raising one."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        msg = f"No space left on device: {str(path)!r} needs {size / 1e6:.1f} MB, {free / 1e6:.1f} MB are free."
        raise OSError(msg)


@contextmanager
def _h5ad_arrays(part: Path, frame: AnnData, places: list[str], chunks: tuple[int, int]) -> Iterator[Arrays]:
    frame.write_h5ad(part)
    with h5py.File(part, "r+") as file:
        arrays = {}
        for place in places:
            arrays[place] = file.create_dataset(place, frame.shape, np.float32, chunks=chunks)
            arrays[place].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        yield arrays


@contextmanager
def _zarr_arrays(part: Path, frame: AnnData, places: list[str], chunks: tuple[int, int]) -> Iterator[Arrays]:
    with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False), _consolidating():
        frame.write_zarr(part)
    group = zarr.open_group(part, mode="r+", use_consolidated=False)
    arrays = {}
    for place in places:
        arrays[place] = group.create_array(place, shape=frame.shape, dtype=np.float32, chunks=chunks)
        arrays[place].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    yield arrays


@contextmanager
def _consolidating() -> Iterator[None]:
    """Without the warning that other readers of zarr 3 may not know consolidated metadata; anndata does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        yield


def open_lazily(path: Path) -> AnnData:
    """AnnData of a store whose profiles and image features are dask arrays, read when they are asked for."""
    if path.suffix == ".h5ad":
        with h5py.File(path, "r") as file:
            return _lazy(file)
    return _lazy(zarr.open_group(path, mode="r"))


def _lazy(group: Any) -> AnnData:
    in_memory = {name: ad.io.read_elem(group[name]) for name in ("obs", "var", "uns")}
    return AnnData(
        read_elem_lazy(group["X"]),
        **in_memory,
        layers={name: read_elem_lazy(group["layers"][name]) for name in group["layers"]},
        obsm={name: read_elem_lazy(group["obsm"][name]) for name in group["obsm"]},
    )
