"""Cells as subspots: the assignment of cells to spots."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._read import Spots
from soscope_scverse.pp._graphs import nearest_distance
from soscope_scverse.pp._lattice import Lattice, lattice_or_none

_SLACK = 1.05  # spots lie off their lattice by some per cent: the cells between them still belong to the nearest


class Partition(NamedTuple):
    """Spots partitioned into subspots."""

    positions: np.ndarray
    """n_spots x n_subspots x 2, NaN = padding."""
    exposure: np.ndarray
    """n_spots x n_subspots shares of the spot, 0 = padding."""
    info: dict[str, Any]
    """``uns["subspots"]``."""
    names: np.ndarray | None = None
    """n_spots x n_subspots names of the cells, "" where there is none."""
    size: np.ndarray | None = None
    """n_spots numbers (or areas) of cells relative to the mean spot."""


def partition_into_cells(
    spots: Spots, cells: Any, *, exposure: Literal["equal", "area"], spot_diameter: float | None
) -> Partition:
    """Assign every cell to the spot that contains it; arguments as in :func:`~soscope_scverse.pp.subspots`.

    A spot without cells is its own single subspot, without a name, and counts as one cell.
    """
    table = cell_table(cells, spots.library_key)
    amount = _amounts(table, exposure)
    holder, pitch = _holders(spots, table, spot_diameter)
    inside = np.flatnonzero(holder >= 0)
    if not len(inside):
        msg = (
            f"Expected cells inside of the spots, found none of {len(table)} cells in any of {spots.n} spots. "
            f"Cells need the coordinates (and the sections) of `adata.obsm['{keys.SPATIAL}']`."
        )
        raise ValueError(msg)
    # sorted by spot and position, so the order of the table has no influence
    order = np.lexsort((table.index[inside], table["x"].iloc[inside], table["y"].iloc[inside], holder[inside]))
    row = inside[order]
    spot = holder[row]
    n_cells = np.bincount(spot, minlength=spots.n)
    subspot = np.arange(len(row)) - np.repeat(n_cells.cumsum() - n_cells, n_cells)
    empty = n_cells == 0
    _warn_unassigned(spots.adata, table, empty, holder < 0)

    shape = spots.n, int(n_cells.max())
    positions, share, names = np.full((*shape, 2), np.nan), np.zeros(shape), np.full(shape, "", dtype=object)
    positions[spot, subspot] = table[["x", "y"]].to_numpy()[row]
    names[spot, subspot] = table.index.to_numpy()[row]
    share[spot, subspot] = amount[row]
    positions[empty, 0] = spots.positions[empty]
    share[empty, 0] = amount[row].mean()
    total = share.sum(axis=1)
    info = {
        "geometry": "cells",
        "n_subspots": shape[1],
        "pitch": pitch,
        "subspot_diameter": pitch / np.sqrt(n_cells[~empty].mean()),
        "exposure": exposure,
        "cells_outside": table[holder < 0],
    }
    return Partition(positions, share / total[:, None], info, names.astype(str), total / total.mean())


def cell_table(cells: Any, library_key: str | None) -> pd.DataFrame:
    """Positions of cells by their names: ``x``, ``y``, ``area`` if known, and the library column.

    Raises
    ------
    TypeError
        If `cells` is neither an AnnData nor a table.
    ValueError
        If names repeat, or columns or positions are missing.
    """
    if isinstance(cells, AnnData):
        columns, xy = cells.obs, read.positions(cells)
    elif hasattr(cells, "geom_type"):  # a GeoDataFrame, without importing geopandas
        columns, xy = _of_shapes(cells)
    elif isinstance(cells, pd.DataFrame):
        _has_columns(cells, ["x", "y"])
        columns, xy = cells, read.numbers("positions of cells", cells[["x", "y"]])
    else:
        msg = f"Expected `cells` to be an AnnData, a DataFrame or a GeoDataFrame, found {type(cells).__name__}."
        raise TypeError(msg)
    table = pd.DataFrame(xy, columns=["x", "y"], index=pd.Index(columns.index.astype(str), name=None))
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()]
        msg = f"Expected unique names of cells, found {len(repeated)} repeated (first: {repeated[0]!r})."
        raise ValueError(msg)
    unnamed = columns.index.isna() | (table.index == "")
    if unnamed.any():
        msg = f"Expected a name for every cell in the index of `cells`, found {unnamed.sum()} without. Number them."
        raise ValueError(msg)
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        msg = f"Expected finite positions of cells, found {bad.sum()} that are not (first: {table.index[bad][0]!r})."
        raise ValueError(msg)
    if "area" in columns:
        table["area"] = read.numbers("areas of cells", columns["area"])
    if library_key is not None:
        _has_columns(columns, [library_key])
        table[library_key] = columns[library_key].astype(str).to_numpy()
    return table


def _of_shapes(shapes: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns with the area, and centroids; points with a radius are circles, as in SpatialData."""
    columns, centre = pd.DataFrame(shapes.drop(columns=shapes.geometry.name)), shapes.geometry.centroid
    if "radius" in columns:
        radius = read.numbers("radii of cells", columns["radius"])
        columns["area"] = np.where(radius > 0, np.pi * radius**2, np.nan)  # which is refused where areas count
    elif (shapes.geometry.area > 0).any():
        columns["area"] = shapes.geometry.area
    return columns, np.column_stack([centre.x, centre.y])


def _has_columns(table: pd.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        msg = f"Expected the columns {names} of the cells, found no {missing}; there are {list(table)}."
        raise ValueError(msg)


def _amounts(table: pd.DataFrame, exposure: str) -> np.ndarray:
    """Number or area of each cell, before normalisation by the total of its spot."""
    if exposure == "equal":
        return np.ones(len(table))
    if "area" not in table:
        msg = "Expected the areas of the cells (column 'area', or polygons) for exposure='area', found none."
        raise ValueError(msg)
    bad = ~(np.isfinite(table["area"]) & (table["area"] > 0))
    if bad.any():
        msg = f"Expected areas of cells above 0, found {bad.sum()} that are not (first: {table.index[bad][0]!r})."
        raise ValueError(msg)
    return table["area"].to_numpy()


def _holders(spots: Spots, table: pd.DataFrame, spot_diameter: float | None) -> tuple[np.ndarray, float]:
    """Row of the spot that contains each cell, -1 for none, and the centre-to-centre distance of the spots."""
    positions, key = table[["x", "y"]].to_numpy(), spots.library_key
    of_cells = np.full(len(table), spots.sections[0]) if key is None else table[key].to_numpy()
    holder, pitches = np.full(len(table), -1), []
    for section, rows in spots.rows.items():
        cells = np.flatnonzero(of_cells == section)
        xy, array = spots.lattice_of(rows)
        lattice = lattice_or_none(xy, array)
        pitches.append(nearest_distance(xy) if lattice is None else lattice.pitch)
        distance, nearest = cKDTree(xy).query(positions[cells])
        if spot_diameter is not None:
            inside = distance <= spot_diameter / 2
        elif lattice is not None:
            inside = _in_lattice_cell(lattice, positions[cells] - xy[nearest])
        else:
            inside = distance <= pitches[-1]
        holder[cells[inside]] = rows[nearest[inside]]
    return holder, float(np.median(pitches))


def _in_lattice_cell(lattice: Lattice, offset: np.ndarray) -> np.ndarray:
    """Whether a point is nearer to its spot than to the other points of the lattice, spots or not."""
    a, b = lattice.basis
    steps = np.stack([a, b, a + b, a - b])
    return (np.abs(offset @ steps.T) <= _SLACK / 2 * (steps**2).sum(axis=1)).all(axis=1)


def _warn_unassigned(adata: AnnData, table: pd.DataFrame, empty: np.ndarray, outside: np.ndarray) -> None:
    found = []
    if empty.any():
        found.append(
            f"{empty.sum()} of {adata.n_obs} spots hold no cell (first: {adata.obs_names[empty][0]!r}); they are used "
            "in training, but have no rows in the result"
        )
    if outside.any():
        found.append(
            f"{outside.sum()} of {len(table)} cells lie in no spot (first: {table.index[outside][0]!r}); they are in "
            f"`adata.uns['{keys.SUBSPOTS}']['cells_outside']`"
        )
    if found:
        warnings.warn("; ".join(found) + ".", UserWarning, stacklevel=6)
