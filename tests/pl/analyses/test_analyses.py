"""Plots of the analyses show their tables; what is none is named."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from soscope_scverse import metrics, pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def genes() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"mean": rng.random(30), "variance": rng.random(30), "trend": 0.5}, index=[f"g{i}" for i in range(30)]
    )
    table.loc["g0", "mean"] = 0
    table["variability_group"] = pd.Categorical(["low", "high", "medium"] * 10, ["low", "medium", "high"])
    return table


@pytest.fixture
def scores() -> pd.DataFrame:
    rows = [
        (f"x{factor}", factor, method, seed, f"g{gene}", metric, factor + gene + (seed or 0))
        for factor in (2, 4)
        for method, seed in (("linear", None), ("soscope", 0), ("soscope", 1))
        for gene in range(3)
        for metric in ("pearson", "mse")
    ]
    return pd.DataFrame(rows, columns=["task", "factor", "method", "seed", "gene", "metric", "value"])


@pytest.fixture
def patterns() -> pd.DataFrame:
    rows = [(f, r, i / 2, 1 - i / 2, -1.0) for f in ("A", "B") for i, r in enumerate("xyz")]
    return pd.DataFrame(rows, columns=["feature", "region", "first", "second", "r"])


@pytest.fixture
def section() -> AnnData:
    obs = pd.DataFrame({"region": ["a"] * 3 + ["b"] * 3}, index=[f"s{i}" for i in range(6)])
    return AnnData(
        np.array([[4, 0], [5, 0], [6, 0], [0, 0], [1, 0], [2, 0]], float), obs=obs, var=pd.DataFrame(index=["A", "B"])
    )


@pytest.mark.filterwarnings("error")
def test_genes_are_dots_of_their_group_below_or_above_the_trend(genes, tmp_path):
    ax = pl.gene_variability(genes, save=tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["low", "medium", "high", "trend"]
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 29  # g0 has no counts
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), np.full(29, 0.5))


@pytest.mark.filterwarnings("error")
def test_groups_are_in_their_order(scores):
    groups = pd.Series(pd.Categorical(["high", "low", "high"], ["low", "high"]), index=["g0", "g1", "g2"])
    (ax,) = pl.scores_by_group(scores[scores["factor"] == 2], groups, metric="mse")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["low", "high"]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 1 and line.get_linestyle() == "-"]
    assert medians == [3, 3, 3.5, 3.5]


@pytest.mark.filterwarnings("error")
def test_genes_are_ranked_and_the_first_are_named():
    values = pd.Series([0.1, np.nan, 0.5, 0.3], index=["a", "b", "c", "d"])
    ax = pl.ranked_genes(values, label="R2", n_named=2)
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[1, 0.5], [2, 0.3], [3, 0.1]])
    assert [text.get_text() for text in ax.texts] == ["c\nd"]
    assert ax.get_ylabel() == "R2"


@pytest.mark.filterwarnings("error")
def test_heat_maps_have_one_order_and_the_agreement(tmp_path):
    rng = np.random.default_rng(1)
    truth = rng.random((30, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.random((30, 6))
    other = truth + rng.random(truth.shape)
    axes = pl.feature_correlations(truth, {"soScope": other, "itself": truth}, save=tmp_path / "plot.png")
    shown = [np.asarray(ax.images[0].get_array()) for ax in axes]
    np.testing.assert_array_equal(shown[0], shown[2])
    assert sorted(shown[0].ravel()) == pytest.approx(sorted(np.corrcoef(truth, rowvar=False).ravel()))
    found = metrics.correlation_agreement(other, truth)
    assert axes[1].get_title() == f"soScope\nr {found.r:.2f}, MSE {found.mse:.3f}"
    with_flat = truth.copy()
    with_flat[:, 1] = 0
    assert len(pl.feature_correlations(with_flat, {"a": with_flat})) == 2


@pytest.mark.filterwarnings("error")
def test_boxes_of_markers_are_relative_to_the_mean(section):
    ax = pl.marker_boxes({"spots": section, "enhanced": section}, "A", "a", "region")
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 1]
    assert medians == pytest.approx([1 / 3, 1 / 3, 5 / 3, 5 / 3])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["spots\nKS 1.00", "enhanced\nKS 1.00"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["outside of a", "inside of a"]


@pytest.mark.filterwarnings("error")
def test_patterns_are_two_maps_of_the_same_rows(patterns):
    first, second = pl.marker_patterns(patterns, names=("ATAC", "RNA"))
    np.testing.assert_array_equal(first.images[0].get_array(), [[0, 0.5, 1]] * 2)
    np.testing.assert_array_equal(second.images[0].get_array(), [[1, 0.5, 0]] * 2)
    assert [text.get_text() for text in first.get_yticklabels()] == ["A", "B"]
    assert [text.get_text() for text in second.get_yticklabels()] == ["r -1.00"] * 2
    assert (first.get_title(), second.get_title()) == ("ATAC", "RNA")


@pytest.mark.filterwarnings("error")
def test_values_before_and_after_are_on_the_same_scale():
    ax = pl.before_after(pd.DataFrame({"before": [0.2, -0.4, np.nan], "after": [0.6, 0.1, 1]}), label="r")
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[0.2, 0.6], [-0.4, 0.1]])
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [-0.4, 1])
    assert ax.get_title() == "median -0.10 before, 0.35 after"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("r before", "r after")


@pytest.mark.filterwarnings("error")
def test_factors_are_lines_of_means(scores):
    pearson, mse = pl.factors(scores)
    assert (pearson.get_ylabel(), mse.get_ylabel()) == ("pearson", "mse")
    lines = {line.get_label(): line.get_ydata().tolist() for line in mse.lines}
    assert lines == {"linear": [3, 5], "soscope": [3.5, 5.5]}
    _, ax = plt.subplots()
    assert pl.factors(scores, metric="mse", ax=ax)[0] is ax


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g, s, p, a: pl.gene_variability(s), ValueError, "`tl.gene_variability`.*without .'mean'"),
        (lambda g, s, p, a: pl.gene_variability(g[:0]), ValueError, "found no rows"),
        (lambda g, s, p, a: pl.gene_variability(a), TypeError, "returned by `tl.gene_variability`, found AnnData"),
        (lambda g, s, p, a: pl.scores_by_group(s, pd.Series(["x"], ["g0"])), ValueError, "of one task, found 2"),
        (lambda g, s, p, a: pl.scores_by_group(s, "low"), TypeError, "pandas Series"),
        (lambda g, s, p, a: pl.ranked_genes([1, 2]), TypeError, "pandas Series of numbers"),
        (lambda g, s, p, a: pl.ranked_genes(pd.Series([np.nan])), ValueError, "found 1 NaN"),
        (lambda g, s, p, a: pl.ranked_genes(pd.Series([1]), n_named=-1), ValueError, "`n_named` to be at least 0"),
        (lambda g, s, p, a: pl.ranked_genes(pd.Series([1]), label=3), TypeError, "`label` to be a string"),
        (lambda g, s, p, a: pl.feature_correlations(a.X, a.X), TypeError, "dict of matrices by method"),
        (lambda g, s, p, a: pl.feature_correlations(a.X, {"x": a.X[:2]}), ValueError, "matrices of one shape"),
        (
            lambda g, s, p, a: pl.feature_correlations(a.X[:, :1], {"x": a.X[:, :1]}),
            ValueError,
            "two features, found 1",
        ),
        (lambda g, s, p, a: pl.marker_boxes(a, "A", "a", "region"), TypeError, "`maps` to be a dict of AnnData"),
        (lambda g, s, p, a: pl.marker_boxes({"x": a}, "B", "a", "region"), ValueError, "positive mean of 'B' in 'x'"),
        (lambda g, s, p, a: pl.marker_boxes({"x": a}, "A", "z", "region"), ValueError, r"found markers of \['z'\]"),
        (lambda g, s, p, a: pl.marker_patterns(g), ValueError, "`tl.marker_patterns`"),
        (lambda g, s, p, a: pl.marker_patterns(p, names="ab"), ValueError, "two `names`, found 'ab'"),
        (lambda g, s, p, a: pl.before_after(p), ValueError, "without .'before', 'after'"),
        (
            lambda g, s, p, a: pl.before_after(pd.DataFrame({"before": [np.nan], "after": [1]})),
            ValueError,
            "found 1 with NaN",
        ),
        (lambda g, s, p, a: pl.factors(s.drop(columns="factor")), ValueError, "without .'factor'"),
        (lambda g, s, p, a: pl.factors(s, metric="recall"), ValueError, r"found \['recall'\]"),
        (lambda g, s, p, a: pl.factors(s, metric=[]), ValueError, "found none"),
    ],
)
def test_what_does_not_fit_is_named(genes, scores, patterns, section, call, error, message):
    with pytest.raises(error, match=message):
        call(genes, scores, patterns, section)
