"""Graphs and library sizes of the user: `graph_key` and `size_factor_key`."""

import anndata as ad
import mudata as md
import numpy as np
import pytest
import squidpy as sq
from scipy import sparse

from helpers import QUICK, train
from soscope_scverse import SoScope, datasets, pp, tl
from soscope_scverse._arrays import undirected
from soscope_scverse._containers.mudata import columns_apart

KEY = "spatial_connectivities"
GRAPHS = {
    "grid": sq.gr.spatial_neighbors_grid,
    "nearest": lambda adata: sq.gr.spatial_neighbors_knn(adata, n_neighs=5),
    "Delaunay": sq.gr.spatial_neighbors_delaunay,
}
NO_IMAGE = {**QUICK, "sources": "positions"}


@pytest.fixture(params=GRAPHS)
def with_graph(request, section):
    """Spots with a graph of squidpy: binary weights, those of the nearest spots without symmetry."""
    GRAPHS[request.param](section.adata)
    return section.adata


def test_graphs_of_squidpy_equal_a_slot_of_that_graph(with_graph):
    found = tl.enhance(with_graph, graph_key=KEY, **NO_IMAGE)
    assert np.isfinite(found.X).all()
    assert '"graph_key": "spatial_connectivities"' in found.uns["soscope"]["arguments"]
    assert "spot_graph" not in with_graph.obsp
    by_hand = with_graph.copy()
    both = with_graph.obsp[KEY].maximum(with_graph.obsp[KEY].T)
    by_hand.obsp = {"spot_graph": sparse.csr_matrix(both)}
    np.testing.assert_array_equal(found.X, tl.enhance(by_hand, **NO_IMAGE).X)


def test_the_graph_that_is_named_is_the_one_that_is_used(section):
    adata = section.adata
    pp.spot_graph(adata)
    pp.spot_graph(adata, n_rings=2, key_added="far")
    own, far = (tl.enhance(adata, graph_key=key, **NO_IMAGE).X for key in ("spot_graph", "far"))
    np.testing.assert_array_equal(own, tl.enhance(adata, **NO_IMAGE).X)
    assert (own != far).any()


def test_a_graph_has_neither_zeros_nor_loops_nor_directions():
    graph = sparse.csr_matrix(np.array([[1.0, 0.5, 0], [0.2, 0, 0], [0.3, 0, 0]]))
    graph.data[graph.data == 0.5] = 0.1
    expected = [[0, 0.2, 0.3], [0.2, 0, 0], [0.3, 0, 0]]
    np.testing.assert_allclose(undirected(graph).toarray(), expected)
    zero = sparse.csr_matrix(np.array([[0, 1.0], [1.0, 0]]))
    assert undirected(zero) is zero
    zero.data[:] = 0
    assert undirected(zero).nnz == 0
    unsorted = sparse.csr_matrix((np.ones(4), [2, 1, 0, 0], [0, 2, 3, 4]), shape=(3, 3))
    assert undirected(unsorted).indices.tolist() == [1, 2, 0, 0]


FORMS = {
    "dense": lambda g: g.toarray(),
    "half precision": lambda g: g.toarray().astype(np.float16),
    "sparse in half precision": lambda g: sparse.csr_matrix((g.data.astype(np.float16), g.indices, g.indptr), g.shape),
    "boolean": lambda g: g.astype(bool),
    "integer": lambda g: g.astype(np.uint8),
    "by column": lambda g: g.tocsc(),
    "sparse array": sparse.csr_array,
    "one direction": lambda g: sparse.triu(g).tocsr(),
    "with loops": lambda g: (g + sparse.eye(g.shape[0])).tocsr(),
    "with zeros that are stored": lambda g: sparse.csr_matrix(
        (np.r_[g.data, 0.0], np.r_[g.indices, 3], np.r_[g.indptr[:-1], g.nnz + 1]), g.shape
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_graph_in_any_form_gives_one_result(section, form):
    adata = section.adata
    sq.gr.spatial_neighbors_grid(adata)
    graph = sparse.csr_matrix(adata.obsp[KEY], dtype=float)
    expected = tl.enhance(adata, graph_key=KEY, **NO_IMAGE).X
    adata.obsp["other"] = FORMS[form](graph)
    np.testing.assert_array_equal(tl.enhance(adata, graph_key="other", **NO_IMAGE).X, expected)


def test_some_of_the_spots_have_their_part_of_the_graph(section):
    sq.gr.spatial_neighbors_grid(section.adata)
    some = section.adata[10:50]
    found = tl.enhance(some, graph_key=KEY, **NO_IMAGE)
    np.testing.assert_array_equal(found.X, tl.enhance(some.copy(), graph_key=KEY, **NO_IMAGE).X)


def test_a_model_reads_its_graph_in_other_spots(prepared):
    sq.gr.spatial_neighbors_grid(prepared)
    model = train(prepared, 2, setup={"graph_key": KEY})
    other = prepared[:40].copy()
    before = model.get_latent_representation(other)
    del other.obsp["spot_graph"]
    np.testing.assert_array_equal(model.get_latent_representation(other), before)
    del other.obsp[KEY]
    with pytest.raises(ValueError, match=r"graph of the spots in `adata.obsp\['spatial_connectivities'\]`.*squidpy"):
        model.get_enhanced(other)


def test_graphs_of_a_mudata(section):
    sq.gr.spatial_neighbors_grid(section.adata)
    with columns_apart():
        mdata = md.MuData({"rna": section.adata[:, :5].copy(), "prot": section.adata[:, 5:].copy()})
    likelihood = {"rna": "nb", "prot": "poisson"}
    found = tl.enhance(mdata, likelihood=likelihood, graph_key=KEY, **NO_IMAGE)
    mdata.obsp["spot_graph"] = section.adata.obsp[KEY]
    expected = tl.enhance(mdata, likelihood=likelihood, **NO_IMAGE)
    np.testing.assert_array_equal(found["prot"].X, expected["prot"].X)


def test_spots_without_an_edge_are_kept(section):
    sq.gr.spatial_neighbors_grid(section.adata)
    graph = section.adata.obsp[KEY].tolil()
    graph[7], graph[:, 7] = 0, 0
    section.adata.obsp["cut"] = sparse.csr_matrix(graph)
    with pytest.warns(UserWarning, match="1 of 60 spots have no neighbour"):
        enhanced = tl.enhance(section.adata, graph_key="cut", **NO_IMAGE)
    assert np.isfinite(enhanced.X).all()


def changed(change):
    def spoil(adata):
        graph = adata.obsp[KEY].copy().astype(float)
        graph.data = change(graph.data)
        adata.obsp["bad"] = graph

    return spoil


BAD_GRAPHS = {
    "none": (lambda adata: None, r"in `adata.obsp\['bad'\]`, found .*'spatial_connectivities'.*squidpy"),
    "negative": (changed(np.negative), "weights of at least 0 .* negative"),
    "NaN": (changed(lambda w: w * np.nan), "finite weights"),
    "words": (lambda a: a.obsp.update(bad=np.full((a.n_obs, a.n_obs), "x", dtype=object)), "real numbers"),
    "deep": (lambda a: a.obsp.update(bad=np.ones((a.n_obs, a.n_obs, 2))), r"n_spots x n_spots, 60 x 60, .*60, 2\)"),
    "distances": (lambda a: a.obsp.update(bad=a.obsp["spatial_distances"]), r"at most 1 .*Distances are no weights"),
}


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_graphs_that_do_not_fit_are_refused_before_any_work(section, name):
    spoil, message = BAD_GRAPHS[name]
    sq.gr.spatial_neighbors_grid(section.adata)
    section.adata.obsp["spatial_distances"] = section.adata.obsp[KEY] * 36.0
    spoil(section.adata)
    with pytest.raises((TypeError, ValueError), match=message):
        tl.enhance(section.adata, graph_key="bad", image="nowhere.tif")
    with pytest.raises(TypeError, match="`graph_key` to be a string"):
        tl.enhance(section.adata, graph_key=5, image="nowhere.tif")


def test_edges_between_sections_are_refused(section, prepared):
    both = ad.concat({"a": section.adata, "b": section.adata}, label="section", index_unique="_")
    sq.gr.spatial_neighbors_knn(both, n_neighs=6)  # without the sections
    message = (
        r"no edge between sections of `adata.obs\['section'\]` in .*'spatial_connectivities'.*library_key='section'"
    )
    with pytest.raises(ValueError, match=message):
        tl.enhance(both, graph_key=KEY, library_key="section")
    sq.gr.spatial_neighbors_knn(both, n_neighs=6, library_key="section")
    assert np.isfinite(tl.enhance(both, graph_key=KEY, library_key="section", **NO_IMAGE).X).all()
    prepared.obs["half"] = np.where(np.arange(60) < 30, "a", "b")
    with pytest.raises(ValueError, match="no edge between sections"):
        SoScope.setup_anndata(prepared, library_key="half")


# ---- library sizes --------------------------------------------------------------------------------------------------


def test_size_factors_scale_what_is_expected_of_a_spot(prepared):
    size = np.random.default_rng(0).uniform(0.5, 2, 60)
    prepared.obs["size"] = 1000 * size / size.mean()
    model = train(prepared, 2, setup={"size_factor_key": "size"})
    found = model.get_enhanced(expectation="decoded").X
    relative = prepared.copy()
    relative.obs["relative_cell_number"] = (prepared.obs["size"] / prepared.obs["size"].mean()).to_numpy()
    del relative.obs["size"]
    np.testing.assert_array_equal(found, train(relative, 2).get_enhanced(expectation="decoded").X)
    prepared.obs["relative_cell_number"] = 3.0  # the library size stands instead of it
    np.testing.assert_array_equal(
        found, train(prepared, 2, setup={"size_factor_key": "size"}).get_enhanced(expectation="decoded").X
    )


def test_size_factors_are_relative_to_the_spots_of_the_training(prepared, tmp_path):
    prepared.obs["size"] = np.random.default_rng(0).uniform(0.5, 2, 60)
    model = train(prepared, 2, setup={"size_factor_key": "size"})
    expected = model.get_enhanced(expectation="decoded").X
    few = prepared[:20].copy()
    few.obs["size"] *= 2
    few.X = few.X * 2
    double = model.get_enhanced(few, expectation="decoded").X
    assert abs(np.median(double / expected[: len(double)]) - 2) < 0.1
    model.save(tmp_path / "model", save_anndata=True)
    np.testing.assert_array_equal(SoScope.load(tmp_path / "model").get_enhanced(few, expectation="decoded").X, double)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (None, r"`size_factor_key` to be a column .*adata.X.sum"),
        (0, "finite values above 0 .* 60 of 60"),
        (np.nan, "finite values above 0"),
        ("a", "real numbers"),
    ],
)
def test_size_factors_that_do_not_fit_are_refused_before_any_work(section, column, message):
    if column is not None:
        section.adata.obs["size"] = column
    with pytest.raises((TypeError, ValueError), match=message):
        tl.enhance(section.adata, size_factor_key="size", image="nowhere.tif")


def test_library_sizes_of_all_genes_are_those_of_few():
    """A column made before genes are chosen keeps what they do not hold."""
    adata = datasets.synthetic_section(30, n_genes=12).adata
    adata.obs["size"] = np.asarray(adata.X.sum(axis=1)).ravel()
    enhanced = tl.enhance(adata, genes=adata.var_names[:3].tolist(), size_factor_key="size", **NO_IMAGE)
    assert enhanced.n_vars == 3
    assert np.isfinite(enhanced.X).all()
