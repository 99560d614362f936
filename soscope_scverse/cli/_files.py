"""Input files in, results out: errors that a user understands, and no half file under a final name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soscope_scverse._files import completed


def read(path: Path, *, backed: bool = False) -> Any:
    """Read an AnnData, MuData or SpatialData, told by the name of the file and, of a zarr store, by what it says.

    Parameters
    ----------
    path
        ``.h5ad``, ``.h5mu`` or ``.zarr``.
    backed
        Leave the profiles of an h5ad file on disk.
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
    except Exception as error:  # damaged files and those of another kind fail in many ways
        msg = f"Expected {path} to be {kind}, but it cannot be read as one: {error or type(error).__name__}"
        raise ValueError(msg) from error


def _read_h5ad(path: Path, *, backed: bool) -> Any:
    import anndata
    import h5py

    with h5py.File(path) as file:
        backed = backed and "X" in file  # a file-backed AnnData cannot be without
    return anndata.read_h5ad(path, backed="r" if backed else None)


def _read_zarr(path: Path) -> Any:
    import zarr

    if "spatialdata_attrs" not in zarr.open_group(path, mode="r").attrs:
        import anndata

        return anndata.read_zarr(path)
    import spatialdata

    sdata = spatialdata.read_zarr(path)
    sdata.path = None  # what is added to it goes to a new store
    return sdata


def write(data: Any, path: Path) -> None:
    """Write so that no half file is ever found under the final name."""
    import anndata

    writer = {".h5ad": "write_h5ad", ".h5mu": "write_h5mu"}.get(path.suffix)
    if writer is None:
        writer = "write_zarr" if hasattr(data, "write_zarr") else "write"  # AnnData, SpatialData
    with completed(path) as part, anndata.settings.override(auto_shard_zarr_v3=False):
        getattr(data, writer)(part)


def check_output(
    path: Path | None, suffixes: Sequence[str], *, force: bool, sources: Sequence[Path | None] = ()
) -> None:
    """Raise, before any work, unless a file can be written and is none of the inputs."""
    if path is None:
        return
    if any(source is not None and path.resolve() == source.resolve() for source in sources):
        msg = f"{path} is an input. Choose another file to write to."
        raise ValueError(msg)
    if path.suffix not in suffixes:
        msg = f"Expected a name that ends in {' or '.join(map(repr, suffixes))} to write to, found {str(path)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"Expected a folder that exists to write {path.name} to. Make {str(path.parent)!r} first."
        raise ValueError(msg)
    if path.exists() and not force:
        msg = f"{path} exists. Choose another name or pass --force."
        raise ValueError(msg)


def read_table(path: Path) -> Any:
    """CSV with names in the first column."""
    import pandas as pd

    return pd.read_csv(path, index_col=0)


def gene_list(text: str) -> list[str]:
    """Names, comma-separated or one a line in the file after ``@``."""
    names = Path(text[1:]).read_text(encoding="utf-8").splitlines() if text.startswith("@") else text.split(",")
    return [name.strip() for name in names if name.strip()]
