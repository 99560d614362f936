"""Cells of every kind, read as an AnnData, a table of positions or outlines."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy.sparse import issparse

from soscope_scverse._cell_shapes.files import read_cell_file
from soscope_scverse._cell_shapes.masks import mask_outlines

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_XY = ("x", "y")
_WITH_AREA = ("Polygon", "MultiPolygon", "GeometryCollection")


def read_cells(
    cells: Any, library_key: str | None = None, sections: Collection[str] = ()
) -> AnnData | pd.DataFrame | GeoDataFrame:
    """Read cells of any kind in the coordinates of the spots.

    Parameters
    ----------
    cells
        See :func:`~soscope_scverse.pp.subspots`.
    library_key
        Column with the sections.
    sections
        Their names, for a dict of cells by section.

    Returns
    -------
    AnnData, pandas.DataFrame or geopandas.GeoDataFrame
        An AnnData and a table as they are; outlines of all others, which are valid and have no reference system.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If they are of no such kind, or hold no cells.
    """
    if isinstance(cells, AnnData):
        return cells
    if isinstance(cells, str | PathLike):
        cells = read_cell_file(cells, library_key)
    if isinstance(cells, pd.DataFrame | pd.Series) and hasattr(cells, "geom_type"):  # without importing geopandas
        return _repaired(cells if isinstance(cells, pd.DataFrame) else cells.to_frame("geometry"))
    if isinstance(cells, pd.DataFrame):
        return cells
    if is_labels(cells):
        return labels_outlines(cells, placed=True)
    if isinstance(cells, Mapping) and library_key is not None:
        return by_section({str(name): read_cells(part) for name, part in cells.items()}, library_key, sections)
    if _is_array(cells):
        return mask_outlines(cells)
    several = " With `library_key`, pass a dict of them by section." if isinstance(cells, Mapping) else ""
    msg = (
        "Expected `cells` to be an AnnData, a DataFrame, a GeoDataFrame, a label mask (array or labels of SpatialData) "
        f"or the path of a file, found {type(cells).__name__}.{several}"
    )
    raise TypeError(msg)


def is_labels(cells: Any) -> bool:
    """Whether these are labels of SpatialData or another xarray object, without importing them."""
    return "scale0" in getattr(cells, "children", ()) or (hasattr(cells, "dims") and hasattr(cells, "data"))


def full_resolution(labels: Any) -> Any:
    """The DataArray of labels, of several resolutions the finest."""
    return next(iter(labels["scale0"].data_vars.values())) if "scale0" in getattr(labels, "children", ()) else labels


def labels_outlines(labels: Any, *, placed: bool) -> GeoDataFrame:
    """Outlines of the cells of labels of SpatialData, from their full resolution.

    Parameters
    ----------
    labels
        A DataArray, or a DataTree of several resolutions.
    placed
        Return them in the coordinate system "global", if the labels are in it, instead of in pixels.
    """
    labels = full_resolution(labels)
    transformation = labels.attrs.get("transform", {}).get("global") if placed else None
    others = [dim for dim in labels.dims if dim not in _XY]
    if len(labels.dims) - len(others) == 2:
        labels = labels.squeeze([dim for dim in others if labels.sizes[dim] == 1]).transpose(..., "y", "x")
    outlines = mask_outlines(labels.data)
    return outlines if transformation is None else moved(outlines, transformation.to_affine_matrix(_XY, _XY))


def moved(outlines: GeoDataFrame, matrix: np.ndarray) -> GeoDataFrame:
    """Outlines, or points with a radius, after an affine transformation, 3 x 3."""
    result = outlines.set_geometry(outlines.geometry.affine_transform([*matrix[:2, :2].ravel(), *matrix[:2, 2]]))
    if "radius" in result:
        result["radius"] *= np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    return result


def by_section(parts: Mapping[str, Any], library_key: str, sections: Collection[str]) -> pd.DataFrame | GeoDataFrame:
    """Cells of several sections as one table; names that repeat get the section at their end.

    Parameters
    ----------
    parts
        Tables, or outlines, by section.
    library_key
        Column for the sections.
    sections
        Their names.
    """
    if set(parts) != set(sections):
        msg = f"Expected `cells` by the sections {sorted(sections)} of {library_key!r}, found {sorted(parts)}."
        raise ValueError(msg)
    kinds = {"outlines" if hasattr(part, "geom_type") else type(part).__name__ for part in parts.values()}
    if not kinds <= {"outlines"} and not kinds <= {"DataFrame"}:
        msg = f"Expected outlines or a DataFrame of `cells` for all sections, found {sorted(kinds)}. Convert them."
        raise TypeError(msg)
    joined = pd.concat([part.assign(**{library_key: name}) for name, part in parts.items()])
    names = joined.index.astype(str)
    if not names.is_unique and all(part.index.is_unique for part in parts.values()):
        joined.index = names + "-" + joined[library_key].astype(str)
    return joined


def _is_array(cells: Any) -> bool:
    if issparse(cells) or not hasattr(cells, "shape") or not hasattr(cells, "__getitem__"):
        return False
    try:
        np.dtype(getattr(cells, "dtype", None))
    except TypeError:
        return False
    return getattr(cells, "dtype", None) is not None


def _repaired(shapes: GeoDataFrame) -> GeoDataFrame:
    """Valid outlines without a reference system, in whose units lengths and areas would be taken.

    Points are returned as they are; a geometry that is missing or empty has no finite position, which is found later.
    """
    shapes = shapes.set_crs(None, allow_override=True) if shapes.crs is not None else shapes
    geometry, kinds = shapes.geometry.to_numpy(), shapes.geometry.geom_type
    there = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    if not (there & (kinds != "Point").to_numpy()).any():
        return shapes
    others = there & ~kinds.isin(_WITH_AREA).to_numpy()
    if others.any():
        found = ", ".join(f"{n} {kind}" for kind, n in kinds[others].value_counts().items())
        msg = f"Expected polygons, or points alone, as `cells`, found {others.sum()} of {len(others)} others ({found})."
        raise ValueError(msg)
    if shapely.has_z(geometry).any():
        geometry = shapely.force_2d(geometry)
        shapes = shapes.set_geometry(geometry)
    broken = there & ~(shapely.is_valid(geometry) & (kinds != "GeometryCollection").to_numpy())
    if not broken.any():
        return shapes
    geometry = geometry.copy()  # of the user
    geometry[broken] = [_polygonal(part) for part in shapely.make_valid(geometry[broken])]
    _warn_of(shapes, broken, "have outlines that are not valid; they are repaired with `shapely.make_valid`")
    flat = broken & ~(shapely.area(geometry) > 0)
    if flat.all():
        msg = f"Expected cells with an area, found none among {len(flat)} polygons. Export their outlines again."
        raise ValueError(msg)
    if flat.any():
        _warn_of(shapes, flat, "have no area and are ignored")
    return shapes.set_geometry(geometry)[~flat]


def _warn_of(shapes: GeoDataFrame, which: np.ndarray, what: str) -> None:
    msg = f"{which.sum()} of {len(which)} cells (first: {str(shapes.index[which][0])!r}) {what}."
    warnings.warn(msg, UserWarning, stacklevel=8)


def _polygonal(geometry: shapely.Geometry) -> shapely.Geometry:
    """The part of a geometry that has an area."""
    parts = shapely.get_parts(geometry)
    inner = shapely.get_parts(parts)  # of collections in collections
    return shapely.union_all(inner[shapely.area(inner) > 0])
