"""Biological variability of genes whose variability is known."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from soscope_scverse import tl


@pytest.fixture
def adata() -> AnnData:
    """200 genes of Poisson counts; the first 20 have a pattern of their own."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.uniform(np.log(0.2), np.log(20), 200))
    pattern = np.ones((500, 200))
    pattern[:, :20] = np.where(rng.random((500, 20)) < 0.5, 0.2, 1.8)
    counts = rng.poisson(mean * pattern * rng.gamma(20, 1 / 20, (500, 1)))
    return AnnData(csr_matrix(counts.astype(np.int32)), var=pd.DataFrame(index=[f"g{i}" for i in range(200)]))


def test_genes_with_a_pattern_vary_more_than_others_of_their_mean(adata):
    table = tl.gene_variability(adata)
    assert table.index.equals(adata.var_names)
    np.testing.assert_allclose(table["variability"], table["variance"] - table["trend"])
    abundant = table[table["mean"] > np.log(3)]
    patterned = abundant.index.isin(adata.var_names[:20])
    assert abundant["variability"][patterned].min() > abundant["variability"][~patterned].max()
    assert set(abundant["variability_group"][patterned]) == {"high"}
    assert abs(table["variability"][20:].median()) < 0.05


def test_means_and_variances_are_of_log_counts_per_median_library_size(adata):
    x = adata.X.toarray()
    total = x.sum(axis=1, keepdims=True)
    log_counts = np.log1p(x / total * np.median(total))
    table = tl.gene_variability(adata)
    np.testing.assert_allclose(table["mean"], log_counts.mean(axis=0))
    np.testing.assert_allclose(table["variance"], log_counts.var(axis=0), atol=1e-12)
    np.testing.assert_array_equal(table["abundance"], x.sum(axis=0))


def test_groups_are_of_equal_size_and_ordered(adata):
    table = tl.gene_variability(adata, labels=["a", "b", "c", "d"])
    for column in ("variability", "abundance"):
        assert table[f"{column}_group"].value_counts().to_dict() == dict.fromkeys("abcd", 50)
        by_group = table.groupby(f"{column}_group", observed=True)[column]
        assert (by_group.max().to_numpy()[:-1] <= by_group.min().to_numpy()[1:]).all()


def test_nothing_depends_on_the_order_of_the_genes_nor_on_storage(adata):
    table = tl.gene_variability(adata)
    turned = adata[:, ::-1].copy()
    turned.layers["counts"], turned.X = turned.X.toarray(), None
    again = tl.gene_variability(turned, layer="counts").loc[table.index]
    pd.testing.assert_frame_equal(again, table)


def test_genes_and_spots_without_counts_have_no_variability(adata):
    x = adata.X.toarray()
    x[:, 5], x[7] = 0, 0
    table = tl.gene_variability(AnnData(x, var=adata.var))
    assert table.iloc[5][["mean", "variance", "trend", "variability", "abundance"]].tolist() == [0] * 5
    assert np.isfinite(table["variability"]).all()


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        (lambda a: a[:, :9].copy(), {}, ValueError, "at least 10 genes with counts, found 9.*pass all of them"),
        (lambda a: a[:, :12].copy(), {"labels": [*map(str, range(13))]}, ValueError, "at least 13 genes"),
        (lambda a: a, {"labels": None}, ValueError, "two different names, found None"),
        (lambda a: a, {"labels": "high"}, ValueError, "two different names, found 'high'"),
        (lambda a: a, {"labels": ["a", "a"]}, ValueError, "two different names"),
        (lambda a: AnnData(a.X / 2), {}, ValueError, "raw counts"),
        (lambda a: a, {"layer": "raw"}, ValueError, "`layer` to be one of"),
        (lambda a: a.X, {}, TypeError, "Expected an AnnData"),
    ],
)
def test_what_does_not_fit_is_named(adata, change, kwargs, error, message):
    with pytest.raises(error, match=message):
        tl.gene_variability(change(adata), **kwargs)
