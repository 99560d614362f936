"""Files of cells: outlines (GeoJSON and what else geopandas reads), label masks, and tables of positions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from soscope_scverse._cell_shapes.masks import mask_outlines

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_GEOJSON = (".geojson", ".json")
_PARQUET = (".parquet", ".geoparquet")
_TIFF = (".tif", ".tiff", ".btf")
SUFFIXES = (".csv", ".npy", *_TIFF, *_GEOJSON, *_PARQUET, ".gpkg", ".shp")
"""Those of files of cells."""

_NAMES = ("cell_id", "id")  # Space Ranger 4; QuPath and other GeoJSON
_REPEATED = "Several features with id"  # message of GDAL 3.12
_FEATURE_ID = "fid"  # index of geopandas for numbers, those of the features or of the rows
_KIND = "objectType"  # of QuPath
_KINDS = ("cell", "detection")  # without cells, detections are cells; with cells, they may be parts of them
_NPY = "one array without Python objects (of Cellpose's `_seg.npy` pass the entry 'masks' as array)"
_OLD_KIND = r"Path(\w+)Object"  # QuPath before 0.4 gave all objects of a kind one id


def check_cell_file(path: str | PathLike[str]) -> Path:
    """Return the path of a file of cells; it is not read.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or its format is not known by its suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        msg = (
            f"Expected `cells` to be a file that ends in {', '.join(SUFFIXES)}, found {str(path)!r}. Convert it, or "
            "read it and pass the array or table."
        )
        raise ValueError(msg)
    if not path.is_file():
        msg = f"Expected `cells` to be a file, found none at {str(path)!r}. Check the path."
        raise FileNotFoundError(msg)
    return path


def read_cell_file(path: str | PathLike[str], library_key: str | None = None) -> pd.DataFrame | GeoDataFrame:
    """Read cells by their names: outlines, or a table of positions.

    Parameters
    ----------
    path
        A file with one of the :data:`SUFFIXES`.
    library_key
        Column with the sections, which is kept.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it cannot be read, or it holds no cells.
    """
    path = check_cell_file(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        with _reading(path, "a CSV table with names in the first column"):
            return pd.read_csv(path, index_col=0)
    if suffix == ".npy":
        with _reading(path, _NPY):
            mask = np.load(path, mmap_mode="r", allow_pickle=False)
        return mask_outlines(mask, str(path))
    if suffix in _TIFF:
        return _read_tiff(path)
    shapes = _read_parquet(path) if suffix in _PARQUET else _read_features(path, library_key)
    shapes = _only_cells(shapes, path)
    if shapes.index.name == _FEATURE_ID or isinstance(shapes.index, pd.RangeIndex):  # else they have names
        shapes = _named(shapes, path)
    return _only_polygons(shapes, path) if suffix in _GEOJSON else shapes


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Raise the same ValueError for every error of a reader."""
    try:
        yield
    except Exception as error:
        found = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        msg = f"Expected {path} to be {kind}, but it cannot be read: {found}. Copy or export it again."
        raise ValueError(msg) from error


def _read_tiff(path: Path) -> GeoDataFrame:
    """Read the full resolution of the first image of a TIFF file, in strips."""
    import tifffile
    import zarr

    with ExitStack() as opened:
        with _reading(path, "a TIFF file"):
            file = opened.enter_context(tifffile.TiffFile(path))
            mask = zarr.open_array(opened.enter_context(file.series[0].aszarr(level=0)), mode="r")
        return mask_outlines(mask, str(path))


def _read_parquet(path: Path) -> GeoDataFrame:
    import geopandas

    with _reading(path, "a GeoParquet file of outlines"):
        return geopandas.read_parquet(path)


def _read_features(path: Path, library_key: str | None) -> GeoDataFrame:
    """Read outlines and the columns that matter; of QuPath also a plain list of features."""
    import geopandas

    columns = [*_NAMES, _KIND, "radius", *([] if library_key is None else [library_key])]
    kind = "GeoJSON, a FeatureCollection or a list of Features" if path.suffix.lower() in _GEOJSON else "outlines"
    with _reading(path, kind), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shapes = geopandas.read_file(_collection(path), engine="pyogrio", columns=columns, fid_as_index=True)
    for warning in caught:
        if _REPEATED in str(warning.message):  # GDAL has replaced the second
            msg = f"Expected unique ids of cells in {path}, found: {warning.message}. Number them, or omit all."
            raise ValueError(msg)
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return shapes


def _collection(path: Path) -> Path | bytes:
    """Return a file that GDAL reads; it knows no lists of features (GDAL 3.12)."""
    if path.suffix.lower() not in _GEOJSON:
        return path
    with path.open("rb") as file:
        if not file.read(100).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return path
    return b'{"type":"FeatureCollection","features":' + path.read_bytes().lstrip(b"\xef\xbb\xbf") + b"}"


def _only_cells(shapes: GeoDataFrame, path: Path) -> GeoDataFrame:
    """Keep the cells of QuPath's objects: annotations, tiles and the like hold cells, and are none."""
    kinds = shapes.get(_KIND)
    if "id" in shapes and len(shapes) and shapes["id"].astype(str).str.fullmatch(_OLD_KIND).all():
        kinds = shapes["id"].str.extract(_OLD_KIND, expand=False).str.lower() if kinds is None else kinds
        shapes = shapes.drop(columns="id")
    if kinds is None or kinds.isna().all():
        return shapes
    kept = next((kind for kind in _KINDS if (kinds == kind).any()), None)
    if kept is None:
        found = ", ".join(f"{n} of type {kind!r}" for kind, n in kinds.value_counts(dropna=False).items())
        msg = (
            f"Expected objects of the types {_KINDS} in {path}, found {found}. Export cells or detections, or read the "
            "file with geopandas and pass the objects that are cells."
        )
        raise ValueError(msg)
    others = kinds[kinds != kept].value_counts(dropna=False)
    if len(others):
        found = ", ".join(f"{n} of type {kind!r}" for kind, n in others.items())
        _warn(f"{others.sum()} of {len(shapes)} objects in {path} are no cells and are ignored: {found}.")
    return shapes[kinds == kept]


def _named(shapes: GeoDataFrame, path: Path) -> GeoDataFrame:
    """Name the outlines by the ids of their features, and drop what is not needed."""
    column = next((name for name in _NAMES if name in shapes), None)
    if column is None:
        return shapes
    names = shapes[column]
    missing = names.isna() | (names.astype(str) == "")
    if missing.any():
        msg = (
            f"Expected a {column!r} for every cell in {path}, found {missing.sum()} of {len(names)} without. Number "
            "them, or omit all."
        )
        raise ValueError(msg)
    return shapes.set_axis(pd.Index(names.astype(str), name=None)).drop(columns=column)


def _only_polygons(shapes: GeoDataFrame, path: Path) -> GeoDataFrame:
    """Keep features with an area."""
    kinds = shapes.geometry.geom_type.fillna("without geometry")
    has_area = kinds.isin(["Polygon", "MultiPolygon", "GeometryCollection"]) & ~shapes.geometry.is_empty
    if has_area.all() and len(shapes):
        return shapes
    found = ", ".join(f"{n} {kind}" for kind, n in kinds[~has_area].value_counts().items()) or "no feature"
    if not has_area.any():
        msg = f"Expected polygons of cells in {path}, found {found}. Export the outlines of the cells."
        raise ValueError(msg)
    _warn(f"{(~has_area).sum()} of {len(shapes)} features in {path} have no polygon and are ignored: {found}.")
    return shapes[has_area]


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=8)
