"""Partition of spots into subspots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.slots import writable
from soscope_scverse._read import Spots, read_sections
from soscope_scverse._validators import POSITIVE, Choice, Rules, check_arguments
from soscope_scverse.pp._capture import CaptureArea, CaptureShape, capture_areas, warn_unlikely
from soscope_scverse.pp._cells import Partition, partition_into_cells
from soscope_scverse.pp._graphs import nearest_distance
from soscope_scverse.pp._lattice import Lattice, LatticeKind, cell_corners
from soscope_scverse.pp._several import section_lattices

if TYPE_CHECKING:
    from spatialdata import SpatialData

_DEFAULT_N_SUBSPOTS = {"square": 9, "hex": 7}
_ROUNDING = 1e-9  # shares this near to 0 or 1 are equal to them
_RULES: Rules = {
    "geometry": Choice(("auto", "square", "hex")),
    "exposure": Choice(("equal", "area")),
    "spot_diameter": POSITIVE.or_(None),
    "capture": POSITIVE.or_("auto", None),
    "capture_shape": Choice(("circle", "square")),
}


@accepts_containers(mudata=True)
def subspots(
    adata: AnnData | MuData | SpatialData,
    n_subspots: int | Literal["auto"] = "auto",
    *,
    geometry: Literal["auto", "square", "hex"] = "auto",
    positions: np.ndarray | None = None,
    cells: Any = None,
    exposure: Literal["equal", "area"] = "equal",
    spot_diameter: float | None = None,
    capture: float | Literal["auto"] | None = "auto",
    capture_shape: CaptureShape = "circle",
    library_key: str | None = None,
    copy: bool = False,
    table_key: str = "table",
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> AnnData | MuData | None:
    """Partition every spot into subspots: equal parts that tile the section without overlap, or the cells in it.

    The lattice is recognised from ``obs["array_row"]`` and ``obs["array_col"]`` or, without them, from the coordinates
    alone; it may be rotated, stretched or a quincunx. On a square lattice the pitch cell is cut into s x s equal
    cells; on a hexagonal one it is replaced by a flower of hexagons, a centre and its rings, whose copies on all spots
    tile the plane (fine lattice of index 7, 19, 37, ...).

    With `cells`, every cell is a subspot of the nearest spot if it lies in the lattice cell of that spot (square or
    hexagon, enlarged by 5 %, since spots may lie off the lattice). Without a lattice it may be as far away as the
    centre-to-centre distance (the median distance to the nearest spot). Spots without cells are kept with a single
    subspot that has no row in the result.

    Spots of many platforms measure a part of their lattice cell only: those of Visium are circles of 55 um at a pitch
    of 100 um, 27 % of the tissue. With a capture area, a subspot is exposed with its overlap with it, and what lies in
    the gap between the spots is predicted.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``.
    n_subspots
        4, 9, 16, 25, 36, ... on a square lattice (default 9); 7, 19, 37, ... on a hexagonal one (default 7).
    geometry
        The kind of lattice; ``"auto"`` recognises it.
    positions
        Any other partition: n_spots x n_subspots x 2 positions (x, y) in pixels, NaN pads spots that have fewer.
    cells
        Cells in the coordinates of ``adata.obsm["spatial"]``: an AnnData (``obsm["spatial"]``, ``obs["area"]``), a
        DataFrame (columns ``x``, ``y``, ``area``), or shapes of SpatialData (a GeoDataFrame of polygons, or of points
        with a ``radius``), represented by centroids and areas; a label mask, a 2-D array of integers (numpy, dask,
        xarray) with 0 as background, whose pixel (row, column) covers [column, column + 1) x [row, row + 1) of the
        full-resolution image, or labels of SpatialData, placed by their transformation to "global" if there is one; or
        the path of a file: positions (``.csv``, names in the first column), label mask (``.npy``, TIFF) or outlines
        (GeoJSON of QuPath or Space Ranger, ``.parquet``, ``.gpkg``, ``.shp``). Names are those of the table, numbers of
        labels, or ids of features (``cell_id``, ``id``, else their number). Areas are optional. With `library_key` they
        have that column as well, or are a dict by section; names that occur in several sections then end in the
        section.
    exposure
        Share of its spot that a cell covers: ``"equal"``, or proportional to its ``"area"``.
    spot_diameter
        Assign a cell to the nearest spot if it lies in the circle of this diameter, in pixels, instead of the lattice
        cell.
    capture
        Diameter of what a spot captures, in the unit of the positions; None: the spots tile the tissue. ``"auto"``: 55
        um, at the fitted pitch of 100 um, on the hexagonal lattice of Visium (``spot_diameter_fullres`` is not that
        diameter), and None for spots as wide as their pitch, without a lattice, for other arrays, with a line in the
        log, and for `positions`. Cells, by centroid or by the part of their shape, are measured where they are inside.
    capture_shape
        ``"circle"``, or ``"square"`` along the lattice, as of the crossing channels of DBiT-seq.
    library_key
        Column of ``obs`` with the sections; each has its own lattice.
    copy
        Return a copy instead of writing to `adata`.
    table_key, shapes_key, coordinate_system
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`. Slots are written to the table, positions in
        the coordinates of the shapes and ``obsm["spatial"]`` with them; `cells` may be the name of shapes or labels.

    Returns
    -------
    AnnData, MuData or None
        None, or with `copy` the changed copy. Written are the slots below.
    ``obsm["subspots"]``
        n_spots x n_subspots x 2 positions (x, y) in pixels.
    ``obsm["subspot_exposure"]``
        n_spots x n_subspots shares of what the spot captured, by overlap with its capture area; equal over its subspots
        where spots tile the tissue, unless by area; 0 for padding and in gaps.
    ``obsm["subspot_measured"]``
        n_spots x n_subspots shares of the subspots that were captured: 1 where spots tile the tissue, 0 in gaps.
    ``uns["subspots"]``
        ``geometry``, ``n_subspots`` (with cells the largest number in a spot), ``pitch`` of the spots and
        ``subspot_diameter`` in pixels, ``basis`` of the lattice and, with array indices, ``array_steps``; with a
        capture area, ``capture`` (its diameter in the first section) and ``capture_shape``; with cells, ``exposure``
        and ``cells_outside``, a table of the cells outside of all spots.
    ``obsm["subspot_names"]``, ``obs["relative_cell_number"]``
        With cells: n_spots x n_subspots names, ``""`` where there is none, and the number or area of the cells of a
        spot relative to the mean spot, where a spot without cells counts as one cell. Expected counts of a spot are
        proportional to it.
    ``obsm["subspot_area"]``
        With cells in gaps and ``exposure="area"``: n_spots x n_subspots areas relative to what the spot captured.

    Raises
    ------
    ValueError
        If there are no spots, coordinates are missing, no lattice is found, `n_subspots` does not fit it, or `cells`
        cannot be read or none lies in a spot.
    TypeError
        If `cells` is neither a table, a label mask nor a path.
    FileNotFoundError
        If `cells` is a path without a file.
    """
    check_arguments(locals(), _RULES)
    partition = partition_spots(
        read_sections(adata, library_key),
        n_subspots,
        geometry=geometry,
        positions=positions,
        cells=cells,
        exposure=exposure,
        spot_diameter=spot_diameter,
        capture=capture,
        capture_shape=capture_shape,
    )
    adata = writable(adata, copy=copy)
    write_partition(adata, partition)
    return adata if copy else None


def partition_spots(
    spots: Spots,
    n_subspots: int | Literal["auto"] = "auto",
    *,
    geometry: Literal["auto", "square", "hex"] = "auto",
    positions: np.ndarray | None = None,
    cells: Any = None,
    exposure: Literal["equal", "area"] = "equal",
    spot_diameter: float | None = None,
    capture: float | Literal["auto"] | None = "auto",
    capture_shape: CaptureShape = "circle",
) -> Partition:
    """Subspots of all spots; arguments as in :func:`subspots`."""
    _check_one_partition(n_subspots, positions, cells, exposure, spot_diameter)
    if positions is not None and capture not in ("auto", None):
        msg = (
            f"Expected no `capture` with `positions`, found {capture}: the shapes of these subspots are unknown. Write "
            f"`adata.obsm['{keys.EXPOSURE}']` and `adata.obsm['{keys.MEASURED}']` yourself."
        )
        raise ValueError(msg)
    if not spots.n:
        msg = "Expected at least one spot to divide, found none."
        raise ValueError(msg)
    if cells is not None:
        return partition_into_cells(
            spots, cells, exposure=exposure, spot_diameter=spot_diameter, capture=capture, capture_shape=capture_shape
        )
    if positions is not None:
        info = {"geometry": "positions", "pitch": _median_distance(spots)}
        return _equal_parts(_checked_positions(positions, spots.n), info)
    return partition_lattice(spots, n_subspots, geometry, capture, capture_shape)


def write_partition(adata: AnnData, partition: Partition) -> None:
    """Write the slots of a partition, and delete those of an earlier one."""
    adata.obsm[keys.SUBSPOTS] = partition.positions
    adata.obsm[keys.EXPOSURE] = partition.exposure
    adata.obsm[keys.MEASURED] = partition.measured
    adata.uns[keys.SUBSPOTS] = partition.info
    for key in (keys.SUBSPOT_NAMES, keys.AREA):
        adata.obsm.pop(key, None)
    if partition.area is not None:
        adata.obsm[keys.AREA] = partition.area
    if keys.RELATIVE_CELL_NUMBER in adata.obs:
        del adata.obs[keys.RELATIVE_CELL_NUMBER]
    if partition.names is not None:
        adata.obsm[keys.SUBSPOT_NAMES] = partition.names
        adata.obs[keys.RELATIVE_CELL_NUMBER] = partition.size


def subspot_offsets(lattice: Lattice, n_subspots: int) -> np.ndarray:
    """Positions of the subspots relative to their spot, n_subspots x 2 in pixels; they sum to 0."""
    index, basis = unit_subspots(lattice.kind, lattice.basis, n_subspots)
    return index @ basis


def unit_subspots(kind: LatticeKind, basis: np.ndarray, n_subspots: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the subspots of a spot on the fine lattice, n_subspots x 2, and its vectors, rows in pixels."""
    return _fine_index(kind, n_subspots), _fine_basis(kind, basis, n_subspots)


def fine_array_index(array: np.ndarray, info: dict) -> np.ndarray:
    """Indices of the subspots on the fine lattice.

    Parameters
    ----------
    array
        n_spots x 2 integer (``array_col``, ``array_row``).
    info
        ``uns["subspots"]`` with ``array_steps``.

    Returns
    -------
    n_spots x n_subspots x 2 integer (``array_col``, ``array_row``); doubled coordinates on a hexagonal lattice.
    """
    kind, n_subspots = info["geometry"], int(info["n_subspots"])
    coarse = array @ np.linalg.inv(np.asarray(info["array_steps"], dtype=float))
    coarse = np.floor(coarse - coarse.min(axis=0) + 1e-6)
    if kind == "square":
        side = math.isqrt(n_subspots)
        fine = coarse[:, None] * side + _fine_index(kind, n_subspots) + (side - 1) / 2
        return np.rint(fine).astype(int)
    # two indices along lattice vectors at 60 degrees -> (2 u + v, v): the convention of Visium
    axial = coarse[:, None] @ _flower_matrix(n_subspots) + _fine_index(kind, n_subspots)
    return np.rint(np.stack([2 * axial[..., 0] + axial[..., 1], axial[..., 1]], axis=-1)).astype(int)


def partition_lattice(
    spots: Spots,
    n_subspots: int | Literal["auto"],
    geometry: Literal["auto", "square", "hex"],
    capture: float | Literal["auto"] | None,
    capture_shape: CaptureShape,
) -> Partition:
    """Subspots that tile the lattices of all sections; arguments as in :func:`subspots`."""
    lattices = section_lattices(spots, geometry)
    kinds = {lattice.kind for lattice in lattices.values()}
    if len(kinds) > 1:
        msg = f"Expected one kind of lattice, found {sorted(kinds)} in different sections. Divide them one by one."
        raise ValueError(msg)
    n = resolve_n_subspots(n_subspots, kinds.pop())
    offsets, measured = np.empty((spots.n, n, 2)), np.ones((spots.n, n))
    areas = capture_areas(spots, lattices, capture, capture_shape)
    for name, lattice in lattices.items():
        offsets[spots.rows[name]] = subspot_offsets(lattice, n)
        measured[spots.rows[name]] = measured_shares(lattice, n, areas[name])
    partition = _equal_parts(spots.positions[:, None] + offsets, _lattice_info(lattices))
    for name, area in areas.items():
        if area is not None:
            warn_unlikely(float(measured[spots.rows[name][0]].mean()), area, lattices[name].pitch)
    if (measured == 1).all():
        return partition
    first = next(area for area in areas.values() if area is not None)
    partition.info.update({"capture": first.diameter, "capture_shape": first.shape})
    return partition._replace(exposure=measured / measured.sum(axis=1, keepdims=True), measured=measured)


def _lattice_info(lattices: Mapping[str, Lattice]) -> dict[str, Any]:
    """What ``uns["subspots"]`` records of the lattices of all sections."""
    first = next(iter(lattices.values()))
    pitch = float(np.median([lattice.pitch for lattice in lattices.values()]))
    info: dict[str, Any] = {"geometry": first.kind, "pitch": pitch, "basis": first.basis}
    steps = [lattice.array_steps for lattice in lattices.values()]
    if all(s is not None and (s == steps[0]).all() for s in steps):
        info["array_steps"] = steps[0]
    return info


def measured_shares(lattice: Lattice, n_subspots: int, area: CaptureArea | None) -> np.ndarray:
    """Share of every subspot of a spot on a lattice that lies in the capture area, n_subspots; 1 without one."""
    if area is None:
        return np.ones(n_subspots)
    index, basis = unit_subspots(lattice.kind, lattice.basis, n_subspots)
    subspots = shapely.polygons((index @ basis)[:, None] + cell_corners(lattice.kind, basis))
    share = area.overlap(subspots) / shapely.area(subspots)
    share[share < _ROUNDING] = 0
    share[share > 1 - _ROUNDING] = 1
    return share


def _equal_parts(positions: np.ndarray, info: dict[str, Any]) -> Partition:
    """Subspots that share their spot equally; `info` has geometry and pitch."""
    n_subspots = positions.shape[1]
    valid = np.isfinite(positions[..., 0])
    info |= {"n_subspots": n_subspots, "subspot_diameter": info["pitch"] / math.sqrt(n_subspots)}
    return Partition(positions, valid / valid.sum(axis=1, keepdims=True), np.ones(valid.shape), info)


def _check_one_partition(
    n_subspots: int | str, positions: np.ndarray | None, cells: Any, exposure: str, spot_diameter: float | None
) -> None:
    """Raise if more than one partition is asked for, or an argument of cells is given without them."""
    given = {"n_subspots": n_subspots != "auto", "positions": positions is not None, "cells": cells is not None}
    named = [name for name, is_given in given.items() if is_given]
    if cells is not None and len(named) > 1:
        msg = f"Expected one of `n_subspots`, `positions` and `cells`, found {named}."
        raise ValueError(msg)
    if cells is None and (exposure != "equal" or spot_diameter is not None):
        msg = "Expected `cells` with `exposure` or `spot_diameter`, found none: equal parts need neither."
        raise ValueError(msg)


def resolve_n_subspots(n_subspots: int | str, kind: LatticeKind) -> int:
    """The number of subspots, checked against the lattice."""
    if n_subspots == "auto":
        return _DEFAULT_N_SUBSPOTS[kind]
    allowed = [s * s for s in range(2, 11)] if kind == "square" else [3 * r * (r + 1) + 1 for r in range(1, 7)]
    if n_subspots not in allowed:
        msg = (
            f"Expected `n_subspots` to be 'auto' or one of {allowed} on a {kind} lattice, found {n_subspots!r}. "
            "If the lattice is another one, name it with `geometry=`; any other partition can be given by `positions=`."
        )
        raise ValueError(msg)
    return int(n_subspots)


def _checked_positions(positions: np.ndarray, n_spots: int) -> np.ndarray:
    """Subspot positions of the user as float64, once they are valid."""
    positions = read.numbers("`positions`", positions).astype(float)
    if positions.ndim != 3 or positions.shape[0] != n_spots or positions.shape[2] != 2:
        msg = f"Expected `positions` to be n_spots x n_subspots x 2 with n_spots = {n_spots}, found {positions.shape}."
        raise ValueError(msg)
    if positions.shape[1] < 2:
        msg = "Expected at least 2 subspots a spot in `positions`, found 1: there is nothing to enhance."
        raise ValueError(msg)
    missing = np.isnan(positions)
    if np.isinf(positions).any() or (missing[..., 0] != missing[..., 1]).any():
        msg = "Expected every subspot in `positions` to have a finite x and y or two NaN (padding)."
        raise ValueError(msg)
    empty = missing[..., 0].all(axis=1)
    if empty.any():
        msg = f"Expected every spot to hold a subspot, found {empty.sum()} without (first: row {empty.argmax()})."
        raise ValueError(msg)
    return positions


def _median_distance(spots: Spots) -> float:
    return float(np.median([nearest_distance(spots.positions[rows]) for rows in spots.rows.values()]))


def _fine_index(kind: LatticeKind, n_subspots: int) -> np.ndarray:
    """Coefficients of the subspot offsets in the fine basis, n_subspots x 2, with sum 0."""
    if kind == "square":
        side = math.isqrt(n_subspots)
        v, u = np.mgrid[:side, :side] - (side - 1) / 2
        return np.column_stack([u.ravel(), v.ravel()])
    radius = _flower_radius(n_subspots)
    v, u = (grid.ravel() for grid in np.mgrid[-radius : radius + 1, -radius : radius + 1])
    inside = np.abs(u + v) <= radius
    return np.column_stack([u[inside], v[inside]]).astype(float)


def _fine_basis(kind: LatticeKind, basis: np.ndarray, n_subspots: int) -> np.ndarray:
    """Lattice vectors of the subspots, rows in pixels."""
    if kind == "square":
        return basis / math.isqrt(n_subspots)
    return np.linalg.solve(_flower_matrix(n_subspots), basis)


def _flower_radius(n_subspots: int) -> int:
    """Rings of a flower with 3 r (r + 1) + 1 hexagons."""
    return (math.isqrt(12 * n_subspots - 3) - 3) // 6


def _flower_matrix(n_subspots: int) -> np.ndarray:
    """Spot lattice vectors as integer combinations of the subspot lattice vectors (determinant n_subspots).

    A hexagonal lattice holds similar sublattices of index a^2 + a b + b^2; with (a, b) = (r + 1, r) that is the number
    of hexagons in a flower of r rings, and the flowers on the sublattice tile the plane.
    """
    b = _flower_radius(n_subspots)
    a = b + 1
    return np.array([[a, b], [-b, a + b]], dtype=float)
