"""Tiles that close: cells of a lattice whose spots lie off it leave slits and overlap."""

from __future__ import annotations

import numpy as np
import shapely
from scipy.spatial import cKDTree

from soscope_scverse.pp._lattice import Lattice

_HAIRLINE = 0.01  # slits below 1 % of the pitch are closed by slightly larger tiles
_WIDEST = 0.4  # of the pitch: wider gaps are no slits, but places without a spot


def slit_width(centres: np.ndarray, lattice: Lattice) -> float:
    """Width of the widest slit between the cells of adjacent spots, at most 40 % of the pitch.

    Parameters
    ----------
    centres
        n_spots x 2 positions of the spots.
    lattice
        The lattice that they lie near.
    """
    k = min(7, len(centres))
    neighbour = cKDTree(centres).query(centres, k=k)[1].reshape(len(centres), k)[:, 1:]
    step = centres[neighbour] - centres[:, None]
    site = np.rint(step @ np.linalg.inv(lattice.basis))
    off = np.linalg.norm(step - site @ lattice.basis, axis=-1)[np.abs(site).max(axis=-1) == 1]
    return min(float(off.max(initial=0)), _WIDEST * lattice.pitch)


def closed_tiles(positions: np.ndarray, corners: np.ndarray, slit: float, pitch: float) -> list[np.ndarray] | None:
    """Outlines of tiles without slits between them, relative to their positions; None where one outline fits all.

    A tile is what is nearest to its position in the union of all tiles and of the slits between them.

    Parameters
    ----------
    positions
        n_tiles x 2.
    corners
        Outline of a tile on the lattice, n_corners x 2, relative to its position.
    slit
        Width of the slits, see :func:`slit_width`.
    pitch
        Of the spots.
    """
    if slit <= _HAIRLINE * pitch or len(positions) < 2:
        return None
    tiles = shapely.polygons(positions[:, None] + corners)
    radius = 0.51 * slit  # half of the slit from both sides, and rounding
    mitre = {"join_style": "mitre", "mitre_limit": 2.0}
    tissue = shapely.buffer(shapely.buffer(shapely.union_all(tiles), radius, **mitre), -radius, **mitre)
    nearest = _nearest(positions, 2 * np.ptp(np.vstack([corners, [[0, 0]]]), axis=0).max())
    shapely.prepare(tissue)
    cut = ~shapely.covers(tissue, nearest)
    nearest[cut] = shapely.intersection(nearest[cut], tissue)
    return [_outline(polygon) - centre for polygon, centre in zip(nearest, positions, strict=True)]


def _nearest(positions: np.ndarray, margin: float) -> np.ndarray:
    """Voronoi cells, n_positions, in the order of the positions."""
    frame = shapely.box(*(positions.min(axis=0) - margin), *(positions.max(axis=0) + margin))
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(positions), extend_to=frame))
    cell, point = shapely.STRtree(shapely.points(positions)).query(cells, predicate="intersects")
    found = np.full(len(positions), None, dtype=object)
    found[point] = cells[cell]
    return found


def _outline(polygon: shapely.Geometry) -> np.ndarray:
    """Corners of the largest part of a polygon."""
    parts = shapely.get_parts(polygon)
    return shapely.get_coordinates(shapely.get_exterior_ring(parts[shapely.area(parts).argmax()]))[:-1]
