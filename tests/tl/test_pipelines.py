"""The result goes on through scanpy, squidpy and muon as any other section does."""

import mudata as md
import numpy as np
import pytest
import scanpy as sc
import squidpy as sq

from helpers import QUICK, clustered
from soscope_scverse import datasets, tl

pytest.importorskip("igraph")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _enhanced():
    adata, image, _ = datasets.synthetic_section(100, n_genes=12)
    return tl.enhance(adata, image=image, n_samples=5, **QUICK)


@pytest.fixture
def enhanced(_enhanced):
    return _enhanced.copy()


def test_counts_stay_beside_what_scanpy_makes_of_the_profiles(enhanced):
    profiles, counts = enhanced.X.copy(), enhanced.layers["sampled_counts"].copy()
    enhanced.layers["enhanced"] = enhanced.X.copy()
    clustered(enhanced)
    np.testing.assert_array_equal(enhanced.layers["sampled_counts"], counts)
    np.testing.assert_array_equal(enhanced.layers["enhanced"], profiles)
    np.testing.assert_allclose(np.expm1(enhanced.X).sum(axis=1), 1e4, rtol=1e-3)
    assert (counts == counts.round()).all()


def test_scanpy_and_squidpy(enhanced, tmp_path):
    clustered(enhanced, n_neighbors=15 * 7)
    assert enhanced.obs["leiden"].nunique() > 1
    sc.tl.rank_genes_groups(enhanced, "leiden")
    assert set(enhanced.uns["rank_genes_groups"]["names"][0]) <= set(enhanced.var_names)
    sq.gr.spatial_neighbors_knn(enhanced, n_neighs=6)
    neighbours = np.diff(enhanced.obsp["spatial_connectivities"].indptr)
    assert np.median(neighbours) == 6
    sq.gr.spatial_autocorr(enhanced, mode="moran", n_perms=None)
    assert enhanced.uns["moranI"]["I"].notna().all()
    sq.gr.nhood_enrichment(enhanced, "leiden", n_perms=100, seed=0, show_progress_bar=False)
    zscore = enhanced.uns["leiden_nhood_enrichment"]["zscore"]
    assert np.diag(zscore).min() > 0  # a subspot lies among its like
    enhanced.write_h5ad(tmp_path / "a.h5ad")
    enhanced.write_zarr(tmp_path / "a.zarr")


def test_between_the_steps(section):
    expected = tl.enhance(section.adata, image=section.image, **QUICK)
    adata = section.adata
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.astype(np.float32)
    clustered(adata)
    enhanced = tl.enhance(adata, image=section.image, layer="counts", **QUICK)
    np.testing.assert_array_equal(enhanced.X, expected.X)
    # what is known of the spots goes to their subspots by name
    enhanced.obs["of_spot"] = adata.obs["leiden"].loc[enhanced.obs["spot"]].to_numpy()
    assert (enhanced.obs.groupby("spot", observed=True)["of_spot"].nunique() == 1).all()


def test_highly_variable_genes_are_the_default(section):
    adata = section.adata
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=4)
    enhanced = tl.enhance(adata, sources="positions", layer="counts", **QUICK)
    assert enhanced.var_names.tolist() == adata.var_names[adata.var["highly_variable"]].tolist()
    assert enhanced.n_vars == 4


def test_mudata_and_muon(section, tmp_path):
    mu = pytest.importorskip("muon")
    rna, prot = section.adata[:, :5].copy(), section.adata[5:, 5:].copy()
    mdata = md.MuData({"rna": rna, "prot": prot})
    mu.pp.intersect_obs(mdata)
    enhanced = tl.enhance(mdata, image=section.image, likelihood={"rna": "nb", "prot": "poisson"}, **QUICK)
    for part in enhanced.mod.values():
        part.layers["enhanced"] = part.X.copy()
        clustered(part, n_comps=2)
    mu.pp.intersect_obs(enhanced)
    assert enhanced.n_obs == 7 * 55
    enhanced.write_h5mu(tmp_path / "a.h5mu")
    again = md.read_h5mu(tmp_path / "a.h5mu")
    np.testing.assert_array_equal(again["rna"].layers["enhanced"], enhanced["rna"].layers["enhanced"])
