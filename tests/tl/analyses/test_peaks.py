"""Activities of genes from peaks made by hand."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from soscope_scverse import tl

PEAKS = ["chr1:0-999", "chr1:5000-5999", "chr1-9000-9999", "chr2_5000_5999"]
GENES = pd.DataFrame(
    {
        "chrom": ["chr1", "chr1", "chr2", "chr3"],
        "start": [5500, 7000, 0, 0],
        "end": [6500, 8500, 5000, 9000],
        "strand": ["+", "-", "+", "+"],
    },
    index=["plus", "minus", "before", "elsewhere"],
)


@pytest.fixture
def adata() -> AnnData:
    x = csr_matrix(np.random.default_rng(0).poisson(3, (30, 4)))
    adata = AnnData(x, obs=pd.DataFrame({"spot": "s"}, index=[f"o{i}" for i in range(30)]))
    adata.var_names = PEAKS
    adata.obsm["spatial"] = np.random.default_rng(1).random((30, 2))
    return adata


def test_peaks_of_a_gene_are_summed_and_scaled(adata):
    found = tl.gene_activity(adata, {"A": PEAKS[:2], "B": PEAKS[3], "none": []})
    x = adata.X.toarray()
    sums = np.column_stack([x[:, 0] + x[:, 1], x[:, 3]])
    assert found.var_names.tolist() == ["A", "B"]
    assert found.var["n_peaks"].tolist() == [2, 1]
    np.testing.assert_array_equal(found.layers["counts"].toarray(), sums)
    unit = (sums - sums.min(axis=0)) / np.ptp(sums, axis=0)
    np.testing.assert_allclose(found.X, np.log(10 * unit + 1))
    np.testing.assert_allclose(tl.gene_activity(adata, {"B": [PEAKS[3]]}, repressive=True).X, -found.X[:, 1:])
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert found.obs["spot"].tolist() == ["s"] * 30


def test_peaks_are_those_of_the_body_and_upstream_on_the_strand(adata):
    found = tl.gene_activity(adata, GENES, upstream=1000)
    assert found.var["n_peaks"].to_dict() == {"plus": 1, "minus": 1}
    x = adata.X.toarray()
    np.testing.assert_array_equal(found.layers["counts"].toarray(), x[:, [1, 2]])
    body = tl.gene_activity(adata, GENES, upstream=0)
    assert body.var["n_peaks"].to_dict() == {"plus": 1}
    far = tl.gene_activity(adata, GENES.drop(columns="strand"), upstream=4600)
    assert far.var["n_peaks"].to_dict() == {"plus": 3, "minus": 2, "before": 1}


def test_activities_depend_on_neither_scale_nor_level(adata):
    other = adata.copy()
    other.X = 3 * adata.X.toarray() + 2.0
    genes = {"A": PEAKS[:2], "B": PEAKS[3]}
    np.testing.assert_allclose(tl.gene_activity(other, genes).X, tl.gene_activity(adata, genes).X, atol=1e-12)
    other.X = np.full(adata.shape, 0.1)
    assert not tl.gene_activity(other, genes).X.any()


@pytest.mark.parametrize(
    ("genes", "kwargs", "error", "message"),
    [
        (["A"], {}, TypeError, "dict of peaks by gene or a table"),
        ({}, {}, TypeError, "dict of peaks by gene or a table"),
        ({"A": ["chr9:1-2"]}, {}, ValueError, "in `adata.var_names`"),
        ({"A": None}, {}, ValueError, "at least one of the 1 genes"),
        ({"A": []}, {}, ValueError, "at least one of the 1 genes.*of one genome"),
        (GENES.assign(chrom="1"), {}, ValueError, "chromosomes of the same names"),
        (GENES.drop(columns="end"), {}, ValueError, r"found no \['end'\]"),
        (GENES.rename(index={"plus": "minus"}), {}, ValueError, "occur more than once"),
        (GENES.assign(end=0), {}, ValueError, "start <= end, found 2 others"),
        (GENES.assign(start="x"), {}, TypeError, "real numbers"),
        (GENES, {"upstream": -1}, ValueError, "`upstream` to be at least 0"),
        (GENES, {"repressive": "yes"}, ValueError, "`repressive` to be one of"),
    ],
)
def test_what_does_not_fit_is_named(adata, genes, kwargs, error, message):
    with pytest.raises(error, match=message):
        tl.gene_activity(adata, genes, **kwargs)


def test_unknown_counts_are_no_activity(adata):
    """One NaN would be the scale of the whole gene."""
    adata.X = adata.X.toarray().astype(float)
    adata.X[3, 0] = np.nan
    with pytest.raises(ValueError, match="finite profiles in `adata`, found 1 NaN"):
        tl.gene_activity(adata, {"A": PEAKS[0]})


def test_peaks_of_other_names_need_a_dict(adata):
    adata.var_names = ["peak1", *PEAKS[1:]]
    with pytest.raises(ValueError, match=r"found 1 others .first: 'peak1'.*a dict of peaks by gene"):
        tl.gene_activity(adata, GENES)
    assert tl.gene_activity(adata, {"A": "peak1"}).n_vars == 1
