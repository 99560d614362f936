"""Graphs of the spots against dense computations."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from lattices import (
    LATTICES,
    PITCH,
    central,
    dense_graph,
    hexagonal,
    near,
    profiles,
    random_xy,
    rotation,
    spots,
    square,
)
from soscope_scverse import pp


def graph_of(xy, array=None, x=None, **kwargs):
    adata = spots(xy, array, profiles(len(xy)) if x is None else x)
    return pp.spot_graph(adata, copy=True, **kwargs).obsp["spot_graph"].toarray()


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(("name", "n_neighbors"), [("square", 4), ("quincunx", 4), ("hex", 6)])
def test_neighbours_are_those_of_the_lattice(name, n_neighbors, indexed):
    xy, array = LATTICES[name]()
    sides = near(xy, 1.05 * PITCH)
    for moved in (xy, xy @ rotation(33) + 50, xy + np.random.default_rng(0).normal(0, 0.3, xy.shape)):
        found = graph_of(moved, array if indexed else None)
        np.testing.assert_array_equal(found > 0, sides)
    assert ((found > 0).sum(axis=1)[central(xy)] == n_neighbors).all()


def test_graph_is_symmetric_with_weights_up_to_one():
    adata = spots(*hexagonal(), profiles(90))
    assert pp.spot_graph(adata) is None
    graph = adata.obsp["spot_graph"]
    assert graph.format == "csr"
    assert graph.dtype == np.float32
    assert abs(graph - graph.T).max() == 0
    assert graph.diagonal().max() == 0
    assert graph.data.min() > 0
    assert graph.data.max() == 1


@pytest.mark.parametrize("strength", [1.5, 2, 5])
@pytest.mark.parametrize("name", ["square", "hex"])
def test_weights_against_a_dense_computation(name, strength):
    xy, array = LATTICES[name](4, 5)
    sides = near(xy, 1.05 * PITCH)
    values = np.random.default_rng(0).normal(size=(20, 7))
    expected = dense_graph(sides, values, strength)
    np.testing.assert_allclose(graph_of(xy, array, values, strength=strength), expected, rtol=1e-5)
    counts = profiles(20)
    depth = counts.sum(axis=1, keepdims=True)
    expected = dense_graph(sides, np.log1p(counts / depth * depth.mean()), strength)
    found = graph_of(xy, array, counts, strength=strength)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    weights = found[np.triu(found > 0)]
    assert weights.max() == 1
    assert np.exp(np.median(np.log(weights))) == pytest.approx(1 / strength, rel=1e-5)


def test_profiles_are_compared_as_they_are_if_asked():
    """As in the paper: Euclidean distances of counts."""
    xy, array = hexagonal()
    counts = profiles(90)
    expected = dense_graph(near(xy, 1.05 * PITCH), counts, 2)
    found = graph_of(xy, array, counts, normalize=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(found, graph_of(xy, array, counts), atol=0.01)


def test_counts_are_compared_at_equal_depth():
    xy, array = hexagonal()
    counts = profiles(90)
    counts[0] = [4, 6, 2, 8, 0, 10]
    counts[50] = [8, 2, 12, 10, 16, 12]  # depth 30 and 60
    traded = counts.copy()
    traded[0] *= 2
    traded[50] /= 2
    expected = graph_of(xy, array, counts)
    np.testing.assert_allclose(graph_of(xy, array, traded), expected, atol=1e-6)  # the mean depth is the same
    deep = counts.copy()
    deep[7] *= 8
    np.testing.assert_allclose(graph_of(xy, array, deep), expected, atol=0.05)
    other = graph_of(xy, array, deep + 0.5)  # no counts: taken as they are
    assert abs(other - expected).max() > 0.3


def test_sparse_profiles_give_the_same_graph():
    xy, array = square()
    counts = np.random.default_rng(0).poisson(0.7, (90, 12))
    for x in (counts, counts * 0.25):
        np.testing.assert_allclose(graph_of(xy, array, csr_matrix(x)), graph_of(xy, array, x), rtol=1e-5)


@pytest.mark.parametrize("n_neighbors", [1, 3, 8])
def test_nearest_neighbours_on_request(n_neighbors):
    xy = random_xy()
    found = graph_of(xy, n_neighbors=n_neighbors) > 0
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    nearest = np.argsort(np.argsort(distance, axis=1), axis=1)
    directed = (nearest >= 1) & (nearest <= n_neighbors)
    np.testing.assert_array_equal(found, directed | directed.T)


def test_nearest_neighbours_also_on_a_lattice():
    xy, array = square()
    found = graph_of(xy, array, n_neighbors=8) > 0
    assert (found | ~near(xy, 1.5 * PITCH)).all()  # with the diagonals


def lattice_steps(index, kind):
    """Fewest lattice steps between all pairs of spots, from their indices along the two lattice vectors."""
    a, b = (index[:, None] - index[None]).transpose(2, 0, 1)
    return abs(a) + abs(b) if kind == "square" else np.max([abs(a), abs(b), abs(a + b)], axis=0)


def axial(array):
    """Visium's indices as steps along two lattice vectors at 60 degrees."""
    return np.column_stack([(array[:, 0] - array[:, 1]) // 2, array[:, 1]])


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("n_rings", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["square", "hex"])
def test_rings_of_a_lattice(kind, n_rings, indexed):
    xy, array = square() if kind == "square" else hexagonal()
    steps = lattice_steps(array if kind == "square" else axial(array), kind)
    found = graph_of(xy, array if indexed else None, n_rings=n_rings)
    np.testing.assert_array_equal(found > 0, (steps >= 1) & (steps <= n_rings))


def test_rings_go_around_holes():
    """Steps lead over spots that are there."""
    xy, array = square(3, 7)
    kept = ~((array[:, 0] == 3) & (array[:, 1] < 2))  # a wall with one opening
    found = graph_of(xy[kept], array[kept], n_rings=2)
    assert not (found > 0)[(xy[kept] == [20, 0]).all(axis=1)][:, (xy[kept] == [40, 0]).all(axis=1)].any()
    assert (found > 0)[(xy[kept] == [20, 20]).all(axis=1)][:, (xy[kept] == [40, 20]).all(axis=1)].all()


@pytest.mark.parametrize("radius", [0.5, 1, 1.5, 2, 4.2, 8, 100])
@pytest.mark.parametrize("kind", ["square", "hex"])
@pytest.mark.filterwarnings("ignore:90 of 90 spots have no neighbour")
def test_radius_in_units_of_the_pitch(kind, radius):
    xy, array = square() if kind == "square" else hexagonal()
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    expected = (distance > 0) & (distance <= radius * PITCH + 1e-6)
    for scale in (1, 37.5):
        for indices in (array, None):
            np.testing.assert_array_equal(graph_of(scale * xy @ turn, indices, radius=radius) > 0, expected)


def test_radius_on_a_slide_whose_rows_are_too_far_apart():
    """Spots of a 6.5 mm Visium slide are 100 um apart in a row, and rows 87.0 um instead of 86.6."""
    _, array = hexagonal()
    xy = array * [50.0, 87.0]
    found = graph_of(xy, array, radius=1) > 0
    np.testing.assert_array_equal(found, graph_of(xy, array) > 0)
    assert found.sum(axis=1).max() == 6


def test_radius_and_rings_without_a_lattice():
    xy = random_xy()
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    reach = 3 * np.median(np.sort(distance, axis=1)[:, 1])
    np.testing.assert_array_equal(graph_of(xy, radius=3) > 0, (distance > 0) & (distance <= 1.005 * reach))
    step = (graph_of(xy) > 0).astype(int)
    expected = (step + step @ step + step @ step @ step) > 0
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(graph_of(xy, n_rings=3) > 0, expected)


def test_weights_of_a_wide_range_have_the_same_form():
    xy, array = hexagonal()
    x = profiles(90)
    found = graph_of(xy, array, x, radius=2.5, strength=3)
    edges = found[found > 0]
    assert edges.max() == 1
    assert np.median(edges) == pytest.approx(1 / 3)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_rings": 0}, "`n_rings` to be at least 1, found 0"),
        ({"radius": 0}, "`radius` to be above 0, found 0"),
        ({"radius": np.nan}, "`radius` to be above 0, found nan"),
        ({"radius": 2, "n_rings": 1}, "one of `n_neighbors`, `n_rings` and `radius`, found"),
        ({"radius": 2, "n_neighbors": 4}, "one of `n_neighbors`, `n_rings` and `radius`, found"),
    ],
)
def test_one_range_of_the_graph(options, message):
    with pytest.raises(ValueError, match=message):
        graph_of(*square(), **options)


def test_irregular_positions_fall_back_to_the_six_nearest():
    xy = random_xy()
    np.testing.assert_array_equal(graph_of(xy), graph_of(xy, n_neighbors=6))


def test_no_edge_joins_two_sections():
    (a, a_array), (b, b_array) = square(), square(7, 5)
    order = np.random.default_rng(0).permutation(len(a) + len(b))
    section = np.repeat(["a", "b"], [len(a), len(b)])[order]
    xy = np.vstack([a, b + 0.5])[order]
    x = profiles(len(xy))
    for array in (np.vstack([a_array, b_array])[order], None):
        for options in ({}, {"n_neighbors": 6}, {"n_rings": 2}, {"radius": 2.5}):
            adata = spots(xy, array, x, section=section)
            pp.spot_graph(adata, library_key="section", **options)
            found = adata.obsp["spot_graph"].toarray() > 0
            assert not found[section == "a"][:, section == "b"].any()
            for name in "ab":
                rows = section == name
                alone = graph_of(xy[rows], None if array is None else array[rows], **options) > 0
                np.testing.assert_array_equal(found[rows][:, rows], alone)


def test_an_isolated_spot_has_no_edge_and_a_warning():
    xy, array = square()
    xy, array = np.vstack([xy, [400.0, 400.0]]), np.vstack([array, [40, 40]])
    for indices in (array, None):
        with pytest.warns(UserWarning, match=r"1 of 91 spots have no neighbour \(first: 's90'\)"):
            found = graph_of(xy, indices)
        assert (found[90] == 0).all()
        assert (found[:90].sum(axis=1) > 0).all()


def test_identical_profiles_weigh_one():
    xy, array = hexagonal()
    found = graph_of(xy, array, np.ones((90, 3)))
    assert set(np.unique(found)) == {0, 1}
    # all edges equal but one: the median is the minimum
    x = np.zeros((90, 3))
    x[0] = 0.5
    assert set(np.unique(graph_of(xy, array, x))) == {0, 1}


@pytest.mark.parametrize("x", [np.zeros((90, 3)), np.eye(90, 3)], ids=["empty", "almost empty"])
def test_empty_spots_do_not_break_the_graph(x):
    for values in (x, csr_matrix(x)):
        found = graph_of(*square(), values)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found > 0, near(square()[0], 1.05 * PITCH))


@pytest.mark.parametrize("n_spots", [1, 2, 3])
@pytest.mark.parametrize("n_neighbors", [None, 4])
@pytest.mark.filterwarnings("ignore:1 of 1 spots have no neighbour")
def test_very_few_spots_do_not_break_the_graph(n_spots, n_neighbors):
    found = graph_of(np.array([[0, 0], [1, 0], [5, 7.0]])[:n_spots], n_neighbors=n_neighbors)
    np.testing.assert_array_equal(found > 0, ~np.eye(n_spots, dtype=bool))
    assert found.max() == (1 if n_spots > 1 else 0)


def test_the_graph_of_a_layer_under_another_name():
    adata = spots(*square(), profiles(90))
    adata.layers["other"] = profiles(90, seed=1)
    result = pp.spot_graph(adata, layer="other", key_added="mine", copy=True)
    assert set(result.obsp) == {"mine"}
    assert not set(adata.obsp)
    np.testing.assert_array_equal(result.obsp["mine"].toarray(), graph_of(*square(), adata.layers["other"]))
    with pytest.raises(ValueError, match=r"`layer` to be one of \['other'\], found 'counts'"):
        pp.spot_graph(adata, layer="counts")
    adata.X = None
    with pytest.raises(ValueError, match="Name the layer"):
        pp.spot_graph(adata)


def test_the_graph_of_a_view():
    view = spots(*square(), profiles(90))[:30]
    with pytest.warns(UserWarning, match="view"):
        pp.spot_graph(view)
    assert view.obsp["spot_graph"].shape == (30, 30)


@pytest.mark.parametrize("strength", [1, 0.5, -2, np.nan])
def test_strength_must_be_above_one(strength):
    with pytest.raises(ValueError, match="`strength` to be above 1"):
        graph_of(*square(), strength=strength)


@pytest.mark.parametrize("n_neighbors", [0, -1])
def test_number_of_neighbours_must_be_positive(n_neighbors):
    with pytest.raises(ValueError, match="`n_neighbors` to be at least 1"):
        graph_of(*square(), n_neighbors=n_neighbors)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_profiles_must_be_finite(bad):
    x = profiles(90)
    x[4, 2] = bad
    with pytest.raises(ValueError, match="finite profiles, found 1"):
        graph_of(*square(), x)
