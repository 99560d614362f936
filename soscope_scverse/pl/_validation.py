"""Scores of a validation."""

from __future__ import annotations

from os import PathLike

import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._validators import check_text
from soscope_scverse.pl._figures import panels, save_figure

_N_NAMED = 5
"""Number of believed genes that are named in the plot."""


def validation(
    adata: AnnData, *, key: str = keys.VALIDATION, ax: Axes | None = None, save: str | PathLike | None = None
) -> Axes:
    """Plot how well every gene was recovered within merged spots, against linear interpolation.

    Parameters
    ----------
    adata
        Spots, or subspots made from them, with the scores of :func:`~soscope_scverse.tl.validate`.
    key
        The `key_added` of the validation.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        One dot per gene: `within_r` of linear interpolation and of soScope. Believed genes are coloured, and the five
        with the highest `within_r` are named. A gene above the diagonal has more detail than linear interpolation, one
        above the horizontal line more than the merged spots.

    Raises
    ------
    TypeError, ValueError
        If there are no scores, or `ax` is not a single Axes.
    """
    check_text("key", key)
    scores = read.validation(read.read_anndata(adata), key)
    ax = panels(ax, (1,), (5, 4.6), "one")[0]
    believed = scores["believed"].astype(bool)
    for chosen, colour, label in ((~believed, "0.6", "not believed"), (believed, "C0", "believed")):
        part = scores[chosen]
        ax.scatter(part["linear_within_r"], part["within_r"], s=14, color=colour, label=f"{label}: {len(part)}")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.axline((0, 0), slope=1, color="black", linewidth=0.6, linestyle="--")
    _name_best(ax, scores[believed])
    ax.set(xlabel="within_r of linear interpolation", ylabel="within_r of recovered spots")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(ax, save)
    return ax


def _name_best(ax: Axes, believed: pd.DataFrame) -> None:
    """Name the genes with the highest scores."""
    for gene, row in believed.nlargest(_N_NAMED, "within_r").iterrows():
        place = row["linear_within_r"], row["within_r"]
        ax.annotate(str(gene), place, xytext=(4, 2), textcoords="offset points", fontsize=7, parse_math=False)
