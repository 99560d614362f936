"""Metrics, markers, modalities, groups and factors of a comparison, without training."""

import mudata as md
import numpy as np
import pandas as pd
import pytest

from helpers import compare
from soscope_scverse import bench, datasets, metrics
from soscope_scverse._containers.mudata import columns_apart

REPEAT = {"repeat": bench.BASELINES["repeat"]}


def values(df, metric) -> np.ndarray:
    return df.loc[df["metric"] == metric, "value"].to_numpy()


# ------------------------------------------------------------------------------------------------- metrics and markers


def test_named_metrics_are_those_of_the_package(task):
    low, truth, _ = task
    names = ["mse", "compactness", "correlation_r", "correlation_mse", "kmeans_ari_3", "kmeans_ari_4"]
    df = compare(low, truth, methods=["repeat"], metrics=names)
    assert list(df["metric"].unique()) == names
    prediction = bench.BASELINES["repeat"](low)
    compact = metrics.high_expression_compactness(prediction, truth.obsm["spatial"])
    np.testing.assert_array_equal(values(df, "compactness"), compact)
    np.testing.assert_array_equal(values(df, "mse"), metrics.mse(prediction, truth.X))
    agreement = metrics.correlation_agreement(prediction, truth.X)
    assert values(df, "correlation_r").tolist() == [agreement.r]
    assert values(df, "correlation_mse").tolist() == [agreement.mse]
    for k in (3, 4):
        assert values(df, f"kmeans_ari_{k}").tolist() == [metrics.cluster_ari(prediction, truth.X, k)]
    assert set(df.loc[df["metric"] == "kmeans_ari_3", "gene"]) == {"(all)"}
    assert set(df.loc[df["metric"] == "mse", "gene"]) == set(truth.var_names)


def test_metrics_may_be_functions(task):
    low, truth, _ = task
    given = {
        "largest": lambda prediction, truth: prediction.max(axis=0) - truth.X.toarray().max(axis=0),
        "total": lambda prediction, truth: prediction.sum() / truth.X.sum(),
    }
    df = compare(low, truth, methods=["repeat"], metrics=given)
    assert values(df, "total") == pytest.approx([1])
    assert len(values(df, "largest")) == truth.n_vars


def test_markers_are_scored_by_their_region(task):
    low, truth, _ = task
    markers = {"region_0": truth.var_names[:2].tolist(), "region_1": truth.var_names[2]}
    df = compare(low, truth, methods={**REPEAT, "itself": truth}, metrics="mse", markers=markers, region_key="region")
    found = df[df["metric"] == "ks_distance"].set_index(["method", "gene"])["value"]
    assert len(found) == 6
    for method, x in (("repeat", bench.BASELINES["repeat"](low)), ("itself", truth.X)):
        for j, region in enumerate(["region_0", "region_0", "region_1"]):
            expected = metrics.ks_distance(x[:, [j]], (truth.obs["region"] == region).to_numpy())
            assert found[method, truth.var_names[j]] == expected[0]


def test_scores_of_parts_follow_the_metrics_that_are_asked_for():
    section = datasets.synthetic_section(60, n_genes=4, capture=19.8)
    from soscope_scverse import pp

    pp.subspots(section.adata, capture=19.8)
    df = compare(section.adata, section.truth, methods=["repeat"], metrics=["mse", "pearson"])
    assert list(df["metric"].unique()) == ["mse", "pearson", "pearson_measured", "pearson_unmeasured"]


def test_runs_that_diverge_have_the_rows_of_the_others(task):
    low, truth, _ = task

    def diverging(adata):
        msg = "loss is NaN"
        raise FloatingPointError(msg)

    markers = {"region_0": truth.var_names[0]}
    options = {"metrics": ["mse", "correlation_r"], "markers": markers, "region_key": "region"}
    with pytest.warns(UserWarning, match="diverged"):
        df = compare(low, truth, methods={**REPEAT, "bad": diverging}, **options)
    columns = ["gene", "metric"]
    good, bad = (df[df["method"] == name].reset_index(drop=True) for name in ("repeat", "bad"))
    pd.testing.assert_frame_equal(good[columns], bad[columns])
    assert bad["value"].isna().all()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"metrics": ["pearson", "recall"]}, ValueError, r"`metrics` out of \['pearson'.*found \['recall'\]"),
        ({"metrics": []}, ValueError, "found none"),
        ({"metrics": {"mine": 3}}, ValueError, r"functions of prediction and truth in `metrics`, found \{'mine': 3\}"),
        ({"metrics": {"mine": lambda p, t: np.ones(3)}}, ValueError, r"'mine' to return 8 values.*found shape \(3,\)"),
        ({"metrics": {"mine": lambda p, t: "good"}}, TypeError, "what metric 'mine' returns to be an array of real"),
        ({"markers": {"region_0": "g"}}, ValueError, "`markers` and `region_key` together"),
        ({"region_key": "region"}, ValueError, "`markers` and `region_key` together"),
        ({"markers": {"tumour": "g"}, "region_key": "region"}, ValueError, r"found markers of \['tumour'\]"),
        ({"markers": {"region_0": "g"}, "region_key": "region"}, ValueError, "in `truth.var_names`"),
        ({"markers": {"region_0": "g"}, "region_key": "part"}, ValueError, "`region_key` to be a column"),
    ],
)
def test_metrics_and_markers_that_do_not_fit_are_named(task, kwargs, error, message):
    low, truth, _ = task
    with pytest.raises(error, match=message):
        compare(low, truth, methods=["repeat"], **kwargs)


def unknown(truth):
    truth = truth.copy()
    truth.X = truth.to_df().to_numpy(float)
    truth.X[3, 0] = np.nan
    return truth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda truth: truth[::-1], "rows of the result 'mine' to be those of `truth`.*found 420 rows"),
        (lambda truth: truth[:7], "found 7 rows of other names or spots for 420"),
        (unknown, r"profiles in the result 'mine', found 1 NaN"),
        (lambda truth: truth[:, 1:], r"all 8 features of `truth` in the result 'mine', found 1 missing"),
        (lambda truth: md.MuData({"rna": truth}), r"like the spots, found a MuData of \['rna'\]"),
    ],
)
def test_results_that_do_not_fit_are_named(task, change, message):
    low, truth, _ = task
    with columns_apart():
        result = change(truth.copy())
    with pytest.raises(ValueError, match=message):
        compare(low, truth, methods={"mine": result})


# ---------------------------------------------------------------------------------------------------------- modalities


@pytest.fixture
def mdata() -> md.MuData:
    adata = datasets.synthetic_section(64, lattice="square", n_genes=7).adata
    prot = adata[:, 4:].copy()
    del prot.obsm["spatial"]
    with columns_apart():
        return md.MuData({"rna": adata[:, :4].copy(), "prot": prot})


def test_modalities_are_merged_in_the_same_blocks(mdata):
    low, truth = bench.simulate_low_resolution(mdata, aggregate={"prot": "mean"})
    rna, known = bench.simulate_low_resolution(mdata["rna"])
    assert list(low.mod) == list(truth.mod) == ["rna", "prot"]
    np.testing.assert_array_equal(low["rna"].X.toarray(), rna.X.toarray())
    np.testing.assert_array_equal(low.obsm["subspots"], rna.obsm["subspots"])
    assert truth.obs_names.equals(known.obs_names)
    assert truth.obs["spot"].tolist() == known.obs["spot"].tolist()
    prot = truth["prot"].X.toarray().reshape(16, 4, 3).mean(axis=1)
    np.testing.assert_allclose(low["prot"].X, prot)


def test_modalities_are_compared_one_by_one(mdata):
    low, truth = bench.simulate_low_resolution(mdata, aggregate={"prot": "mean"})
    df = compare(low, truth, methods={"linear": bench.BASELINES["linear_conserving"], "itself": truth}, task="both")
    assert list(df["task"].unique()) == ["both:rna", "both:prot"]
    for name, how in (("rna", "sum"), ("prot", "mean")):
        part = mdata[name].copy()
        part.obsm["spatial"] = mdata["rna"].obsm["spatial"]
        alone = compare(*bench.simulate_low_resolution(part, aggregate=how), methods=["linear_conserving"])
        rows = df[(df["task"] == f"both:{name}") & (df["method"] == "linear")]
        np.testing.assert_array_equal(rows["value"], alone["value"])
    assert values(df[df["method"] == "itself"], "pearson") == pytest.approx(1)


def test_a_joint_model_is_one_of_the_methods(mdata):
    low, truth = bench.simulate_low_resolution(mdata)
    options = {"likelihood": {"rna": "nb", "prot": "poisson"}, "max_epochs": 2}
    markers = {"rna": {"region_0": mdata["rna"].var_names[0]}}
    with pytest.warns(UserWarning, match="positions alone"):
        df = compare(
            low, truth, methods=["soscope"], seeds=[0], enhance_kwargs=options, markers=markers, region_key="region"
        )
    assert df.groupby("task")["gene"].nunique().to_dict() == {"task:rna": 4, "task:prot": 3}
    assert df["value"].notna().all()
    assert set(df.loc[df["metric"] == "ks_distance", "task"]) == {"task:rna"}


def test_modalities_that_do_not_fit_are_named(mdata):
    low, truth = bench.simulate_low_resolution(mdata)
    with pytest.raises(ValueError, match=r"same modalities in .*a MuData of \['rna', 'prot'\] and an AnnData"):
        compare(low, truth["rna"])
    with pytest.raises(ValueError, match=r"`markers` of the modalities \['rna', 'prot'\], found \['region_0'\]"):
        compare(low, truth, markers={"region_0": "g"}, region_key="region")
    with pytest.raises(ValueError, match="'mine' to be like the spots, found an AnnData"):
        compare(low, truth, methods={"mine": truth["rna"]})
    with pytest.raises(ValueError, match=r"out of \['rna', 'prot'\], found \['atac'\]"):
        bench.simulate_low_resolution(mdata, aggregate={"atac": "sum"})


# -------------------------------------------------------------------------------------------------- groups and factors


@pytest.fixture
def table() -> pd.DataFrame:
    """Six genes with scores 0 to 5, and one more in a second seed of a second method."""
    rows = [
        ("A", method, seed, f"g{gene}", "mse", gene + shift, 1.0)
        for method, seed, shift in (("linear", None, 0.0), ("soscope", 0, 0.0), ("soscope", 1, 2.0))
        for gene in range(6)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "gene", "metric", "value", "seconds"])


def test_scores_are_summarised_by_group_after_the_mean_over_seeds(table):
    groups = pd.Series(["low", "high", "high", "high", None], index=[f"g{i}" for i in range(5)])
    found = bench.scores_by_group(table, groups).set_index(["method", "group"])
    assert found["n_genes"].to_dict() == {
        ("linear", "low"): 1,
        ("linear", "high"): 3,
        ("soscope", "low"): 1,
        ("soscope", "high"): 3,
    }
    assert found.loc[("linear", "high"), ["median", "q25", "q75"]].tolist() == [2, 1.5, 2.5]
    assert found.loc[("soscope", "high"), "median"] == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda df: bench.scores_by_group(df, ["a"] * 6), TypeError, "pandas Series of groups indexed by gene"),
        (lambda df: bench.scores_by_group({}, pd.Series(["a"])), TypeError, "found dict and Series"),
        (lambda df: bench.scores_by_group(df, pd.Series(["a"] * 6)), ValueError, "none of its 6 genes .first: 'g0'"),
        (
            lambda df: bench.scores_by_group(df, pd.Series(["a", "b"], ["g0", "g0"])),
            ValueError,
            "found 1 genes repeated",
        ),
        (lambda df: bench.scores_by_group(df[["gene"]], pd.Series(["a"], ["g0"])), ValueError, "without .'task'"),
    ],
)
def test_groups_that_do_not_fit_are_named(table, call, error, message):
    with pytest.raises(error, match=message):
        call(table)


def test_a_section_is_merged_by_every_factor():
    beads, _ = datasets.synthetic_components(576, n_components=3)
    df = bench.compare_factors(
        beads, factors=(2, 3), aggregate="mean", methods=["repeat", "linear"], progress=False, task="beads x"
    )
    assert df.groupby("factor")["task"].unique().map(list).to_dict() == {2: ["beads x2"], 3: ["beads x3"]}
    assert list(df["metric"].unique()) == ["pearson", "mse", "within_r", "kmeans_ari_3", "kmeans_ari_4"]
    low, truth = bench.simulate_low_resolution(beads, 3, aggregate="mean")
    alone = compare(low, truth, methods=["linear"], metrics="kmeans_ari_3")["value"]
    rows = (df["factor"] == 3) & (df["method"] == "linear") & (df["metric"] == "kmeans_ari_3")
    assert df.loc[rows, "value"].tolist() == alone.tolist()
    r = df[df["metric"] == "pearson"].groupby("factor")["value"].mean()
    assert r[2] > r[3]


def test_factors_and_genes_that_do_not_fit_are_named():
    beads, _ = datasets.synthetic_components(144, n_components=2)
    with pytest.raises(ValueError, match="at least one factor"):
        bench.compare_factors(beads, factors=[])
    with pytest.raises(ValueError, match="`factor` to be an integer from 2 to 6"):
        bench.compare_factors(beads, factors=[2, 9])
    with pytest.raises(ValueError, match=r"in `adata.var_names`"):
        bench.compare_factors(beads, genes=["nothing"])
