"""The plot of a comparison."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from helpers import compare
from soscope_scverse import pl

METRICS = ["pearson", "within_r", "mse", "normalized_pearson", "normalized_within_r", "seam_index"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def table() -> pd.DataFrame:
    """Two tasks, two methods, two seeds of one; soscope was not run on the second task."""
    runs = [("A", "linear", None, 0.0), ("A", "soscope", 0, 1.0), ("A", "soscope", 1, 3.0), ("B", "linear", None, 5.0)]
    rows = [
        (task, method, seed, f"g{gene}", metric, start + gene, 1.0)
        for task, method, seed, start in runs
        for gene in range(5)
        for metric in ("pearson", "mse")
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "gene", "metric", "value", "seconds"])


@pytest.mark.filterwarnings("error")
def test_boxes_show_genes_averaged_over_seeds(table, tmp_path):
    axes = pl.benchmark(table, save=tmp_path / "plot.png")
    assert [ax.get_ylabel() for ax in axes] == ["pearson", "mse"]
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert [text.get_text() for text in axes[-1].get_xticklabels()] == ["A", "B"]
    for ax in axes:
        medians = [line.get_ydata() for line in ax.lines if line.get_linewidth() == 1 and line.get_linestyle() == "-"]
        np.testing.assert_array_equal([m[0] if len(m) else np.nan for m in medians], [2, 7, 4, np.nan])
    legend = axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "soscope"]
    colours = [patch.get_facecolor() for patch in legend.get_patches()]
    assert colours[0] != colours[1]


def test_boxes_of_a_task_lie_together(table):
    (ax,) = pl.benchmark(table, metric="mse")
    centres = np.array([patch.get_path().vertices[:, 0].mean() for patch in ax.patches])
    assert set(np.round(centres)) <= {0, 1}
    assert len(set(centres)) == len(centres)


def test_axes_can_be_given(table):
    _, ax = plt.subplots()
    assert pl.benchmark(table, metric="pearson", ax=ax)[0] is ax
    _, grid = plt.subplots(1, 2)
    assert list(pl.benchmark(table, metric=["mse", "pearson"], ax=grid)) == list(grid)


@pytest.mark.filterwarnings("error")
def test_many_methods_and_missing_values_can_be_drawn(table):
    many = pd.concat([table.assign(method=f"method {i}") for i in range(23)])
    many.loc[many["gene"] == "g0", "value"] = np.nan
    assert len(pl.benchmark(many)) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda df: pl.benchmark(df, metric="recall"), r"\['pearson', 'mse'\], found \['recall'\]"),
        (lambda df: pl.benchmark(df, metric=[]), "found none"),
        (lambda df: pl.benchmark(df.drop(columns="gene")), r"without \['gene'\]"),
        (lambda df: pl.benchmark(df, ax=plt.subplots()[1]), "`ax` to be 2 Axes, found shape"),
    ],
)
def test_tables_and_axes_that_do_not_fit_are_named(table, call, message):
    with pytest.raises(ValueError, match=message):
        call(table)


def test_the_plot_takes_the_table_of_a_comparison(task):
    low, truth, _ = task
    df = compare(low, truth, methods=["repeat", "linear"])
    assert [ax.get_ylabel() for ax in pl.benchmark(df)] == METRICS
