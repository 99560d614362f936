"""Markers inside and outside of their regions, their patterns, and values before and after."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from soscope_scverse import _read as read
from soscope_scverse import metrics
from soscope_scverse._arrays import columns, dense
from soscope_scverse._regions import read_markers
from soscope_scverse._validators import check_text
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._tables import check_table

_COLOURS = {"outside": "lightgrey", "inside": "tab:orange"}


def marker_boxes(
    maps: Mapping[str, AnnData],
    gene: str,
    region: str,
    region_key: str,
    *,
    ax: Axes | None = None,
    save: str | PathLike | None = None,
) -> Axes:
    """Plot a marker inside and outside of its region as box plots, for the spots, the truth and methods.

    Values are divided by the mean of the map, so that spots and subspots can be compared. Labels have the
    Kolmogorov-Smirnov distance between inside and outside.

    Parameters
    ----------
    maps
        Sections by name, with profiles in ``X`` and the region in ``obs[region_key]``.
    gene
        Marker.
    region
        The region that it marks.
    region_key
        Column of ``obs`` with the regions.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        Contains two boxes per section. Boxes are those of :func:`benchmark`, without dots beyond the whiskers.

    Raises
    ------
    TypeError, ValueError
        If `maps` is no dict of AnnData, the gene or the region is missing, or the gene is 0 everywhere.
    """
    if not isinstance(maps, Mapping) or not maps:
        msg = f"Expected `maps` to be a dict of AnnData by name, found {type(maps).__name__}."
        raise TypeError(msg)
    values, labels = {}, []
    for name, adata in maps.items():
        marker = read_markers(read.read_anndata(adata), {region: [gene]}, region_key, of=name)[0]
        x = dense(columns(read.profiles(adata, None), adata.var_names.get_indexer([gene]))).ravel().astype(float)
        if not x.mean() > 0:
            msg = f"Expected a positive mean of {gene!r} in {name!r}, found {x.mean()}."
            raise ValueError(msg)
        values[name] = (x[~marker.inside] / x.mean(), x[marker.inside] / x.mean())
        labels.append(f"{name}\nKS {metrics.ks_distance(x[:, None], marker.inside)[0]:.2f}")
    ax = panels(ax, (1,), (1.5 + 1.1 * len(maps), 3.5), "one")[0]
    for i, (side, colour) in enumerate(_COLOURS.items()):
        boxes = ax.boxplot(
            [pair[i] for pair in values.values()],
            positions=np.arange(len(maps)) + 0.36 * (i - 0.5),
            widths=0.3,
            manage_ticks=False,
            patch_artist=True,
            showfliers=False,
            boxprops={"facecolor": colour, "linewidth": 0.6},
            medianprops={"color": "black", "linewidth": 1},
            whiskerprops={"linewidth": 0.6},
            capprops={"linewidth": 0.6},
        )
        boxes["boxes"][0].set_label(f"{side} of {region}")
    ax.set(xticks=np.arange(len(maps)), xticklabels=labels, ylabel=f"{gene} / its mean")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(ax, save)
    return ax


def marker_patterns(
    table: pd.DataFrame,
    *,
    names: tuple[str, str] = ("first", "second"),
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot the patterns of markers over regions in two omics as heat maps.

    Parameters
    ----------
    table
        Returned by :func:`~soscope_scverse.tl.marker_patterns`.
    names
        Titles of the two.
    ax
        Two Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        Two. Labels of the features of the second have r.

    Raises
    ------
    TypeError, ValueError
        If `table` is no such table, or `names` are not two.
    """
    check_table(table, ("feature", "region", "first", "second", "r"), "tl.marker_patterns")
    if isinstance(names, str) or len(names) != 2:
        msg = f"Expected two `names`, found {names!r}."
        raise ValueError(msg)
    features, regions = table["feature"].unique(), table["region"].unique()
    r = table.groupby("feature", sort=False)["r"].first()
    size = (1.6 + 0.35 * len(regions), 1.4 + 0.28 * len(features))
    axes = panels(ax, (2,), size, "two")
    for panel, column, name in zip(axes, ("first", "second"), names, strict=True):
        wide = table.pivot(index="feature", columns="region", values=column).loc[features, regions]
        drawn = panel.imshow(wide, cmap="magma", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        panel.set_title(name, fontsize=9)
        panel.set_xticks(np.arange(len(regions)), regions, rotation=90)
        panel.set_yticks(np.arange(len(features)), features)
    axes[1].set_yticks(np.arange(len(features)), [f"r {value:.2f}" for value in r])
    axes[1].figure.colorbar(drawn, ax=axes[1], label="scaled mean of the region", shrink=0.8)
    save_figure(axes[0], save)
    return axes


def before_after(
    table: pd.DataFrame, *, label: str = "", ax: Axes | None = None, save: str | PathLike | None = None
) -> Axes:
    """Plot values after enhancement over those before, with the diagonal of no change.

    Parameters
    ----------
    table
        Returned by :func:`~soscope_scverse.tl.omics_correlation` or :func:`~soscope_scverse.tl.signal_outside`.
    label
        What the values are, for the labels of the axes.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        Contains a dot per row without NaN; the title has the medians.

    Raises
    ------
    TypeError, ValueError
        If `table` has no columns ``before`` and ``after``, or only NaN.
    """
    check_table(table, ("before", "after"), "tl.omics_correlation` or `tl.signal_outside")
    check_text("label", label)
    there = table[["before", "after"]].dropna()
    if there.empty:
        msg = f"Expected rows with values before and after, found {len(table)} with NaN."
        raise ValueError(msg)
    ax = panels(ax, (1,), (4, 4), "one")[0]
    ends = np.array([min(0, there.min().min()), max(1, there.max().max())])
    ax.plot(ends, ends, color="black", linewidth=0.8, linestyle="--")
    ax.scatter(there["before"], there["after"], s=14, color="tab:blue", linewidths=0)
    medians = there.median()
    ax.set_title(f"median {medians['before']:.2f} before, {medians['after']:.2f} after", fontsize=9)
    what = f"{label} " if label else ""
    ax.set(xlabel=f"{what}before", ylabel=f"{what}after", aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(ax, save)
    return ax
