"""Correlations between omics against numpy."""

import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from soscope_scverse import tl
from soscope_scverse._containers.mudata import columns_apart


def both(n, seed) -> md.MuData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(index=[f"s{i}" for i in range(n)])
    rna = AnnData(rng.random((n, 3)), obs=obs, var=pd.DataFrame(index=["A", "B", "C"]))
    prot = AnnData(csr_matrix(rng.random((n, 2))), obs=obs, var=pd.DataFrame(index=["a", "b"]))
    with columns_apart():
        return md.MuData({"rna": rna, "prot": prot})


PAIRS = {"A": "a", "C": "b"}


def test_pairs_are_correlated_before_and_after():
    before, after = both(20, 0), both(60, 1)
    table = tl.omics_correlation(before, after, PAIRS)
    assert table[["first", "second"]].to_numpy().tolist() == [["A", "a"], ["C", "b"]]
    for name, data in (("before", before), ("after", after)):
        x, y = data["rna"].X[:, [0, 2]], data["prot"].X.toarray()
        np.testing.assert_allclose(table[name], [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in (0, 1)])


def test_modalities_can_be_named_and_pairs_repeat_features():
    data = both(20, 0)
    turned = tl.omics_correlation(data, data, [("a", "A"), ("b", "A")], modalities=("prot", "rna"))
    x = data["rna"].X[:, 0]
    np.testing.assert_allclose(turned["after"], [np.corrcoef(x, y)[0, 1] for y in data["prot"].X.toarray().T])


def test_anndata_hold_the_features_of_both():
    data = both(20, 0)
    x = np.column_stack([data["rna"].X, data["prot"].X.toarray()])
    adata = AnnData(x, var=pd.DataFrame(index=[*"ABCab"]))
    pd.testing.assert_frame_equal(tl.omics_correlation(adata, data, PAIRS), tl.omics_correlation(data, adata, PAIRS))


def unknown(data) -> md.MuData:
    x = data["rna"].X.copy()
    x[2, 0] = np.nan
    rna = AnnData(x, obs=data["rna"].obs, var=data["rna"].var)
    with columns_apart():
        return md.MuData({"rna": rna, "prot": data["prot"].copy()})


def apart(data) -> md.MuData:
    with columns_apart():
        return md.MuData({"rna": data["rna"].copy(), "prot": data["prot"][::-1].copy()})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: tl.omics_correlation(d, d, {}), ValueError, "`pairs` of features, as"),
        (lambda d: tl.omics_correlation(d, d, None), ValueError, "`pairs` of features, as"),
        (lambda d: tl.omics_correlation(d, unknown(d), PAIRS), ValueError, "profiles in `after`, found 1 NaN"),
        (lambda d: tl.omics_correlation(d, d, ["A"]), ValueError, r"found \['A'\]"),
        (lambda d: tl.omics_correlation(d, d, {"A": "z"}), ValueError, "in `before.var_names`"),
        (lambda d: tl.omics_correlation(d, d, PAIRS, modalities=("rna", "x")), ValueError, r"two of \['rna', 'prot'\]"),
        (lambda d: tl.omics_correlation(d["rna"], d, PAIRS, modalities=("a", "b")), ValueError, "with MuData only"),
        (
            lambda d: tl.omics_correlation(d, apart(d), PAIRS),
            ValueError,
            "same observations in the same order.*`after`",
        ),
        (lambda d: tl.omics_correlation(d, None, PAIRS), TypeError, "AnnData or a MuData"),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(both(20, 0))
