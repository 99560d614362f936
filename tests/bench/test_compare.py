"""The table of a comparison against scores made by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from helpers import FAST, compare
from soscope_scverse import bench, im, metrics

METRICS = ["pearson", "within_r", "mse", "normalized_pearson", "normalized_within_r", "seam_index"]


IMAGE_METHODS = {"image_linear", "image_gaussian_process", "image_mlp", "joint_mlp"}


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def values(df, method, metric, seed=None) -> np.ndarray:
    rows = df[(df["method"] == method) & (df["metric"] == metric)]
    return (rows if seed is None else rows[rows["seed"] == seed])["value"].to_numpy()


def test_the_table_is_tidy_and_has_every_method(task):
    low, truth, image = task
    before = low.copy()
    df = compare(low, truth, image, task="tiny")
    assert list(df) == ["task", "method", "seed", "gene", "metric", "value", "seconds"]
    assert list(df["method"].unique()) == [*bench.BASELINES, "soscope"]
    assert set(df["task"]) == {"tiny"}
    assert df["seed"].dtype == "Int64"
    assert set(df.loc[df["method"] == "soscope", "seed"]) == {0, 1}
    assert df.loc[df["method"] != "soscope", "seed"].isna().all()
    assert not df.duplicated(["task", "method", "seed", "gene", "metric"]).any()
    assert len(df) == (len(bench.BASELINES) + 2) * low.n_vars * len(METRICS)
    assert list(df["metric"].unique()) == METRICS
    assert list(df["gene"].unique()) == list(low.var_names)
    assert df["value"].notna().all()
    assert (df["seconds"] > 0).all()
    assert list(low.obsm) == list(before.obsm)
    assert list(low.uns) == list(before.uns)


def test_scores_of_baselines_are_those_of_the_metrics(task):
    low, truth, image = task
    df = compare(low, truth, image, methods=["linear", "image_linear"])
    im.features(low, image)
    for method in ("linear", "image_linear"):
        prediction = bench.BASELINES[method](low)
        seams = metrics.seam_index(prediction, truth.obsm["spatial"], truth.obs["spot"])
        np.testing.assert_array_equal(values(df, method, "seam_index"), seams)
        for metric in METRICS[:5]:
            extra = [truth.obs["spot"]] if metric.endswith("within_r") else []
            expected = getattr(metrics, metric)(prediction, truth.X, *extra)
            np.testing.assert_array_equal(values(df, method, metric), expected)


def test_without_a_image_the_image_methods_are_left_out(task):
    low, truth, _ = task
    with pytest.warns(UserWarning, match="positions alone"):
        df = compare(low, truth, seeds=[0])
    assert set(df["method"]) == set(bench.BASELINES) - IMAGE_METHODS | {"soscope"}


def test_features_that_are_there_are_used(task):
    low, truth, image = task
    expected = compare(low, truth, image, methods="image_linear")
    im.features(low, image)
    found = compare(low, truth, methods="image_linear")
    np.testing.assert_array_equal(found["value"], expected["value"])


def test_image_features_are_computed_once(task, monkeypatch):
    low, truth, image = task
    calls = []
    features = im.features
    monkeypatch.setattr(im, "features", lambda *args, **kwargs: calls.append(kwargs) or features(*args, **kwargs))
    methods = {"a": bench.BASELINES["image_linear"], "b": {}}
    compare(low, truth, image, methods=methods, enhance_kwargs={**FAST, "image_scale": 1.0})
    assert calls == [{"image_scale": 1.0}]


def mean_colour(tiles):
    return tiles.mean(axis=(1, 2))


def test_variants_are_dicts_and_functions(task):
    low, truth, image = task
    untested = {"image_strength": 1}  # so few spots are no evidence for an image
    methods = {
        "perfect": lambda adata: truth.X,
        "random": lambda adata, seed: np.random.default_rng(seed).random(truth.shape),
        "spread": bench.BASELINES["repeat"],
        "soscope": {"model_kwargs": untested},
        "wider": {"model_kwargs": untested | {"n_hidden": 8, "n_latent": 4}},
        "other encoder": {"model_kwargs": untested, "encoder": mean_colour},
        "no image": {"image": None},
    }
    with pytest.warns(UserWarning, match="positions alone"):
        df = compare(low, truth, image, methods=methods, seeds=[3, 4])
    assert list(df["method"].unique()) == list(methods)
    np.testing.assert_allclose(values(df, "perfect", "pearson"), 1)
    np.testing.assert_array_equal(values(df, "perfect", "mse"), 0)
    np.testing.assert_array_equal(values(df, "spread", "within_r"), 0)
    runs = df.groupby("method")["seed"].unique()
    assert all(list(runs[name]) == [3, 4] for name in ("random", "soscope", "wider", "other encoder", "no image"))
    scores = [tuple(values(df, name, "within_r", seed=3)) for name in list(methods)[3:]]
    assert len(set(scores)) == len(scores)
    assert (values(df, "random", "mse", seed=3) != values(df, "random", "mse", seed=4)).all()


def test_seeds_and_arguments_reach_soscope(task):
    low, truth, image = task
    df = compare(low, truth, image, methods=["soscope"], seeds=(5, 5, 6))
    first, again, other = df["value"].to_numpy().reshape(3, -1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    longer = compare(low, truth, image, methods=["soscope"], seeds=[5], enhance_kwargs={**FAST, "max_epochs": 4})
    assert (longer["value"].to_numpy() != first).any()


def test_methods_that_distinguish_sections_get_them(task):
    low, truth, _ = task
    low.obs["half"] = np.arange(low.n_obs) % 2
    asked = []

    def sectioned(adata, library_key=None):
        asked.append(library_key)
        return truth.X

    for kwargs in ({}, {"library_key": "half"}):
        compare(low, truth, methods={"a": sectioned, "repeat": bench.BASELINES["repeat"]}, enhance_kwargs=kwargs)
    assert asked == [None, "half"]


def test_a_run_that_diverges_is_nan_and_named(task):
    low, truth, _ = task

    def diverging(adata, seed):
        msg = "loss is NaN"
        raise FloatingPointError(msg)

    with pytest.warns(UserWarning, match="'bad' with seed 7 diverged.*loss is NaN"):
        df = compare(low, truth, methods={"bad": diverging, "good": bench.BASELINES["repeat"]}, seeds=[7])
    assert df.loc[df["method"] == "bad", "value"].isna().all()
    assert df.loc[df["method"] == "good", "value"].notna().all()


def test_the_merged_section_of_the_simulation_can_be_compared():
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(6), np.arange(6)))
    obs = pd.DataFrame({"array_row": y, "array_col": x}, index=[f"s{i}" for i in range(36)])
    adata = AnnData(csr_matrix(np.column_stack([x, y]) + 1), obs=obs)
    adata.obsm["spatial"] = np.column_stack([x, y]).astype(float)
    low, truth = bench.simulate_low_resolution(adata)
    df = compare(low, truth, methods=["repeat", "linear"])
    assert len(df) == 2 * 2 * len(METRICS)
    assert (values(df, "linear", "pearson") > values(df, "repeat", "pearson")).all()
    assert np.isinf(values(df, "repeat", "seam_index")).all()
    assert np.isfinite(values(df, "linear", "seam_index")).all()


def test_progress_is_shown_on_demand_where_it_is_readable(task, capfd, monkeypatch):
    low, truth, _ = task
    compare(low, truth, methods="repeat", task="quiet")
    bench.compare(low, truth, methods="repeat", task="in a file")
    monkeypatch.setattr("soscope_scverse._progress.bars_are_readable", lambda: True)
    compare(low, truth, methods="repeat", task="quiet")
    bench.compare(low, truth, methods="repeat", task="loud")
    shown = capfd.readouterr().err
    assert "loud" in shown
    assert "quiet" not in shown
    assert "in a file" not in shown


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (None, {"methods": ["magic"]}, r"out of \['repeat'.*'soscope'\], found \['magic'\]"),
        (None, {"methods": {"a": 3}}, r"functions or dicts .*found \{'a': 3\}"),
        (None, {"methods": []}, r"something to run, found methods \[\]"),
        (None, {"methods": ["image_mlp"]}, "something to run"),
        (None, {"methods": {"flat": lambda adata: np.ones(3)}}, r"'flat' to return .*\(420, 8\), found shape \(3,\)"),
        (lambda low, truth: (low[:, :3], truth), {}, "same features .*found 3 and 8, 3 of them"),
        (lambda low, truth: (low, truth[::-1]), {}, "spot by spot.*420 rows of other spots or order"),
        (lambda low, truth: (low, truth[:10]), {}, "each of the 420 subspots.*found 10 rows"),
        (lambda low, truth: (low, without(truth, "obs", "spot")), {}, r"no `truth.obs\['spot'\]`"),
        (lambda low, truth: (without(low, "obsm", "subspots"), truth), {}, r"no \['subspots'\]. Run `pp.subspots`"),
    ],
)
def test_what_does_not_fit_is_named(task, change, kwargs, message):
    low, truth, _ = task
    if change is not None:
        low, truth = change(low, truth)
    with pytest.raises(ValueError, match=message):
        compare(low, truth, **kwargs)


def without(adata, slot, key):
    adata = adata.copy()
    del getattr(adata, slot)[key]
    return adata
