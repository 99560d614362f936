"""Readers of AnnData, MuData and SpatialData, chosen by what a path is."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soscope_scverse._io.instruments import read_visium, read_visium_hd, read_xenium
from soscope_scverse._io.kinds import Found, kind_of
from soscope_scverse._storable import name_sections
from soscope_scverse._validators import check_path

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from spatialdata import SpatialData


def read(path: str | PathLike, *, backed: bool = False) -> AnnData | MuData | SpatialData:
    """Read spots from a file, or from the output folder of an instrument.

    Parameters
    ----------
    path
        AnnData (``.h5ad``, ``.zarr``), MuData (``.h5mu``) or SpatialData (``.zarr``); or what an instrument wrote,
        which is read with `spatialdata-io <https://spatialdata.scverse.org/projects/io>`_
        (``pip install 'soscope-scverse[io]'``):

        - the folder ``outs`` of Space Ranger, or its file of counts (``.h5``) with ``spatial`` beside it (Visium);
        - ``outs``, ``outs/binned_outputs`` or one of its folders, such as ``square_016um`` (Visium HD); bins of
          8 micrometres unless it is one of these folders;
        - the output folder of Xenium: cells as circles, their boundaries and images, without molecules.
    backed
        Keep the profiles of an ``.h5ad`` file on disk.

    Returns
    -------
    AnnData, MuData or SpatialData
        For :func:`~soscope_scverse.tl.enhance`. Of the output of an instrument a SpatialData with one table, and of
        the images of Space Ranger the largest.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or files that belong to the output of an instrument are missing.
    TypeError, ValueError
        If it is anything else or damaged; the message says what it is.
    ImportError
        If it is the output of an instrument, and spatialdata-io is not installed.
    """
    check_path("path", path)
    found = kind_of(Path(path).expanduser())
    if found.reader == "h5ad":
        return _read(found.path, "an AnnData file (.h5ad)", lambda file: _read_h5ad(file, backed=backed))
    return _READERS[found.reader](found)


def _read(path: Path, kind: str, reader: Callable[[Path], Any]) -> Any:
    try:
        data = reader(path)
    except Exception as error:  # damaged files and other formats raise errors of many types
        msg = f"Expected {path} to be {kind}, but it cannot be read: {error or type(error).__name__}"
        raise ValueError(msg) from error
    if hasattr(data, "uns"):
        name_sections(data, *getattr(data, "mod", {}).values())
    return data


def _read_h5ad(path: Path, *, backed: bool) -> AnnData:
    import anndata
    import h5py

    with h5py.File(path) as file:
        backed = backed and "X" in file  # a file-backed AnnData requires X
    return anndata.read_h5ad(path, backed="r" if backed else None)


def _read_h5mu(found: Found) -> MuData:
    import mudata

    return _read(found.path, "a MuData file (.h5mu)", mudata.read_h5mu)


def _read_store(found: Found) -> AnnData | SpatialData:
    return _read(found.path, "a zarr store of AnnData or SpatialData", _read_zarr)


def _read_zarr(path: Path) -> AnnData | SpatialData:
    import zarr

    if "spatialdata_attrs" not in zarr.open_group(path, mode="r").attrs:
        import anndata

        return anndata.read_zarr(path)
    import spatialdata

    return spatialdata.read_zarr(path)


_READERS: dict[str, Callable[[Found], Any]] = {
    "h5mu": _read_h5mu,
    "zarr": _read_store,
    "visium": read_visium,
    "visium_hd": read_visium_hd,
    "xenium": read_xenium,
}
