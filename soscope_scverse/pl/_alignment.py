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
"""Of a panel, in inches."""
_MARGIN = 0.2
"""Of the image around the spots, as share of their extent."""


def alignment(
    alignment: Alignment, *, ax: np.ndarray | Axes | None = None, save: str | PathLike | None = None
) -> np.ndarray:
    """Draw the spots of every section over the part of its image around them, with the figures of their fit.

    Parameters
    ----------
    alignment
        Of :func:`~soscope_scverse.im.check_alignment`.
    ax
        One of the Axes for each section to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        One for each section.

    Raises
    ------
    TypeError, ValueError
        If `alignment` is something else, or there are more or less Axes than sections.
    """
    if not hasattr(alignment, "thumbnails"):
        msg = f"Expected what `im.check_alignment` returns, found {type(alignment).__name__}."
        raise TypeError(msg)
    sections = alignment.thumbnails
    axes = panels(ax, (len(sections),), (_WIDTH, _WIDTH), f"one for each of the sections {list(sections)}")
    for panel, (section, (image, xy, diameter)) in zip(axes, sections.items(), strict=True):
        given = alignment.table.loc[section].iloc[0]
        panel.imshow(image)
        size = np.full(len(xy), diameter)
        outlines = EllipseCollection(size, size, np.zeros(len(xy)), units="xy", offsets=xy, facecolors="none")
        margin = _MARGIN * np.ptp(xy, axis=0).max() + diameter
        (left, top), (right, bottom) = xy.min(axis=0) - margin, xy.max(axis=0) + margin
        panel.set(xlim=(left, right), ylim=(bottom, top))
        points = 72 * _WIDTH * diameter / (right - left)
        outlines.set(offset_transform=panel.transData, edgecolor="limegreen", rasterized=True)
        outlines.set_linewidth(min(1, points / 10))  # the tissue is seen between small spots too
        panel.add_collection(outlines, autolim=False)
        panel.set_title(f"{section} {given['on_tissue']:.0%} on tissue, r = {given['correlation']:.2f}".strip())
        panel.set_axis_off()
    save_figure(axes[0], save)
    return axes
