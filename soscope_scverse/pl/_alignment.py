"""Spots over the tissue."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection

from soscope_scverse.pl._figures import panels, save_figure

if TYPE_CHECKING:
    from soscope_scverse.im import Alignment

_WIDTH = 6
"""Width of a panel in inches."""
_MARGIN = 0.2
"""Margin of the image around the spots, as a fraction of their extent."""


def alignment(
    alignment: Alignment, *, ax: np.ndarray | Axes | None = None, save: str | PathLike | None = None
) -> np.ndarray:
    """Plot the spots of every section over the image, with the fraction on tissue and the correlation.

    Parameters
    ----------
    alignment
        Result of :func:`~soscope_scverse.im.check_alignment`.
    ax
        Axes to draw on, one per section.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        One per section.

    Raises
    ------
    TypeError, ValueError
        If `alignment` is not an :class:`~soscope_scverse.im.Alignment`, or the number of Axes is not the number of
        sections.
    """
    if not hasattr(alignment, "thumbnails"):
        msg = f"Expected the result of `im.check_alignment`, found {type(alignment).__name__}."
        raise TypeError(msg)
    sections = alignment.thumbnails
    axes = panels(ax, (len(sections),), (_WIDTH, _WIDTH), f"one for each of the sections {list(sections)}")
    for panel, (section, (image, xy, diameter)) in zip(axes, sections.items(), strict=True):
        fit = alignment.table.loc[section].iloc[0]
        panel.imshow(image)
        size = np.full(len(xy), diameter)
        outlines = EllipseCollection(size, size, np.zeros(len(xy)), units="xy", offsets=xy, facecolors="none")
        (left, top), (right, bottom) = _limits(image, xy, diameter)
        panel.set(xlim=(left, right), ylim=(bottom, top))
        points = 72 * _WIDTH * diameter / (right - left)
        outlines.set(offset_transform=panel.transData, edgecolor="limegreen", rasterized=True)
        outlines.set_linewidth(min(1, points / 10))  # tissue stays visible between small spots
        panel.add_collection(outlines, autolim=False)
        name = f"{section}: " if section else ""
        title = (
            f"{name}{fit['on_tissue']:.0%} of spots on tissue, r of staining and library size {fit['correlation']:.2f}"
        )
        panel.set_title(title, fontsize=10, parse_math=False)
        panel.set_axis_off()
    save_figure(axes[0], save)
    return axes


def _limits(image: np.ndarray, xy: np.ndarray, diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and largest (x, y) to show: all spots, and a margin of the image around them."""
    margin = _MARGIN * np.ptp(xy, axis=0).max() + diameter
    size = np.array(image.shape[1::-1])
    low, high = xy.min(axis=0), xy.max(axis=0)
    return (
        np.minimum(np.maximum(low - margin, -0.5), low - diameter),
        np.maximum(np.minimum(high + margin, size - 0.5), high + diameter),
    )
