"""Capture area: what a spot measured of its lattice cell, and how much of every subspot that is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import shapely

from soscope_scverse._read import Spots
from soscope_scverse.pp._lattice import Lattice

CaptureShape = Literal["circle", "square"]

logger = logging.getLogger(__name__)

_VISIUM = 0.55  # diameter of a spot over the pitch: 55 um at 100 um (10x Genomics, Visium)
# spot_diameter_fullres of Visium over the pitch: Space Ranger writes 65, 70 or 60 um for a spot of 55 um
_VISIUM_METADATA = (0.5, 0.8)
VISIUM_PITCH = 100.0
"""Centre-to-centre distance of the spots of Visium in micrometres (10x Genomics)."""
# the diameters that Space Ranger writes, over the pitch, and how much they vary: 14 public folders differ by 1e-4
_SPACE_RANGER, _VARIATION = (0.65, 0.7, 0.6), 0.005
_LEAST = 0.02  # of the lattice cell: spots of known platforms capture 20 % and more
_TILES = 0.95  # spots whose diameter is this share of the pitch have no gaps: bins, merged spots


class CaptureArea(NamedTuple):
    """What every spot of a section captured: a circle, or a square along the lattice."""

    diameter: float
    """Of the circle, or side of the square, in the unit of the positions."""
    shape: CaptureShape
    side: np.ndarray
    """Unit vector (x, y) along a side of the square."""

    @property
    def corners(self) -> np.ndarray:
        """4 x 2 corners of a square, in order, relative to the position of the spot."""
        unit = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
        return self.diameter * unit @ [self.side, [-self.side[1], self.side[0]]]

    def overlap(self, geometries: np.ndarray) -> np.ndarray:
        """Areas of geometries, relative to the position of their spot, inside of the capture area.

        Parameters
        ----------
        geometries
            shapely polygons; n of them.
        """
        if self.shape == "square":
            return shapely.area(shapely.intersection(geometries, shapely.Polygon(self.corners)))
        radius, inside = self.diameter / 2, shapely.area(geometries)
        inside[shapely.distance(geometries, shapely.Point(0, 0)) >= radius] = 0
        corners, number = shapely.get_coordinates(geometries, return_index=True)
        farthest = np.zeros(len(geometries))
        np.maximum.at(farthest, number, np.hypot(*corners.T))
        cut = (inside > 0) & (farthest > radius)
        inside[cut] = [_in_circle(geometry, radius) for geometry in geometries[cut]]
        return inside

    def contains(self, offset: np.ndarray) -> np.ndarray:
        """Whether points, n x 2 relative to their spot, lie in the capture area."""
        if self.shape == "circle":
            return np.hypot(*offset.T) <= self.diameter / 2
        along, across = offset @ self.side, offset @ [-self.side[1], self.side[0]]
        return np.maximum(np.abs(along), np.abs(across)) <= self.diameter / 2


def capture_areas(
    spots: Spots, lattices: Mapping[str, Lattice | None], capture: float | Literal["auto"] | None, shape: CaptureShape
) -> dict[str, CaptureArea | None]:
    """Capture area of the spots of every section; None where they tile the tissue.

    Parameters
    ----------
    spots
        The spots.
    lattices
        Lattice of every section, None where there is none.
    capture, shape
        See :func:`~soscope_scverse.pp.subspots`.
    """
    if capture == "auto":
        found, shape = _recognised(spots, lattices), "circle"
    else:
        found = dict.fromkeys(lattices, capture)
    sides = {section: along(lattice) for section, lattice in lattices.items()}
    return {
        section: None if diameter is None else CaptureArea(float(diameter), shape, sides[section])
        for section, diameter in found.items()
    }


def _recognised(spots: Spots, lattices: Mapping[str, Lattice | None]) -> dict[str, float | None]:
    """Diameters of what spots capture where their platform is recognised; None: they tile the tissue."""
    found: dict[str, float | None] = {}
    unknown = None
    for section, lattice in lattices.items():
        share = None if lattice is None else _recorded_share(spots, section, lattice)
        found[section] = None
        if lattice is None or (share is not None and share >= _TILES):
            continue
        if lattice.kind == "hex" and (share is None or _VISIUM_METADATA[0] <= share <= _VISIUM_METADATA[1]):
            found[section] = _VISIUM * lattice.pitch
        else:
            unknown = lattice, share
    diameters = [diameter for diameter in found.values() if diameter is not None]
    if diameters:
        logger.info(
            "Visium lattice: spots capture circles of 55 um at a pitch of 100 um (capture=%.4g). Pass `capture=None` "
            "if the spots tile the tissue.",
            diameters[0],
        )
    if unknown is not None:
        _ask(*unknown)
    return found


def warn_unlikely(share: float, area: CaptureArea, pitch: float) -> None:
    """Warn if spots captured next to nothing of their lattice cells, or more: what a wrong unit looks like."""
    if share == 1 and area.diameter * _TILES > pitch:
        warnings.warn(
            f"A capture area of diameter {area.diameter:.4g} is wider than the pitch of the spots ({pitch:.4g}, in the "
            "unit of the positions, usually pixels): they tile the tissue, as with `capture=None`. Check the unit of "
            f"`capture`; that of Visium is {_VISIUM * pitch:.4g}.",
            UserWarning,
            stacklevel=6,
        )
    if share < _LEAST:
        warnings.warn(
            f"A capture area of diameter {area.diameter:.4g} is {share:.2g} of the lattice cell (pitch {pitch:.4g}, in "
            "the unit of the positions): nearly all of the result is predicted. Check the unit of `capture`; that of "
            f"Visium is {_VISIUM * pitch:.4g}.",
            UserWarning,
            stacklevel=6,
        )


def is_space_ranger(lattice: Lattice, diameter: float) -> bool:
    """Whether a lattice and ``spot_diameter_fullres`` are those of Visium as Space Ranger writes them."""
    shares = np.array(_SPACE_RANGER)
    return lattice.kind == "hex" and bool(np.isclose(diameter / lattice.pitch, shares, rtol=0, atol=_VARIATION).any())


def _ask(lattice: Lattice, share: float | None) -> None:
    """Log what was assumed about spots of an unknown platform."""
    logger.warning(
        "What the spots captured is not known%s: capture=None is assumed, spots that tile the tissue. If there are "
        "gaps between them, pass the diameter: `capture=%.4g` for Spatial Transcriptomics (100 um at 200 um), or the "
        "width of the channels with `capture_shape='square'` for DBiT-seq.",
        "" if share is None else f" (`uns['spatial']` records a spot diameter of {share:.2f} pitches)",
        lattice.pitch / 2,
    )


def _recorded_share(spots: Spots, section: str, lattice: Lattice) -> float | None:
    """``spot_diameter_fullres`` of a section over the pitch, if it is recorded."""
    library = spots.library(None if spots.library_key is None else section)
    diameter = library.get("scalefactors", {}).get("spot_diameter_fullres") if isinstance(library, Mapping) else None
    is_number = isinstance(diameter, int | float | np.number) and 0 < diameter < np.inf
    return float(diameter) / lattice.pitch if is_number else None


def along(lattice: Lattice | None) -> np.ndarray:
    """Unit vector along a lattice; without one, along x."""
    if lattice is None:
        return np.array([1.0, 0.0])
    return lattice.basis[0] / np.linalg.norm(lattice.basis[0])


def _in_circle(geometry: Any, radius: float) -> float:
    """Area of a polygon, or of several, inside of a circle around 0."""
    area = 0.0
    for polygon in shapely.get_parts(geometry):
        outer, *holes = (abs(_ring_in_circle(shapely.get_coordinates(r), radius)) for r in shapely.get_rings(polygon))
        area += outer - sum(holes)
    return area


def _ring_in_circle(ring: np.ndarray, radius: float) -> float:
    r"""Signed area that a closed ring, n x 2, encloses inside of a circle around 0.

    It is the sum over the edges p to q of the areas of the triangles (0, p, q) inside of the circle: of a triangle
    between the points where the edge enters and leaves the circle, and of sectors before and after.
    """
    p, step = ring[:-1], np.diff(ring, axis=0)
    a, b, c = (step**2).sum(axis=1), (p * step).sum(axis=1), (p**2).sum(axis=1) - radius**2
    root = np.sqrt(np.maximum(b**2 - a * c, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        enter, leave = (np.clip(np.nan_to_num((-b + sign * root) / a), 0, 1)[:, None] for sign in (-1, 1))
    enters, leaves = p + enter * step, p + leave * step
    triangles = _cross(enters, leaves).sum() / 2
    sectors = _angle(p, enters).sum() + _angle(leaves, p + step).sum()
    return float(triangles + radius**2 / 2 * sectors)


def _cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]


def _angle(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Angle from p to q as seen from 0."""
    return np.arctan2(_cross(p, q), (p * q).sum(axis=1))
