"""Scores over the factors that a section was merged by."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._tables import check_table, chosen_metrics

_COLUMNS = ("factor", "method", "gene", "metric", "value")


def factors(
    df: pd.DataFrame,
    *,
    metric: Sequence[str] | str | None = None,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot the mean score over genes and seeds against the factor, one panel per metric and one line per method.

    Parameters
    ----------
    df
        Table returned by :func:`~soscope_scverse.bench.compare_factors`.
    metric
        Metrics to plot. Default: all metrics in the table.
    ax
        Axes to draw on, one per metric.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        One per metric.

    Raises
    ------
    TypeError, ValueError
        If `df` is no such table, or lacks a metric.
    """
    check_table(df, _COLUMNS, "bench.compare_factors")
    names = chosen_metrics(df, metric)
    axes = panels(ax, (len(names),), (3.4, 3.2), f"one for each of the metrics {names}")
    methods = df["method"].unique()
    colours = plt.get_cmap("tab10" if len(methods) <= 10 else "tab20")
    for panel, name in zip(axes, names, strict=True):
        mean = df[df["metric"] == name].groupby(["method", "factor"])["value"].mean()
        for i, method in enumerate(methods):
            if method in mean.index.get_level_values("method"):
                line = mean[method]
                panel.plot(line.index, line, marker="o", markersize=3, color=colours(i % colours.N), label=method)
        panel.set(xlabel="factor", ylabel=name, xticks=sorted(df["factor"].unique()))
        panel.grid(linewidth=0.4)
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    save_figure(axes[0], save)
    return axes
