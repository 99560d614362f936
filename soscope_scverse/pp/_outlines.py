"""Outlines of spots and subspots: cells of a lattice that tile the section, or circles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse.pp._geometry import unit_subspots
from soscope_scverse.pp._graphs import nearest_distance
from soscope_scverse.pp._lattice import cell_corners, lattice_or_none

_TOUCH = 0.98  # gaps between spots below 2 % of the pitch are ignored


class Outline(NamedTuple):
    """The common outline of all spots or subspots of a section."""

    corners: np.ndarray | None
    """n_corners x 2, in order, relative to the position, in its units; None is a circle."""
    diameter: float
    """Of the circle."""


def subspot_outline(enhanced: AnnData) -> Outline:
    """Outline of the subspots of one section.

    Parameters
    ----------
    enhanced
        Subspots of one section, or some of them. If they were not made by :func:`~soscope_scverse.pp.subspots`, their
        lattice is recognised where they lie on one.
    """
    xy = read.positions(enhanced)
    info = enhanced.uns.get(keys.RESULT, {}).get("geometry", {})
    kind = info.get("geometry", "positions")
    if kind in ("square", "hex"):
        return Outline(cell_corners(kind, _fine_basis(enhanced, xy, info)), info["subspot_diameter"])
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
        return Outline(cell_corners(lattice.kind, lattice.basis), lattice.pitch)
    return Outline(None, nearest_distance(xy) if diameter is None else diameter)


def _fine_basis(enhanced: AnnData, xy: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Lattice vectors of the subspots of this section; ``uns`` records those of the first section."""
    n_subspots = int(info["n_subspots"])
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
