"""Medians over genes and their spread over the seeds."""

import numpy as np
import pandas as pd
import pytest

from soscope_scverse import bench


def rows(method, seed, metric, values, task="A"):
    names = [f"g{i}" for i in range(len(values))]
    columns = {"task": task, "method": method, "seed": seed, "metric": metric}
    return pd.DataFrame({"gene": names, "value": values, **columns}).astype({"seed": "Int64"})


def test_medians_over_genes_are_averaged_over_seeds_with_their_standard_deviation():
    table = pd.concat(
        [
            rows("model", 0, "pearson", [1, 2, 9, np.nan]),
            rows("model", 1, "pearson", [5, 6, 7]),
            rows("model", 0, "mse", [1.0]),
            rows("model", 1, "mse", [np.nan]),  # diverged
            rows("linear", None, "pearson", [3, 1, 2]),
            rows("linear", None, "pearson", [4.0], task="B"),
        ]
    )
    found = bench.summary(table)
    assert list(found) == ["task", "method", "metric", "value", "spread", "n_runs"]
    keys = [("A", "model", "pearson"), ("A", "model", "mse"), ("A", "linear", "pearson"), ("B", "linear", "pearson")]
    assert list(found[["task", "method", "metric"]].itertuples(index=False, name=None)) == keys
    np.testing.assert_array_equal(found["value"], [4, np.nan, 2, 4])
    np.testing.assert_allclose(found["spread"], [np.std([2, 6], ddof=1), np.nan, np.nan, np.nan])
    assert list(found["n_runs"]) == [2, 2, 1, 1]


def test_what_is_no_table_of_scores_is_named():
    with pytest.raises(TypeError, match=r"returned by `bench\.compare`, found list"):
        bench.summary([])
    with pytest.raises(ValueError, match=r"without \['seed'\]"):
        bench.summary(rows("a", 0, "mse", [1.0]).drop(columns="seed"))
