"""Reading of input files and atomic writing of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soscope_scverse._files import completed


def read(path: Path, *, backed: bool = False) -> Any:
    """Read an AnnData, MuData or SpatialData, recognised by the suffix or by the metadata of a zarr store.

    Parameters
    ----------
    path
        ``.h5ad``, ``.h5mu`` or ``.zarr``.
    backed
        Keep the profiles of an h5ad file on disk.
    """
    import mudata

    if path.suffix == ".h5mu":
        return _read(path, "a MuData file (.h5mu)", mudata.read_h5mu)
    if path.suffix == ".zarr" or path.is_dir():
        return _read(path, "a zarr store of AnnData or SpatialData", _read_zarr)
    return _read(path, "an AnnData file (.h5ad)", lambda file: _read_h5ad(file, backed=backed))


def _read(path: Path, kind: str, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except Exception as error:  # damaged files and other formats raise errors of many types
        msg = f"Expected {path} to be {kind}, but it cannot be read: {error or type(error).__name__}"
        raise ValueError(msg) from error


def _read_h5ad(path: Path, *, backed: bool) -> Any:
    import anndata
    import h5py

    with h5py.File(path) as file:
        backed = backed and "X" in file  # a file-backed AnnData requires X
    return anndata.read_h5ad(path, backed="r" if backed else None)


def _read_zarr(path: Path) -> Any:
    import zarr

    if "spatialdata_attrs" not in zarr.open_group(path, mode="r").attrs:
        import anndata

        return anndata.read_zarr(path)
    import spatialdata

    sdata = spatialdata.read_zarr(path)
    sdata.path = None  # new elements are written to a new store
    return sdata


def write(data: Any, path: Path) -> None:
    """Write a file or store atomically."""
    import anndata

    writer = {".h5ad": "write_h5ad", ".h5mu": "write_h5mu"}.get(path.suffix)
    if writer is None:
        writer = "write_zarr" if hasattr(data, "write_zarr") else "write"  # AnnData, SpatialData
    with completed(path) as part, anndata.settings.override(auto_shard_zarr_v3=False):
        getattr(data, writer)(part)


def check_output_option(
    option: str, path: Path | None, suffixes: Sequence[str], *, force: bool, inputs: Sequence[Path | None] = ()
) -> None:
    """Raise a ValueError, before any work, unless a file can be written and is not one of the inputs."""
    from soscope_scverse._validators import check_output

    if path is None:
        return
    if any(other is not None and path.resolve() == other.resolve() for other in inputs):
        msg = f"Expected `{option}` to differ from the inputs, found {str(path)!r}. Choose another name."
        raise ValueError(msg)
    check_output(option, path, overwrite=force, suffixes=suffixes, to_overwrite="--force")


def gene_list(text: str) -> list[str]:
    """Return names, comma-separated or from the file after ``@`` with one per line."""
    names = Path(text[1:]).read_text(encoding="utf-8").splitlines() if text.startswith("@") else text.split(",")
    return [name.strip() for name in names if name.strip()]
