"""Domains of subspots: their number is chosen by the spots, and nothing is asked of the user."""

import anndata as ad
import mudata as md
import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from soscope_scverse import datasets, pl, tl
from soscope_scverse._containers.mudata import columns_apart
from soscope_scverse.tl._domains import _smoothed


@pytest.fixture(scope="module")
def known():
    """Subspots of a section as if they were known but for the noise of their counts."""
    truth = datasets.synthetic_section(150, seed=3).truth
    truth.X = truth.layers["mean"].copy()
    return truth


@pytest.fixture
def subspots(known):
    return known.copy()


def test_the_regions_of_a_section_are_found(subspots):
    assert tl.domains(subspots) is None
    found = subspots.obs["domain"]
    assert found.cat.categories.tolist() == ["0", "1", "2", "3"]
    assert found.value_counts().is_monotonic_decreasing
    assert adjusted_rand_score(subspots.obs["region"], found) > 0.9
    chosen = subspots.uns["domain"]
    assert chosen["n_domains"].tolist() == list(range(2, 16))
    assert chosen["n_domains"][chosen["silhouette"].argmax()] == 4


def test_the_number_does_not_grow_with_the_subspots(subspots):
    """Every subspot in three parts is no new observation."""
    again = ad.concat(dict.fromkeys("abc", subspots), index_unique="_")
    again.X /= 3
    again.obsm["spatial"] += np.random.default_rng(0).normal(0, 0.1, again.obsm["spatial"].shape)
    tl.domains(again)
    assert again.obs["domain"].nunique() == 4


def test_a_number_is_taken_as_it_is_given(subspots):
    other = tl.domains(subspots, 6, key_added="six", copy=True)
    assert "six" not in subspots.obs
    assert other.obs["six"].nunique() == 6
    assert other.uns["six"]["n_domains"].tolist() == [6]
    assert set(tl.domains(subspots, 1, copy=True).obs["domain"]) == {"0"}


def test_one_seed_gives_one_result_in_any_order(subspots):
    tl.domains(subspots, 4)
    mixed = subspots[np.random.default_rng(0).permutation(subspots.n_obs)].copy()
    tl.domains(mixed, 4)
    assert adjusted_rand_score(mixed.obs["domain"], subspots.obs["domain"].loc[mixed.obs_names]) > 0.99
    again = tl.domains(subspots, 4, copy=True)
    assert again.obs["domain"].equals(subspots.obs["domain"])


def test_neighbours_decide_where_profiles_do_not():
    """Of five in a row, one in doubt is of the domain of its neighbours, and one without doubt is not."""
    i = np.arange(5)
    neighbors = sparse.csr_matrix((abs(i[:, None] - i) == 1) / np.array([1, 2, 2, 2, 1])[:, None])
    doubt = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.9, 0.1]])
    assert _smoothed(doubt, neighbors).tolist() == [0, 0, 0, 0, 0]
    doubt[2] = [1e-9, 1 - 1e-9]
    assert _smoothed(doubt, neighbors).tolist() == [0, 0, 1, 0, 0]


def test_profiles_that_were_transformed_are_taken_as_they_are(subspots):
    import scanpy as sc

    subspots.layers["expected"] = subspots.X.copy()
    tl.domains(subspots, 4, key_added="before")
    sc.pp.normalize_total(subspots)
    sc.pp.log1p(subspots)
    tl.domains(subspots, 4, key_added="after")
    tl.domains(subspots, 4, layer="expected", key_added="again")
    assert subspots.obs["before"].tolist() == subspots.obs["again"].tolist()
    assert adjusted_rand_score(subspots.obs["before"], subspots.obs["after"]) > 0.9


def test_scanpy_and_squidpy_run_on(enhanced):
    import scanpy as sc
    import squidpy as sq

    enhanced = enhanced.copy()
    tl.domains(enhanced, 3)
    sc.pp.normalize_total(enhanced)
    sc.pp.log1p(enhanced)
    sc.tl.rank_genes_groups(enhanced, "domain")
    sc.pp.neighbors(enhanced, use_rep="X_soscope")
    sq.gr.spatial_neighbors_knn(enhanced, n_neighs=6)
    sq.gr.nhood_enrichment(enhanced, "domain", show_progress_bar=False)
    assert enhanced.uns["domain_nhood_enrichment"]["zscore"].shape == (3, 3)


@pytest.mark.usefixtures("closed_figures")
def test_domains_are_drawn(enhanced):
    enhanced = enhanced.copy()
    tl.domains(enhanced, 3)
    axes = pl.spatial_clusters(enhanced, "domain")
    assert len(axes[0].get_legend().get_texts()) == 3


def test_representations_may_be_sparse_or_constant(subspots):
    subspots.obsm["X_mine"] = np.where(subspots.X > 5, subspots.X, 0)
    expected = tl.domains(subspots, 4, use_rep="X_mine", copy=True).obs["domain"]
    subspots.obsm["X_sparse"] = sparse.csr_matrix(subspots.obsm["X_mine"])
    assert tl.domains(subspots, 4, use_rep="X_sparse", copy=True).obs["domain"].equals(expected)
    subspots.obsm["X_same"] = np.full((subspots.n_obs, 3), 7.0)
    for n_domains in ("auto", 4):
        assert set(tl.domains(subspots, n_domains, use_rep="X_same", copy=True).obs["domain"]) == {"0"}


def test_representations_sections_and_modalities(subspots):
    subspots.obsm["X_mine"] = np.log1p(1000 * subspots.X / subspots.X.sum(axis=1, keepdims=True))
    tl.domains(subspots, 4, use_rep="X_mine", key_added="mine")
    assert adjusted_rand_score(subspots.obs["region"], subspots.obs["mine"]) > 0.8
    both = ad.concat({"a": subspots, "b": subspots}, label="slide", index_unique="_")
    tl.domains(both, 4, library_key="slide")
    halves = [both.obs["domain"][both.obs["slide"] == name].tolist() for name in "ab"]
    assert halves[0] == halves[1]
    with columns_apart():
        mdata = md.MuData({"rna": subspots[:, :25].copy(), "prot": subspots[:, 25:].copy()})
    tl.domains(mdata, 4)
    assert adjusted_rand_score(subspots.obs["region"], mdata.obs["domain"]) > 0.6


def test_the_table_of_a_spatialdata(subspots):
    sdata = tl.to_spatialdata(subspots)
    tl.domains(sdata, 4, table_key="enhanced")
    expected = tl.domains(subspots, 4, copy=True)
    assert sdata["enhanced"].obs["domain"].tolist() == expected.obs["domain"].tolist()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda a: a, {"n_domains": 0}, "`n_domains` to be at least 1"),
        (lambda a: a, {"n_domains": "many"}, "`n_domains` to be an integer or 'auto'"),
        (lambda a: a, {"n_domains": 151}, "at most the number of spots, 150, found 151"),
        (lambda a: a, {"use_rep": "X_umap"}, "`use_rep` to be a slot of `obsm`"),
        (lambda a: a, {"layer": "nope"}, "`layer` to be one of"),
        (lambda a: a, {"key_added": 5}, "`key_added` to be a string"),
        (lambda a: a, {"library_key": "slide"}, "`library_key` to be a column"),
        (lambda a: a.X, {}, "Expected an AnnData"),
        (lambda a: a.X.__setitem__((5, 3), np.nan) or a, {}, "1 NaN or infinite values"),
        (lambda a: a.obsm.pop("spatial") is None or a, {}, "spot coordinates"),
    ],
)
def test_what_cannot_be_clustered_is_refused(subspots, spoil, options, message):
    data = spoil(subspots)
    with pytest.raises((TypeError, ValueError), match=message):
        tl.domains(data, **options)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_and_constant_subspots(subspots, n):
    few = subspots[: 7 * n].copy()
    tl.domains(few)
    assert 1 <= few.obs["domain"].nunique() <= n
    few.X[:] = 1
    tl.domains(few)
    assert set(few.obs["domain"]) == {"0"}
    few.X[:] = 0
    tl.domains(few)
    assert set(few.obs["domain"]) == {"0"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_domains_are_sharper_than_those_of_the_spots(seed):
    adata, image, truth = datasets.synthetic_section(300, seed=seed)
    enhanced = tl.enhance(adata, image=image, train_kwargs={"enable_progress_bar": False})
    for data in (adata, enhanced):
        tl.domains(data)
    repeated = adata.obs["domain"].loc[enhanced.obs["spot"]]
    region = truth.obs["region"].loc[enhanced.obs_names]
    found, coarse = (adjusted_rand_score(region, labels) for labels in (enhanced.obs["domain"], repeated))
    assert found > coarse + 0.05
