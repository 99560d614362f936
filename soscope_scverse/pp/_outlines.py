"""Outlines of spots and subspots: cells of a lattice that tile the section, or circles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse.pp._capture import CaptureArea, along
from soscope_scverse.pp._closing import slit_width
from soscope_scverse.pp._geometry import measured_shares, unit_subspots
from soscope_scverse.pp._graphs import nearest_distance
from soscope_scverse.pp._lattice import Lattice, cell_corners, lattice_or_none

_TOUCH = 0.98  # gaps between spots below 2 % of the pitch are ignored
_ROUNDING = 1e-6  # shares that differ by less are equal


class Outline(NamedTuple):
    """The common outline of all spots or subspots of a section."""

    corners: np.ndarray | None
    """n_corners x 2, in order, relative to the position, in its units; None is a circle."""
    diameter: float
    """Of the circle."""
    slit: float = 0.0
    """Width of the widest slit between tiles, since spots lie off their lattice."""
    pitch: float = 0.0
    """Centre-to-centre distance of the spots of the lattice."""


def subspot_outline(enhanced: AnnData) -> Outline:
    """Outline of the subspots of one section.

    Parameters
    ----------
    enhanced
        Subspots of one section, or some of them. If they were not made by :func:`~soscope_scverse.pp.subspots`, their
        lattice is recognised where they lie on one.
    """
    info = _geometry(enhanced)
    kind = info.get("geometry", "positions")
    if kind in ("square", "hex"):
        lattice, centres = _lattice(enhanced, info), cast("np.ndarray", lattice_centres(enhanced))
        corners = cell_corners(kind, _fine_basis(enhanced, info))
        return Outline(corners, info["subspot_diameter"], slit_width(centres, lattice), lattice.pitch)
    if kind == "positions":
        return spot_outline(enhanced, None)
    return Outline(None, info["subspot_diameter"])


def spot_outline(adata: AnnData, diameter: float | None) -> Outline:
    """Outline of the spots of one section: circles, or cells of their lattice if the spots have no gaps.

    Parameters
    ----------
    adata
        Spots of one section.
    diameter
        Of the spots, in pixels; None if unknown: the centre-to-centre distance is used.
    """
    xy = read.positions(adata)
    lattice = lattice_or_none(xy, read.array_index(adata))
    if lattice is not None and (diameter is None or diameter >= _TOUCH * lattice.pitch):
        corners = cell_corners(lattice.kind, lattice.basis)
        return Outline(corners, lattice.pitch, slit_width(xy, lattice), lattice.pitch)
    return Outline(None, nearest_distance(xy) if diameter is None else diameter)


def spot_tile(adata: AnnData, enhanced: AnnData) -> Outline:
    """Outline of the spots of one section as cells of their lattice; circles where there is none.

    Parameters
    ----------
    adata
        Spots of one section.
    enhanced
        Subspots of this section, whose result records the lattice: a few spots do not show it.
    """
    info = _geometry(enhanced)
    if info.get("geometry") not in ("square", "hex"):
        return spot_outline(adata, None)
    lattice = _lattice(enhanced, info)
    slit = slit_width(read.positions(adata), lattice)
    return Outline(cell_corners(lattice.kind, lattice.basis), lattice.pitch, slit, lattice.pitch)


def capture_area(enhanced: AnnData, spots: AnnData | None = None) -> CaptureArea | None:
    """What every spot of one section captured; None where spots tile the tissue, or it is unknown.

    Parameters
    ----------
    enhanced
        Subspots of one section.
    spots
        Spots of this section; squares are turned like their lattice where the subspots lie on none.
    """
    info, measured = _geometry(enhanced), measured_of(enhanced)
    if "capture" not in info or (measured > 1 - _ROUNDING).all():
        return None
    if info["geometry"] not in ("square", "hex"):
        lattice = None if spots is None else lattice_or_none(read.positions(spots), read.array_index(spots))
        return CaptureArea(float(info["capture"]), info["capture_shape"], along(lattice))
    n_subspots, lattice = int(info["n_subspots"]), _lattice(enhanced, info)
    recorded = CaptureArea(float(info["capture"]), info["capture_shape"], along(lattice))
    number = enhanced.obs[keys.SUBSPOT].to_numpy(int)
    shares = measured_shares(lattice, n_subspots, recorded)
    if np.allclose(shares[number], measured, atol=_ROUNDING) or len(np.unique(number)) < n_subspots:
        return recorded
    # that of the first section is recorded; this one has pixels of another size
    of_part = np.bincount(number, measured) / np.bincount(number)
    area = of_part.mean() * abs(np.linalg.det(lattice.basis))
    return recorded._replace(diameter=float(np.sqrt(area if recorded.shape == "square" else 4 * area / np.pi)))


def measured_of(enhanced: AnnData) -> np.ndarray:
    """Share of every subspot that was captured; 1 where the result does not record it."""
    measured = enhanced.obs.get(keys.MEASURED_SHARE)
    return np.ones(enhanced.n_obs) if measured is None else read.numbers("`obs['measured']`", measured)


def lattice_centres(enhanced: AnnData) -> np.ndarray | None:
    """Positions of the spots of one section, n_spots x 2, from their subspots; None if these lie on no lattice."""
    info = _geometry(enhanced)
    if info.get("geometry") not in ("square", "hex"):
        return None
    index, _ = unit_subspots(info["geometry"], np.asarray(info["basis"]), int(info["n_subspots"]))
    spot = enhanced.obs[keys.SPOT].astype("category").cat.remove_unused_categories().cat.codes.to_numpy()
    first = np.unique(spot, return_index=True)[1]
    offset = index[enhanced.obs[keys.SUBSPOT].to_numpy(int)[first]] @ _fine_basis(enhanced, info)
    return read.positions(enhanced)[first] - offset


def _geometry(enhanced: AnnData) -> Mapping[str, Any]:
    """What a result records of its partition; empty where it was not made by ours."""
    return enhanced.uns.get(keys.RESULT, {}).get("geometry", {})


def _lattice(enhanced: AnnData, info: Mapping[str, Any]) -> Lattice:
    """Lattice of the spots of this section; ``uns`` records that of the first section."""
    recorded = np.asarray(info["basis"])
    _, fine = unit_subspots(info["geometry"], recorded, int(info["n_subspots"]))
    return Lattice(info["geometry"], recorded @ np.linalg.inv(fine) @ _fine_basis(enhanced, info))


def _fine_basis(enhanced: AnnData, info: Mapping[str, Any]) -> np.ndarray:
    """Lattice vectors of the subspots of this section; ``uns`` records those of the first section."""
    xy, n_subspots = read.positions(enhanced), int(info["n_subspots"])
    index, recorded = unit_subspots(info["geometry"], np.asarray(info["basis"]), n_subspots)
    index = index[enhanced.obs[keys.SUBSPOT].to_numpy(int)]
    spot = enhanced.obs[keys.SPOT].astype("category").cat.codes.to_numpy()
    index, xy = (values - _means(values, spot) for values in (index, xy))
    # the smallest change of the recorded vectors, which remain where too few subspots are left to identify others
    return recorded + np.linalg.lstsq(index, xy - index @ recorded, rcond=1e-6)[0]


def _means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean of the group of every row."""
    sums = np.stack([np.bincount(group, column) for column in values.T], axis=1)
    return (sums / np.bincount(group)[:, None])[group]
