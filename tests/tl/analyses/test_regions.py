"""Signal outside of the regions of markers, and patterns over regions, by closed forms."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from soscope_scverse import tl

REGIONS = ["a", "a", "a", "b", "b", "c"]
MARKERS = {"a": ["g0"], "b": "g1"}


def section(x, regions=REGIONS, names=None) -> AnnData:
    x = np.asarray(x, dtype=float)
    var = pd.DataFrame(index=names or [f"g{i}" for i in range(x.shape[1])])
    return AnnData(x, obs=pd.DataFrame({"region": regions}, index=[f"s{i}" for i in range(len(x))]), var=var)


def unknown(adata: AnnData) -> AnnData:
    x = adata.X.copy()
    x[1, 0] = np.nan
    return section(x)


@pytest.fixture
def spots() -> AnnData:
    """g0: 6 inside of a, 2 outside; g1: 1 inside of b, 3 outside; g2: everywhere the same."""
    return section(np.column_stack([[5, 6, 7, 2, 2, 2], [4, 4, 2, 1, 1, 2], np.full(6, 4)]))


def test_shares_are_of_mean_signals(spots):
    after = section(np.column_stack([[1, 1, 1, 0, 0, 0], [0, 0, 0, 5, 3, 1], np.zeros(6)]))
    table = tl.signal_outside(spots, after, {"a": ["g0", "g2"], "b": "g1"}, "region")
    assert table[["gene", "region"]].to_numpy().tolist() == [["g0", "a"], ["g2", "a"], ["g1", "b"]]
    np.testing.assert_allclose(table["before"], [2 / 8, 0.5, 3 / 4])
    np.testing.assert_allclose(table["after"], [0, np.nan, 0.25 / 4.25])


def test_shares_depend_on_neither_scale_nor_number_of_observations(spots):
    expected = tl.signal_outside(spots, spots, MARKERS, "region")["before"]
    doubled = section(np.repeat(3 * spots.X, 2, axis=0), np.repeat(REGIONS, 2))
    doubled.layers["raw"], doubled.X = doubled.X, None
    table = tl.signal_outside(doubled, spots, MARKERS, "region", layer="raw")
    np.testing.assert_allclose(table["before"], expected)
    np.testing.assert_allclose(table["after"], expected)


def test_patterns_are_scaled_means_of_the_shared_regions(spots):
    other = section([[10, 1], [20, 1], [30, 1]], ["b", "a", "d"], names=["G0", "G2"])
    table = tl.marker_patterns(spots, other, {"g0": "G0", "g2": "G2"}, "region")
    assert table[["feature", "region"]].to_numpy().tolist() == [["g0", "a"], ["g0", "b"], ["g2", "a"], ["g2", "b"]]
    np.testing.assert_array_equal(table["first"], [1, 0, np.nan, np.nan])
    np.testing.assert_array_equal(table["second"], [1, 0, np.nan, np.nan])
    np.testing.assert_allclose(table["r"], [1, 1, np.nan, np.nan])


def test_r_of_patterns_is_that_of_the_means_of_the_regions(spots):
    other = spots.copy()
    other.X = spots.X[:, [1, 0, 2]] * 7 + 1
    table = tl.marker_patterns(spots, other, ["g0"], "region")
    expected = np.corrcoef([6, 2, 2], [10 / 3, 1, 2])[0, 1]
    np.testing.assert_allclose(table["r"], expected)
    assert (tl.marker_patterns(spots, other, "g0", "region")["r"] == table["r"]).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: tl.signal_outside(a, a, ["g0"], "region"), TypeError, r"dict of genes by region.*found \['g0'\]"),
        (lambda a: tl.signal_outside(a, a, {}, "region"), TypeError, "dict of genes by region"),
        (lambda a: tl.signal_outside(a, a, {"z": ["g0"]}, "region"), ValueError, r"\['a', 'b', 'c'\], found .*'z'"),
        (lambda a: tl.signal_outside(a, a, {"a": ["g9"]}, "region"), ValueError, "in `before.var_names`"),
        (lambda a: tl.signal_outside(a, a, MARKERS, "layer"), ValueError, "`region_key` to be a column"),
        (lambda a: tl.signal_outside(a, a[:3], MARKERS, "region"), ValueError, "two regions in `after.obs"),
        (lambda a: tl.signal_outside(a, unknown(a), MARKERS, "region"), ValueError, "profiles in `after`, found 1 NaN"),
        (lambda a: tl.marker_patterns(unknown(a), a, ["g0"], "region"), ValueError, "profiles in `first`, found 1 NaN"),
        (lambda a: tl.signal_outside(a, section(-a.X), MARKERS, "region"), ValueError, "in `after`, found 12 negative"),
        (lambda a: tl.signal_outside(a, without_regions(a), MARKERS, "region"), ValueError, "loc.enhanced.obs.'spot'"),
        (lambda a: tl.signal_outside(a.X, a, MARKERS, "region"), TypeError, "Expected an AnnData"),
        (lambda a: tl.marker_patterns(a, a[5:], "g0", "region"), ValueError, r"found \['c'\] of \['a', 'b', 'c'\]"),
        (lambda a: tl.marker_patterns(a, a, {"g0": "G0"}, "region"), ValueError, "in `second.var_names`"),
        (lambda a: tl.marker_patterns(a, a, [], "region"), ValueError, "at least one gene"),
        (lambda a: tl.marker_patterns(a, a, "g0", None), ValueError, "`region_key` to be a column"),
    ],
)
def test_what_does_not_fit_is_named(spots, call, error, message):
    with pytest.raises(error, match=message):
        call(spots)


def without_regions(adata) -> AnnData:
    adata = adata.copy()
    del adata.obs["region"]
    adata.obs["spot"] = adata.obs_names
    return adata
