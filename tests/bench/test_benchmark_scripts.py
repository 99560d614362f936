"""The scripts in benchmarks/: what they keep, skip and report, and that their settings still exist."""

import inspect
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soscope_scverse import SoScope, bench, datasets, im, metrics, pp, tl
from soscope_scverse._validators import check_arguments
from soscope_scverse.model._soscope import MODEL_RULES
from soscope_scverse.model.training.runner import TRAIN_RULES

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import ablations
import library_sizes
import quality
import quality_report


@pytest.mark.parametrize("name", ablations.SETTINGS)
def test_every_ablation_is_of_a_default_that_exists(name):
    setting = ablations.SETTINGS[name]
    functions = (tl.enhance, setting.enhance), (SoScope, setting.model), (im.features, setting.features or {})
    for function, arguments in (*functions, (pp.spot_graph, setting.graph)):
        assert set(arguments) <= set(inspect.signature(function).parameters)
    for rules, arguments in ((MODEL_RULES, setting.model), (TRAIN_RULES, setting.train)):
        check_arguments(dict(arguments), {key: rule for key, rule in rules.items() if key in arguments})
    for room, constant, value in setting.patches:
        assert not np.array_equal(getattr(room, constant), value)
    defaults = inspect.signature(SoScope).parameters
    assert all(defaults[key].default != value for key, value in setting.model.items() if "304" not in name)


DEFAULT = quality.Panel()


@pytest.fixture(scope="module")
def with_image():
    """A task of few spots with an image."""
    low, image, truth = datasets.synthetic_section(30, n_genes=8)
    pp.subspots(low)
    im.features(low, image)
    return quality.Task(low, truth, image)


@pytest.mark.slow
@pytest.mark.parametrize("name", ablations.SETTINGS)
@pytest.mark.filterwarnings("ignore")
def test_every_ablation_runs(name, with_image, monkeypatch):
    monkeypatch.setattr(ablations, "N_SAMPLES", 3)
    setting = ablations.SETTINGS[name]
    brief = {"accelerator": "cpu", "max_steps": 2, "pretrain_epochs": 1}
    found = ablations.run(with_image, setting._replace(train={**brief, **setting.train, "max_steps": 2}), seed=0)
    assert list(found) == ["pearson", "within_r", "coverage", "cpu_seconds"]
    assert np.isfinite(list(found.values())).all()


def tiny(n_genes=60, chosen_on="truth"):
    """A task of few spots without an image, with as many genes as asked for, up to 8."""
    low, _, truth = datasets.synthetic_section(20, n_genes=8)
    pp.subspots(low)
    genes = pp.spatial_genes(truth if chosen_on == "truth" else low, min(n_genes, 8))
    return quality.chosen(low, truth, None, genes)


@pytest.fixture
def scores(tmp_path, monkeypatch):
    """A table of two baselines on a tiny task, and how to add to it."""
    monkeypatch.setitem(quality.TASKS, "tiny", tiny)
    path = tmp_path / "scores.csv"

    def run(*methods, seeds=(0,), panel=DEFAULT):
        known = quality.read_scores(path)
        done = set(known[["task", "n_genes", "chosen_on", "method", "seed"]].itertuples(index=False, name=None))
        args = Namespace(methods=list(methods), seeds=list(seeds), max_epochs=1)
        tables = list(quality.runs("tiny", panel, args, done))
        for table in tables:
            table.to_csv(path, mode="a", header=not path.exists(), index=False)
        return len(tables)

    return path, run


def test_runs_are_kept_and_not_repeated(scores):
    path, run = scores
    assert run("repeat", "linear") == 2
    assert run("repeat", "linear", "kriging_image", "image_mlp") == 1  # there is no image
    assert run("repeat", panel=quality.Panel(500)) == 1
    assert run("repeat", panel=quality.Panel(60, "spots")) == 1
    assert run("repeat", "linear", seeds=[0, 1]) == 0
    table = quality.read_scores(path)
    assert list(table) == list(quality.COLUMNS)
    task = tiny()
    found = table[(table["method"] == "linear") & (table["metric"] == "within_r")]["value"].item()
    expected = metrics.within_r(bench.BASELINES["linear"](task.low), task.truth.X, task.truth.obs["spot"])
    assert found == pytest.approx(np.median(expected))
    text = quality_report.report(table)
    assert "| linear | " in text
    assert "mean of 1 tasks" in text


def row(task, method, seed, panel=(60, "truth"), **values):
    """Scores of a run."""
    shared = {"task": task, "method": method, "seed": seed, "n_genes": panel[0], "chosen_on": panel[1]}
    costs = {"seconds": 1.0, "peak_mb": 2.0, "n_scored": 60, "n_spots": 4, "n_targets": 16}
    made = {"measured_on": "2026-01-01", "packages": "torch==2.0"}
    values = dict.fromkeys(quality_report.PLAIN, 0.5) | values
    return pd.DataFrame([{**shared, "metric": name, "value": value, **costs, **made} for name, value in values.items()])


def test_the_report_compares_with_the_best_baseline_and_shows_the_spread():
    table = pd.concat(
        [
            row("MOB1", "linear", -1, pearson=0.7, within_r=0.2, mse=0.02),
            row("MOB1", "kriging_image", -1, pearson=0.6, within_r=0.4, mse=0.04),
            row("MOB1", "soscope", 0, pearson=0.79, within_r=0.6, mse=0.03),
            row("MOB1", "soscope", 1, pearson=0.81, within_r=0.6, mse=0.03),
            row("MOB1", "linear", -1, (60, "spots"), pearson=0.6, within_r=0.1, normalized_within_r=0.4),
        ]
    )
    text = quality_report.report(table)
    summary = text[text.index("## Summary") : text.index("## Published")]
    compared = "| MOB1 | +0.100 (linear) | 1.50 (kriging_image) | 1.00 (linear) | 1.50 (linear) | +0.000 (linear) |"
    assert compared in summary
    assert "- `mse`: better than every baseline on 0 of 1; not better on MOB1." in summary
    assert "| soscope | 0.800 ± 0.014 | 0.600 ± 0.000 |" in text
    assert "| linear | 0.700 | 0.200 |" in text
    assert "mean of 1 tasks: -0.100 / -0.300 / -0.100" in text
    assert "| mouse olfactory bulb 1 | 4 | .700 / .400 | **.800** / **.600** |  |" in quality_report.readme_table(table)
    assert text.index("`within_r`: Pearson's r after subtracting") < text.index("| MOB1")


def test_a_run_that_diverged_is_nan_in_the_report():
    table = pd.concat([row("MOB1", "soscope", 0, pearson=np.nan), row("MOB1", "soscope", 1)])
    assert "| soscope | nan |" in quality_report.report(table)


def test_profiles_are_scaled_to_library_sizes():
    profiles = np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]])
    expected = [[2, 6], [0, 0], [0.5, 0.5]]
    np.testing.assert_allclose(library_sizes.with_library_sizes(profiles, np.array([8.0, 5.0, 1.0])), expected)
