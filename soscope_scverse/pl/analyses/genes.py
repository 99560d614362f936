"""Genes by their variability, their scores by groups, and their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from soscope_scverse._validators import NON_NEGATIVE_INTEGER, Rules, check_arguments, check_text
from soscope_scverse.bench._groups import with_groups
from soscope_scverse.pl._benchmark import benchmark
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._tables import check_table

_COLUMNS = ("mean", "variance", "trend", "variability_group")
_RANKED_RULES: Rules = {"n_named": NON_NEGATIVE_INTEGER}
_DOT = 8


def gene_variability(table: pd.DataFrame, *, ax: Axes | None = None, save: str | PathLike | None = None) -> Axes:
    """Plot the variance of every gene over its mean with the trend, coloured by group of biological variability.

    Parameters
    ----------
    table
        Returned by :func:`~soscope_scverse.tl.gene_variability`.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        Contains a dot per gene with counts, and the trend.

    Raises
    ------
    TypeError, ValueError
        If `table` is no such table.
    """
    check_table(table, _COLUMNS, "tl.gene_variability")
    ax = panels(ax, (1,), (5.5, 4), "one")[0]
    there = table[table["mean"] > 0]
    groups = there["variability_group"].astype("category")
    for i, name in enumerate(groups.cat.categories):
        rows = there[groups == name]
        colour = plt.get_cmap("viridis")(i / max(len(groups.cat.categories) - 1, 1))
        ax.scatter(rows["mean"], rows["variance"], s=_DOT, color=colour, linewidths=0, label=name)
    ordered = there.sort_values("mean")
    ax.plot(ordered["mean"], ordered["trend"], color="black", linewidth=1, label="trend")
    ax.set(xlabel="mean of log counts", ylabel="variance of log counts")
    ax.legend(title="variability", frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(ax, save)
    return ax


def scores_by_group(
    df: pd.DataFrame,
    groups: pd.Series,
    *,
    metric: Sequence[str] | str | None = None,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot scores as box plots over genes: boxes grouped by group of genes and coloured by method.

    Parameters
    ----------
    df
        Table of one task, returned by :func:`~soscope_scverse.bench.compare`.
    groups
        Group of every gene, see :func:`~soscope_scverse.bench.scores_by_group`.
    metric
        Metrics to plot, one panel each. Default: all metrics in the table.
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
        If `df` has several tasks, or see :func:`~soscope_scverse.bench.scores_by_group` and :func:`benchmark`.
    """
    table = with_groups(df, groups)
    if (n_tasks := table["task"].nunique()) > 1:
        msg = f"Expected scores of one task, found {n_tasks}. Select one: `df[df['task'] == ...]`."
        raise ValueError(msg)
    table = table.sort_values("group", kind="stable")
    return benchmark(table.assign(task=table["group"].astype(str)), metric=metric, ax=ax, save=save)


def ranked_genes(
    values: pd.Series,
    *,
    label: str = "value",
    n_named: int = 10,
    ax: Axes | None = None,
    save: str | PathLike | None = None,
) -> Axes:
    """Plot a value of every gene by rank, with the names of the first ones.

    Parameters
    ----------
    values
        Indexed by gene, e.g. R2 of the image: ``pd.Series(metrics.image_r2(...), index=adata.var_names)``. NaN are
        excluded.
    label
        Label of the axis.
    n_named
        Number of first genes whose names are listed.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        Contains a dot per gene.

    Raises
    ------
    TypeError, ValueError
        If `values` is no series of numbers, or all are NaN.
    """
    check_arguments(locals(), _RANKED_RULES)
    check_text("label", label)
    if not isinstance(values, pd.Series) or not pd.api.types.is_numeric_dtype(values):
        msg = f"Expected a pandas Series of numbers indexed by gene, found {type(values).__name__}."
        raise TypeError(msg)
    ordered = values.dropna().sort_values(ascending=False)
    if ordered.empty:
        msg = f"Expected at least one value, found {len(values)} NaN."
        raise ValueError(msg)
    ax = panels(ax, (1,), (5, 4), "one")[0]
    ax.scatter(np.arange(1, len(ordered) + 1), ordered, s=_DOT, color="tab:blue", linewidths=0)
    ax.set(xlabel="rank", ylabel=label)
    names = "\n".join(map(str, ordered.index[:n_named]))
    ax.text(0.98, 0.98, names, transform=ax.transAxes, ha="right", va="top", fontsize=8)  # where no dot can be
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(ax, save)
    return ax
