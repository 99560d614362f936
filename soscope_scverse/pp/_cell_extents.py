"""Where cells and spots lie, for messages about cells in other coordinates than the spots."""

from __future__ import annotations

import numpy as np

from soscope_scverse._read import Spots

_MOST = 0.9  # of the spots of a section lie among its cells, but for margins


def compared_extents(spots: Spots, cells: np.ndarray) -> str:
    """Sentences with the extents of cells, n_cells x 2, and spots, and a scale factor that would fit, if one does."""
    text = f"Cells span {_extent(cells)}, spots {_extent(spots.positions)}."
    fitting = {}
    for library in spots.libraries.values():
        for name, factor in library.get("scalefactors", {}).items():
            if name.startswith("tissue_") and 0 < float(factor) < 1:
                scaled = spots.positions * float(factor)
                if _inside(scaled, cells).mean() >= _MOST:
                    fitting[_inside(cells, scaled).mean()] = f"`{name}` = {float(factor):g}"
    if not fitting:
        return text
    return f"{text} Divided by {fitting[max(fitting)]} cells would fit: scale their outlines or mask."


def lie_apart(spots: Spots, cells: np.ndarray, margin: float) -> bool:
    """Whether most spots lie outside of the extent of cells, n_cells x 2, or most cells of that of the spots."""
    return not (
        _inside(spots.positions, cells, margin).mean() > 0.5 and _inside(cells, spots.positions, margin).mean() > 0.5
    )


def _inside(points: np.ndarray, others: np.ndarray, margin: float = 0) -> np.ndarray:
    """Which points lie in the extent of the others."""
    return ((points >= others.min(axis=0) - margin) & (points <= others.max(axis=0) + margin)).all(axis=1)


def _extent(xy: np.ndarray) -> str:
    (left, top), (right, bottom) = xy.min(axis=0), xy.max(axis=0)
    return f"x = {left:.6g} to {right:.6g} and y = {top:.6g} to {bottom:.6g}"
