"""Cells as subspots: the assignment of cells to spots."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy.spatial import cKDTree

from soscope_scverse import _hints as hints
from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._cell_shapes.reading import read_cells
from soscope_scverse._read import Spots
from soscope_scverse.pp._capture import CaptureArea, CaptureShape, capture_areas
from soscope_scverse.pp._cell_extents import compared_extents, lie_apart
from soscope_scverse.pp._graphs import nearest_distance
from soscope_scverse.pp._lattice import Lattice, in_lattice_cell, lattice_or_none

_SLACK = 1.05  # spots lie off their lattice by some per cent: the cells between them still belong to the nearest


class Partition(NamedTuple):
    """Spots partitioned into subspots."""

    positions: np.ndarray
    """n_spots x n_subspots x 2, NaN = padding."""
    exposure: np.ndarray
    """n_spots x n_subspots shares of what the spot captured, 0 = padding or in a gap."""
    measured: np.ndarray
    """n_spots x n_subspots shares of the subspots that were captured."""
    info: dict[str, Any]
    """``uns["subspots"]``."""
    names: np.ndarray | None = None
    """n_spots x n_subspots names of the cells, "" where there is none."""
    size: np.ndarray | None = None
    """n_spots numbers (or areas) of measured cells relative to the mean spot."""
    area: np.ndarray | None = None
    """n_spots x n_subspots areas relative to what the spot captured; None if cells count alike or all are measured."""


def partition_into_cells(
    spots: Spots,
    cells: Any,
    *,
    exposure: Literal["equal", "area"],
    spot_diameter: float | None,
    capture: float | Literal["auto"] | None,
    capture_shape: CaptureShape,
) -> Partition:
    """Assign every cell to the spot that contains it; arguments as in :func:`~soscope_scverse.pp.subspots`.

    A spot that captured no cell has a subspot at its position without a name, which counts as one cell.
    """
    cells = read_cells(cells, spots.library_key, spots.rows)
    table = cell_table(cells, spots.library_key)
    lattices = {section: lattice_or_none(*spots.lattice_of(rows)) for section, rows in spots.rows.items()}
    holder, pitch = _holders(spots, table, lattices, spot_diameter)
    inside = np.flatnonzero(holder >= 0)
    if not len(inside):
        msg = (
            f"Expected cells inside of the spots, found none of {len(table)} cells in any of {spots.n} spots. "
            f"{compared_extents(spots, table[['x', 'y']].to_numpy())} Cells need the coordinates (and the sections) of "
            f"`adata.obsm['{keys.SPATIAL}']`, label masks the pixels of the full-resolution image."
        )
        raise ValueError(msg)
    areas = capture_areas(spots, lattices, capture, capture_shape)
    # sorted by spot and position, so the order of the table has no influence
    order = np.lexsort((table.index[inside], table["x"].iloc[inside], table["y"].iloc[inside], holder[inside]))
    row = inside[order]
    assigned = _Assigned(
        holder[row], _amounts(table, exposure)[row], _captured(spots, table, outlines(cells), holder, areas)[row]
    )
    _warn_unassigned(spots, table, assigned, holder < 0, pitch)
    partition = assigned.partition(spots, table.iloc[row], by_area=exposure == "area")
    n_cells = np.bincount(assigned.spot, minlength=spots.n)
    partition.info.update(
        {
            "geometry": "cells",
            "n_subspots": partition.positions.shape[1],
            "pitch": pitch,
            "subspot_diameter": pitch / np.sqrt(n_cells[n_cells > 0].mean()),
            "exposure": exposure,
            "cells_outside": table[holder < 0],
        }
    )
    first = next((area for area in areas.values() if area is not None), None)
    if first is not None:
        partition.info.update({"capture": first.diameter, "capture_shape": first.shape})
    return partition


class _Assigned(NamedTuple):
    """Cells that are assigned to spots, sorted by spot."""

    spot: np.ndarray
    """n_cells rows of the spots."""
    amount: np.ndarray
    """n_cells numbers (1) or areas."""
    captured: np.ndarray
    """n_cells shares that lie in the capture area of the spot."""

    def captured_nothing(self, n_spots: int) -> np.ndarray:
        """Which spots captured no cell."""
        return np.bincount(self.spot, self.captured, minlength=n_spots) == 0

    def partition(self, spots: Spots, table: pd.DataFrame, *, by_area: bool) -> Partition:
        """Partition of the spots; `table` has the positions of these cells."""
        n_cells, empty = np.bincount(self.spot, minlength=spots.n), self.captured_nothing(spots.n)
        subspot = np.arange(len(self.spot)) - np.repeat(n_cells.cumsum() - n_cells, n_cells)
        shape = spots.n, int((n_cells + empty).max())
        positions, names = np.full((*shape, 2), np.nan), np.full(shape, "", dtype=object)
        amount, measured = np.zeros(shape), np.ones(shape)
        positions[self.spot, subspot] = table[["x", "y"]].to_numpy()
        names[self.spot, subspot] = table.index.to_numpy()
        amount[self.spot, subspot], measured[self.spot, subspot] = self.amount, self.captured
        rest = np.flatnonzero(empty), n_cells[empty]
        positions[rest], amount[rest] = spots.positions[empty], self.amount.mean()
        captured = amount * measured
        total = captured.sum(axis=1)
        area = amount / total[:, None] if by_area and (self.captured < 1).any() else None
        return Partition(
            positions, captured / total[:, None], measured, {}, names.astype(str), total / total.mean(), area
        )


def cell_table(cells: AnnData | pd.DataFrame, library_key: str | None) -> pd.DataFrame:
    """Positions of cells by their names: ``x``, ``y``, ``area`` if known, and the library column.

    Raises
    ------
    ValueError
        If names repeat, or columns or positions are missing.
    """
    if isinstance(cells, AnnData):
        columns, xy = cells.obs, read.positions(cells)
    elif hasattr(cells, "geom_type"):  # a GeoDataFrame, without importing geopandas
        columns, xy = _of_shapes(cells)
    else:
        _has_columns(cells, ["x", "y"], hints.columns_of_positions(list(cells)))
        columns, xy = cells, read.numbers("positions of cells", cells[["x", "y"]])
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
        _has_columns(columns, [library_key], " Masks and outlines can also be passed as a dict by section.")
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


def _has_columns(table: pd.DataFrame, names: list[str], advice: str = "") -> None:
    missing = [name for name in names if name not in table]
    if missing:
        msg = f"Expected the columns {names} of the cells, found no {missing}; there are {list(table)}.{advice}"
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


def _holders(
    spots: Spots, table: pd.DataFrame, lattices: Mapping[str, Lattice | None], spot_diameter: float | None
) -> tuple[np.ndarray, float]:
    """Row of the spot that contains each cell, -1 for none, and the centre-to-centre distance of the spots."""
    positions, key = table[["x", "y"]].to_numpy(), spots.library_key
    of_cells = np.full(len(table), spots.sections[0]) if key is None else table[key].to_numpy()
    holder, pitches = np.full(len(table), -1), []
    for section, rows in spots.rows.items():
        cells = np.flatnonzero(of_cells == section)
        xy, lattice = spots.positions[rows], lattices[section]
        pitches.append(nearest_distance(xy) if lattice is None else lattice.pitch)
        distance, nearest = cKDTree(xy).query(positions[cells])
        if spot_diameter is not None:
            inside = distance <= spot_diameter / 2
        elif lattice is not None:
            inside = in_lattice_cell(lattice.basis, positions[cells] - xy[nearest], slack=_SLACK)
        else:
            inside = distance <= pitches[-1]
        holder[cells[inside]] = rows[nearest[inside]]
    return holder, float(np.median(pitches))


def outlines(cells: Any) -> np.ndarray | None:
    """Polygons of cells, n_cells; None if only their positions are known."""
    if not hasattr(cells, "geom_type"):
        return None
    shapes = cells.geometry.to_numpy()
    if "radius" in cells:
        shapes = shapely.buffer(shapes, cells["radius"].to_numpy(float))
    return shapes if (shapely.area(shapes) > 0).all() else None


def _captured(
    spots: Spots,
    table: pd.DataFrame,
    shapes: np.ndarray | None,
    holder: np.ndarray,
    areas: Mapping[str, CaptureArea | None],
) -> np.ndarray:
    """Share of every cell that lies in the capture area of its spot; 1 where spots tile the tissue."""
    captured = np.ones(len(table))
    for section, area in areas.items():
        cells = np.flatnonzero((holder >= 0) & np.isin(holder, spots.rows[section]))
        if area is None or not len(cells):
            continue
        centre = spots.positions[holder[cells]]
        if shapes is None:
            captured[cells] = area.contains(table[["x", "y"]].to_numpy()[cells] - centre)
            continue
        corners, cell = shapely.get_coordinates(shapes[cells], return_index=True)
        relative = shapely.set_coordinates(shapes[cells], corners - centre[cell])
        captured[cells] = np.clip(area.overlap(relative) / shapely.area(relative), 0, 1)
    return captured


def _warn_unassigned(spots: Spots, table: pd.DataFrame, assigned: _Assigned, outside: np.ndarray, pitch: float) -> None:
    adata, found = spots.adata, []
    empty = np.bincount(assigned.spot, minlength=spots.n) == 0
    in_gap = assigned.captured_nothing(spots.n) & ~empty
    if empty.any():
        found.append(
            f"{empty.sum()} of {adata.n_obs} spots hold no cell (first: {adata.obs_names[empty][0]!r}); they are used "
            "in training, but have no rows in the result"
        )
    if in_gap.any():
        found.append(
            f"{in_gap.sum()} of {adata.n_obs} spots captured no cell (first: {adata.obs_names[in_gap][0]!r}); the "
            "cells in their gaps are predicted"
        )
    if outside.any():
        found.append(
            f"{outside.sum()} of {len(table)} cells lie in no spot (first: {table.index[outside][0]!r}); they are in "
            f"`adata.uns['{keys.SUBSPOTS}']['cells_outside']`"
        )
    if found:
        xy = table[["x", "y"]].to_numpy()
        apart = f" {compared_extents(spots, xy)}" if lie_apart(spots, xy, pitch) else ""
        warnings.warn("; ".join(found) + f".{apart}", UserWarning, stacklevel=6)
