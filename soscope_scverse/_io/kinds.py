"""What a file or folder is, by its name and by what is in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Reader = Literal["h5ad", "h5mu", "zarr", "visium", "visium_hd", "xenium"]


class Found(NamedTuple):
    """A file or folder that can be read."""

    reader: Reader
    path: Path
    """The file, store or folder to read."""
    counts: str | None = None
    """Name of the file of counts in the folder."""


SPATIAL, BINNED = "spatial", "binned_outputs"
_BINS = re.compile(r"square_\d{3}um")  # as Space Ranger 3 and 4 call the folders of bins
_COUNTS = (  # of Space Ranger, in the order of preference
    "*filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix/matrix.mtx.gz",
    "*matrix.mtx.gz",
    "*raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix/matrix.mtx.gz",
    "*/matrix.mtx",
)
_XENIUM, _SLICE = "experiment.xenium", "feature_slice.h5"
_STORE = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")

_OTHER_FOLDERS = {
    # a file in them, and what they are; the readers are those of spatialdata-io 0.7
    "*_exprMat_file.csv*": "CosMx; read it with `spatialdata_io.cosmx`",
    "*detected_transcripts.csv": "MERSCOPE; read it with `spatialdata_io.merscope`",
    "*cell_by_gene.csv": "MERSCOPE; read it with `spatialdata_io.merscope`",
    "02.count": "Stereo-seq; read it with `spatialdata_io.stereoseq`",
    "*.gef": "Stereo-seq; read it with `spatialdata_io.stereoseq`",
    "*_TranscriptList*": "seqFISH; read it with `spatialdata_io.seqfish`",
    "*_anndata.h5ad": "Curio; read it with `spatialdata_io.curio`",
    "masks_deepcell": "Steinbock; read it with `spatialdata_io.steinbock`",
    "cell_feature_matrix*": "Xenium without `experiment.xenium`; copy that, too, and all files beside it",
    "matrix.mtx*": "counts of Cell Ranger or Space Ranger; name the folder of Space Ranger that `spatial` is in",
    "tissue_positions*": "positions and images of Space Ranger; name the folder above it, that the counts are in",
}
_OTHER_FILES = {
    (".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".svs", ".ndpi", ".czi"): "an image; pass it with the spots",
    (".csv", ".tsv", ".txt", ".xlsx", ".parquet", ".feather", ".mtx"): "a table; make an AnnData with positions of it",
    (".rds", ".rdata", ".rda", ".h5seurat"): "an object of R; write it as h5ad, for example with `anndataR`",
    (".loom",): "a loom file; read it with `anndata.io.read_loom` and store positions",
    (".gef", ".gem"): "a file of Stereo-seq; read its folder with `spatialdata_io.stereoseq`",
    (".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z"): "an archive; unpack it",
    (".cloupe",): "a file of Loupe Browser; name the folder of Space Ranger",
}
_SHOWN = 5
"""Names of files that a message shows."""


def kind_of(path: Path) -> Found:
    """Return how to read a file or folder.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ValueError
        If it is anything else, with what it is.
    """
    if not path.exists():
        msg = f"Expected a file or folder of spots, found no {str(path)!r}. Check the path."
        raise FileNotFoundError(msg)
    found = _folder(path) if path.is_dir() else _file(path)
    if found is None:
        what = _other_folder(path) if path.is_dir() else _other_file(path)
        msg = (
            "Expected AnnData (.h5ad, .zarr), MuData (.h5mu), SpatialData (.zarr) or the output folder of Space Ranger "
            f"or Xenium, found {str(path)!r}: {what}."
        )
        raise ValueError(msg)
    return found


def is_bins(folder: Path) -> bool:
    """Whether this is a folder of bins of Visium HD."""
    return folder.is_dir() and _BINS.fullmatch(folder.absolute().name) is not None


def bins_in(folder: Path) -> list[str]:
    """Names of the folders of bins of Visium HD in a folder."""
    return sorted(part.name for part in folder.iterdir() if is_bins(part))


def feature_slice(folder: Path) -> Path | None:
    """The file of Visium HD that describes a capture area, whose name may have a prefix."""
    return next(iter(sorted(folder.glob(f"*{_SLICE}"))), None)


def _folder(path: Path) -> Found | None:
    """How to read a folder."""
    if path.suffix == ".zarr" or any((path / name).exists() for name in _STORE):
        return Found("zarr", path)
    for folder in (path, path / "outs"):  # the run of Space Ranger has its output in `outs`
        if (folder / _XENIUM).is_file():
            return Found("xenium", folder)
        if (folder / BINNED).is_dir() or (folder.is_dir() and (is_bins(folder) or bins_in(folder))):
            return Found("visium_hd", folder)
        if (folder / SPATIAL).is_dir():
            return Found("visium", folder, _counts(folder))
    return None


def _counts(folder: Path) -> str | None:
    """Name of the file of counts in a folder of Space Ranger; None if there is none."""
    for pattern in _COUNTS:
        found = sorted(str(one.relative_to(folder)) for one in folder.glob(pattern))
        if len(found) > 1:
            msg = f"Expected counts of one section in {str(folder)!r}, found {_listed(found)}. Name one of these files."
            raise ValueError(msg)
        if found:
            return found[0]
    return None


def _file(path: Path) -> Found | None:
    """How to read a file."""
    if path.suffix == ".h5mu":
        return Found("h5mu", path)
    if path.suffix == ".zarr":
        return Found("zarr", path)
    if path.suffix == ".h5ad":
        return Found("h5ad", path)
    names = _hdf5(path)
    folder = path.absolute().parent
    if path.name.endswith(_SLICE) or path.name == _XENIUM:
        return _folder(folder)
    if {"obs", "var"} <= set(names):
        return Found("h5mu" if "mod" in names else "h5ad", path)
    if "matrix" in names and (folder / _XENIUM).is_file():
        return Found("xenium", folder)
    if "matrix" in names and is_bins(folder):
        return Found("visium_hd", folder)
    if ("matrix" in names or path.name.endswith("matrix.mtx.gz")) and (folder / SPATIAL).is_dir():
        return Found("visium", folder, path.name)
    return None


def _other_folder(path: Path) -> str:
    """What a folder is that cannot be read."""
    for pattern, what in _OTHER_FOLDERS.items():
        if next(path.glob(pattern), None) is not None:
            return f"a folder of {what}" + (", and write the result as .zarr" if "spatialdata_io" in what else "")
    names = sorted(one.name for one in path.iterdir())
    return f"a folder with {_listed(names)}" if names else "an empty folder"


def _other_file(path: Path) -> str:
    """What a file is that cannot be read."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    for known, what in _OTHER_FILES.items():
        if suffixes and suffixes[0] in known:
            return what
    names = _hdf5(path)
    if "matrix" in names and path.name.startswith("cell_feature_matrix"):
        return "counts of Xenium without `experiment.xenium` beside them; name the whole output folder"
    if "matrix" in names:
        return (
            "counts of Cell Ranger or Space Ranger, without the folder `spatial` beside them. Copy that to the same "
            "folder, or read the counts with `scanpy.read_10x_h5` and store positions"
        )
    return f"an HDF5 file with {_listed(names)}" if names else f"a file of {path.stat().st_size} bytes"


def _hdf5(path: Path) -> Sequence[str]:
    """Names in the root of an HDF5 file; none of any other file."""
    import h5py

    if not h5py.is_hdf5(path):
        return []
    with h5py.File(path) as file:
        return sorted(file)


def _listed(names: Sequence[Any]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
