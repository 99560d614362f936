"""Reading of input files and atomic writing of results."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soscope_scverse._files import completed


def read(path: Path, *, backed: bool = False) -> Any:
    """Read spots, see :func:`soscope_scverse.read`; a SpatialData is not bound to its store."""
    from soscope_scverse._io import read

    data = read(path, backed=backed)
    if hasattr(data, "path"):
        data.path = None  # new elements are written to a new store
    return data


def write(data: Any, path: Path) -> None:
    """Write a file or store atomically."""
    import anndata

    from soscope_scverse._storable import nested_sections

    writer = {".h5ad": "write_h5ad", ".h5mu": "write_h5mu"}.get(path.suffix)
    if writer is None:
        writer = "write_zarr" if hasattr(data, "write_zarr") else "write"  # AnnData, SpatialData
    parts = [data, *getattr(data, "mod", {}).values()] if hasattr(data, "uns") else []
    with completed(path) as part, nested_sections(*parts), anndata.settings.override(auto_shard_zarr_v3=False):
        getattr(data, writer)(part)


def write_result(data: Any, subspots: Any, path: Path) -> Path:
    """Write a result, or its subspots beside the path if that fails; return what was written.

    Parameters
    ----------
    data
        The result, or its subspots for an h5ad file.
    subspots
        Its subspots.
    path
        The path to write to.
    """
    try:
        write(data, path)
    except OSError:  # of the disk, which is that beside the path, too
        raise
    except Exception as error:  # of the writers of other packages
        beside = path.with_name(f"{path.stem}_subspots{'.zarr' if path.suffix != '.zarr' else '.h5ad'}")
        try:
            write(subspots, beside)
        except Exception:
            msg = f"The result cannot be written to {path}: {error or type(error).__name__}"
            raise OSError(msg) from error
        warnings.warn(f"{path} cannot be written ({error}). The subspots are in {beside}.", UserWarning, stacklevel=2)
        return beside
    return path


def check_storable(data: Any, path: Path) -> None:
    """Raise a ValueError, before any work, if a file cannot hold something in `data`."""
    from soscope_scverse import _storable

    if hasattr(data, "tables"):
        _storable.check_elements("--out", data)
    else:
        _storable.check_storable("--out", data, path.suffix)


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


def gene_list(text: str) -> list[str] | str:
    """Return names, comma-separated or from the file after ``@`` with one per line; ``"all"`` is all genes."""
    if text == "all":
        return text
    path, is_file = Path(text.removeprefix("@")), text.startswith("@")
    if is_file and not path.is_file():
        msg = f"Expected a file of gene names, one per line, after `@`, found none at {str(path)!r}. Check the path."
        raise FileNotFoundError(msg)
    if not is_file and path.is_file():
        msg = f"Expected names of genes, found the file {text!r}. Pass `@{text}` to read the names in it."
        raise ValueError(msg)
    names = path.read_text(encoding="utf-8").splitlines() if is_file else text.split(",")
    return [name.strip() for name in names if name.strip()]
