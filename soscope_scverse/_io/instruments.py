"""Output folders of 10x Genomics, through the readers of spatialdata-io."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from soscope_scverse._io.kinds import BINNED, SPATIAL, Found, bins_in, feature_slice, is_bins

if TYPE_CHECKING:
    from spatialdata import SpatialData

_SCALES = "scalefactors_json.json"
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
_FACTORS = ("spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef")
_DEFAULT_BINS = "square_008um"
"""Of the bins of Visium HD those that 10x Genomics recommends, and spatialdata-io 0.7 calls the default."""

_SIZES = ("full", "hires", "lowres")
"""Images of a capture area from fine to coarse, as spatialdata-io 0.7 calls them."""


def read_visium(found: Found) -> SpatialData:
    """Read the output of Space Ranger for Visium, or for the bins of one size of Visium HD."""
    folder = found.path
    _check_installed(folder, "visium")
    _check_files(folder, found.counts)
    with _as_csv(folder / SPATIAL) as positions:
        options = {"dataset_id": _name(folder), "counts_file": found.counts, "tissue_positions_file": positions}
        sdata = _call("visium", folder, options)
    return _with_largest_image(sdata)


def read_visium_hd(found: Found) -> SpatialData:
    """Read the bins of one size of the output of Space Ranger for Visium HD."""
    if is_bins(found.path):
        return _read_bins(found.path.absolute())
    binned = found.path / BINNED if (found.path / BINNED).is_dir() else found.path
    there = bins_in(binned)
    bins = there[0] if len(there) == 1 else _DEFAULT_BINS
    if bins not in there:
        msg = f"Expected bins of 8 um ({_DEFAULT_BINS!r}) in {str(binned)!r}, found {there}. Name one of these folders."
        raise ValueError(msg)
    return _read_bins(binned / bins)


def read_xenium(found: Found) -> SpatialData:
    """Read the cells and images of the output of Xenium."""
    _check_installed(found.path, "xenium")
    excluded = ("nucleus_boundaries", "cells_labels", "nucleus_labels", "transcripts", "morphology_mip")
    return _call("xenium", found.path, {"cells_as_circles": True, **dict.fromkeys(excluded, False)})


def _read_bins(folder: Path) -> SpatialData:
    """Read a folder of bins: with that of the whole output where it is there, else by itself."""
    outs = folder.parent.parent if folder.parent.name == BINNED else folder.parent
    described = feature_slice(outs)
    if described is None:  # 10x Genomics offers the folder of bins alone, too
        return read_visium(Found("visium", folder, "filtered_feature_bc_matrix.h5"))
    _check_installed(folder, "visium_hd")
    _check_files(folder, "filtered_feature_bc_matrix.h5")
    prefix = described.name.removesuffix("feature_slice.h5").removesuffix("_")
    options = {"dataset_id": prefix or _name(outs), "bin_size": int(re.sub(r"\D", "", folder.name))}
    sdata = _call("visium_hd", outs, {**options, "load_segmentations_only": False})
    for name in set(sdata.tables) - {folder.name}:  # of segmented cells, whose shapes are kept
        del sdata.tables[name]
    return _with_largest_image(sdata)


def _check_installed(folder: Path, reader: str) -> None:
    """Raise an ImportError unless the package with the readers is installed."""
    if find_spec("spatialdata_io") is None:
        msg = (
            f"Expected spatialdata-io to read {str(folder)!r} (`spatialdata_io.{reader}`), found that it is not "
            "installed. Call `pip install 'soscope-scverse[io]'`."
        )
        raise ImportError(msg)


def _check_files(folder: Path, counts: str | None) -> None:
    """Raise unless a folder of Space Ranger has counts, positions and scale factors."""
    spatial = folder / SPATIAL
    wanted: dict[str, Sequence[Path]] = {
        "counts (filtered_feature_bc_matrix.h5)": [folder / (counts or "filtered_feature_bc_matrix.h5")],
        f"positions (spatial/{_POSITIONS[0]})": [spatial / name for name in _POSITIONS],
        f"scale factors (spatial/{_SCALES})": [spatial / _SCALES],
    }
    missing = [what for what, paths in wanted.items() if not any(path.is_file() for path in paths)]
    if missing:
        msg = (
            f"Expected the output of Space Ranger in {str(folder)!r}, as `spatialdata_io.visium` reads it, found no "
            f"{' and no '.join(missing)}. Copy these files, too."
        )
        raise FileNotFoundError(msg)
    if counts is not None and counts.endswith(".mtx"):
        msg = (
            f"Expected counts as Space Ranger compresses them in {str(folder)!r}, found {counts!r}. Call `gzip` on "
            "this file and on those beside it."
        )
        raise ValueError(msg)
    try:
        factors = json.loads((spatial / _SCALES).read_text(encoding="utf-8"))
        lacking = [name for name in _FACTORS if name not in factors]
    except (ValueError, TypeError) as error:
        msg = f"Expected scale factors as JSON in {str(spatial / _SCALES)!r}, but it cannot be read: {error}"
        raise ValueError(msg) from error
    if lacking:
        msg = f"Expected scale factors {list(_FACTORS)} in {str(spatial / _SCALES)!r}, found no {lacking}."
        raise ValueError(msg)


@contextmanager
def _as_csv(spatial: Path) -> Iterator[Path | None]:
    """Positions in a file that `spatialdata_io.visium` reads; None if that is in its place."""
    if any((spatial / name).is_file() for name in _POSITIONS[:2]):
        yield None
        return
    import pandas as pd

    with TemporaryDirectory() as folder:
        path = Path(folder) / _POSITIONS[0]
        pd.read_parquet(spatial / _POSITIONS[2]).to_csv(path, index=False)
        yield path


def _name(folder: Path) -> str:
    """Name of a dataset in a SpatialData, after its folder."""
    parts = [part for part in folder.absolute().parts[-3:] if part not in ("outs", BINNED)]
    return re.sub(r"[^\w-]", "_", parts[-1]).strip("_") or "section"


def _call(reader: str, folder: Path, options: dict[str, Any]) -> SpatialData:
    """Call a reader of spatialdata-io, which takes seconds to import."""
    import spatialdata_io

    with warnings.catch_warnings():
        # of readers among themselves, which users cannot act on
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="(Variable|Observation) names are not unique|Converting `region_key")
        try:
            return getattr(spatialdata_io, reader)(folder, **options)
        except Exception as error:  # damaged files and other formats raise errors of many types
            msg = (
                f"Expected {str(folder)!r} to be read by `spatialdata_io.{reader}`, but it cannot be read: "
                f"{type(error).__name__}: {error}"
            )
            raise ValueError(msg) from error


def _with_largest_image(sdata: SpatialData) -> SpatialData:
    """Remove smaller images of the same capture area."""
    for name in list(sdata.images):
        prefix, _, size = name.removesuffix("_image").rpartition("_")
        larger = _SIZES[: _SIZES.index(size)] if size in _SIZES else ()
        if any(f"{prefix}_{other}_image" in sdata.images for other in larger):
            del sdata.images[name]
    return sdata
