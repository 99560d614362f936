"""Scores of methods."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from soscope_scverse._validators import check_columns
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._tables import chosen_metrics

_COLUMNS = ("task", "method", "gene", "metric", "value")
_GROUP_WIDTH = 0.84  # width of the boxes of one task; tasks are 1 apart


def benchmark(
    df: pd.DataFrame,
    *,
    metric: Sequence[str] | str | None = None,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot scores as box plots over genes: one panel per metric, boxes grouped by task and coloured by method.

    Scores of a gene are averaged over seeds. Boxes extend from the first to the third quartile with a line at the
    median, whiskers to 1.5 times the interquartile range; genes beyond are shown as dots.

    Parameters
    ----------
    df
        Table returned by :func:`~soscope_scverse.bench.compare`, or several such tables, concatenated.
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
        If `df` is not a table, lacks a column or a metric, or the number of Axes is not the number of metrics.
    """
    check_columns(df, _COLUMNS, "bench.compare")
    names = chosen_metrics(df, metric)
    tasks, methods = df["task"].unique(), df["method"].unique()
    size = (3 + 0.18 * len(tasks) * (len(methods) + 1), 2.4 + 1 / len(names))
    axes = panels(ax, (len(names),), size, f"one for each of the metrics {names}", in_column=True)
    for panel, name in zip(axes, names, strict=True):
        _draw_boxes(panel, _values(df, name), tasks, methods)
        panel.set_ylabel(name)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    save_figure(axes[0], save)
    return axes


def _values(df: pd.DataFrame, metric: str) -> dict[tuple[str, str], np.ndarray]:
    """Return one finite value per gene, by task and method."""
    genes = df[df["metric"] == metric].groupby(["task", "method", "gene"], observed=True)["value"].mean()
    genes = genes[np.isfinite(genes)]
    return {pair: values.to_numpy() for pair, values in genes.groupby(level=["task", "method"], observed=True)}


def _draw_boxes(ax: Axes, values: dict[tuple[str, str], np.ndarray], tasks: np.ndarray, methods: np.ndarray) -> None:
    """Draw a box per task and method, with the boxes of a task side by side."""
    width = _GROUP_WIDTH / len(methods)
    colours = plt.get_cmap("tab10" if len(methods) <= 10 else "tab20")
    centres = np.arange(len(tasks))
    for i, method in enumerate(methods):
        boxes = ax.boxplot(
            [values.get((task, method), np.empty(0)) for task in tasks],
            positions=centres + (i + 0.5) * width - _GROUP_WIDTH / 2,
            widths=0.85 * width,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": colours(i % colours.N), "linewidth": 0.6},
            medianprops={"color": "black", "linewidth": 1},
            whiskerprops={"linewidth": 0.6},
            capprops={"linewidth": 0.6},
            flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "grey"},
        )
        boxes["boxes"][0].set_label(method)
    ax.set(xticks=centres, xticklabels=tasks, xlim=(-0.5, len(tasks) - 0.5))
    ax.grid(axis="y", linewidth=0.4)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
