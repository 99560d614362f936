"""Divisions, graphs and choice of genes on lattices made by hand, against closed forms and dense computations."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial import Voronoi, cKDTree

from soscope_scverse import pp
from soscope_scverse.pp._geometry import fine_array_index
from soscope_scverse.pp._graphs import image_similarity

PITCH = 10.0
SLOTS = ("subspots", "subspot_exposure")
DIVISIONS = [*(("square", k) for k in (4, 9, 16, 25, 36)), *(("hex", k) for k in (7, 19, 37))]
CONVENTIONS = {
    "plain": lambda array: array,
    "swapped": lambda array: array[:, ::-1],
    "offset": lambda array: array - np.array([41, -7]),
    "mirrored": lambda array: array * [-1, 1],
    "turned": lambda array: array[:, ::-1] * [1, -1] + [3, 8],
}


def square(n_rows=9, n_cols=10):
    """Positions and (array_col, array_row)."""
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    return PITCH * np.column_stack([col, row]), np.column_stack([col, row])


def hexagonal(n_rows=10, n_cols=9):
    """Visium: doubled columns, the sum of row and column is even."""
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    col = 2 * col + row % 2
    return PITCH * np.column_stack([col / 2, row * np.sqrt(0.75)]), np.column_stack([col, row])


def quincunx(n_rows=12, n_cols=8):
    """A square lattice that stands on a corner, numbered like Visium's."""
    row, col = np.indices((n_rows, n_cols)).reshape(2, -1)
    col = 2 * col + row % 2
    return PITCH * np.sqrt(0.5) * np.column_stack([col, row]), np.column_stack([col, row])


LATTICES = {"square": square, "hex": hexagonal, "quincunx": quincunx}
KIND = {"square": "square", "hex": "hex", "quincunx": "square"}


def rotation(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def spots(xy, array=None, x=None, **obs):
    """Spots at given positions; one constant gene unless profiles are given."""
    names = [f"s{i}" for i in range(len(xy))]
    adata = ad.AnnData(np.ones((len(xy), 1)) if x is None else x, obs=pd.DataFrame(obs, index=names))
    adata.obsm["spatial"] = np.asarray(xy, dtype=float)
    if array is not None:
        adata.obs["array_col"], adata.obs["array_row"] = np.asarray(array).T
    return adata


def divided(xy, array=None, n_subspots="auto", **kwargs):
    return pp.subspots(spots(xy, array), n_subspots, copy=True, **kwargs)


def central(points, share=0.5):
    """Rows of the points in the middle of the patch."""
    distance = np.linalg.norm(points - (points.min(axis=0) + points.max(axis=0)) / 2, axis=1)
    return np.flatnonzero(distance < share * np.ptp(points, axis=0).min() / 2)


def voronoi_areas(points, rows):
    """Areas of the Voronoi cells of some points, by the shoelace formula."""
    diagram = Voronoi(points)
    areas = []
    for row in rows:
        corner = diagram.vertices[diagram.regions[diagram.point_region[row]]] - points[row]
        x, y = corner[np.argsort(np.arctan2(corner[:, 1], corner[:, 0]))].T
        areas.append(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    return np.array(areas)


def same_points(a, b):
    """Whether two sets of positions are one."""
    tree = cKDTree(a)
    distance, match = tree.query(b)
    return len(a) == len(b) == len(np.unique(match)) and distance.max() < 1e-6


# ------------------------------------------------------------------------------------------- subspots: lattices


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("stretch", [(1, 1), (1.15, 1), (1, 1.15)])
@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 200])
@pytest.mark.parametrize("name", LATTICES)
def test_lattices_are_recognised(name, degrees, stretch, indexed):
    xy, array = LATTICES[name]()
    xy = xy * stretch @ rotation(degrees) + [300, -20]
    info = divided(xy, array if indexed else None).uns["subspots"]
    assert info["geometry"] == KIND[name]
    assert info["n_subspots"] == {"square": 9, "hex": 7}[KIND[name]]
    assert ("array_steps" in info) == indexed
    cell_area = PITCH**2 * np.prod(stretch) * (np.sqrt(0.75) if name == "hex" else 1)
    np.testing.assert_allclose(abs(np.linalg.det(info["basis"])), cell_area, rtol=1e-6)
    assert 0.999 < info["pitch"] / PITCH < 1.151
    assert info["subspot_diameter"] == pytest.approx(info["pitch"] / np.sqrt(info["n_subspots"]))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", LATTICES)
def test_jitter_and_missing_spots_hardly_move_the_subspots(name, convention):
    xy, array = LATTICES[name](16, 14)
    rng = np.random.default_rng(3)
    moved = xy + rng.normal(0, 0.03 * PITCH, xy.shape)
    kept = rng.random(len(xy)) > 0.2
    array = CONVENTIONS[convention](array)
    for indices in (array, None):
        ideal = divided(xy, indices)
        found = divided(moved[kept], None if indices is None else indices[kept])
        assert found.uns["subspots"]["geometry"] == KIND[name]
        assert found.uns["subspots"]["pitch"] == pytest.approx(PITCH, rel=0.03)
        relative = found.obsm["subspots"] - moved[kept][:, None]
        for offset in (ideal.obsm["subspots"] - xy[:, None])[0]:  # in any order: a basis may be mirrored
            assert np.linalg.norm(relative - offset, axis=2).min(axis=1).max() < 0.05 * PITCH


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", LATTICES)
def test_other_conventions_of_the_array_indices_give_the_same_subspots(name, convention):
    xy, array = LATTICES[name]()
    plain = divided(xy, array)
    other = divided(xy, CONVENTIONS[convention](array))
    assert "array_steps" in other.uns["subspots"]
    for spot, a, b in zip(xy, plain.obsm["subspots"], other.obsm["subspots"], strict=True):
        mirrored = (a - spot) * [1, -1] + spot  # a flower of the other hand tiles the lattice as well
        assert same_points(a, b) or (name == "hex" and same_points(mirrored, b))


def test_array_indices_that_do_not_explain_the_positions_are_ignored():
    xy, array = square()
    shuffled = np.random.default_rng(0).permutation(array)
    for useless in (shuffled, np.zeros_like(array), array.astype(float) + 0.5):
        adata = divided(xy, useless)
        assert "array_steps" not in adata.uns["subspots"]
        np.testing.assert_array_equal(adata.obsm["subspots"], divided(xy).obsm["subspots"])


def test_the_lattice_can_be_named():
    xy, array = hexagonal()
    rhombi = divided(xy, array, 9, geometry="square")
    assert rhombi.uns["subspots"]["geometry"] == "square"
    flowers = divided(square()[0], square()[1], 7, geometry="hex")
    assert flowers.uns["subspots"]["geometry"] == "hex"
    for adata in (rhombi, flowers):
        points = adata.obsm["subspots"].reshape(-1, 2)
        areas = voronoi_areas(points, central(points))
        np.testing.assert_allclose(areas, areas[0])


# --------------------------------------------------------------------------------------------- subspots: tiling


@pytest.mark.parametrize("transform", [np.eye(2), np.diag([1.2, 1]) @ rotation(28), [[1, 0.1], [-0.05, 1.1]]])
@pytest.mark.parametrize(("name", "n_subspots"), [*DIVISIONS, ("quincunx", 9)])
def test_subspots_tile_the_section(name, n_subspots, transform):
    xy, array = LATTICES[name]()
    xy = xy @ transform
    adata = divided(xy, array, n_subspots)
    subspots = adata.obsm["subspots"]
    assert subspots.shape == (len(xy), n_subspots, 2)
    np.testing.assert_allclose(subspots.mean(axis=1), xy, atol=1e-9)

    points = subspots.reshape(-1, 2)
    rows = central(points, 0.4)
    assert len(rows) > 2 * n_subspots
    cell_area = PITCH**2 * abs(np.linalg.det(transform)) * (np.sqrt(0.75) if name == "hex" else 1)
    np.testing.assert_allclose(voronoi_areas(points, rows), cell_area / n_subspots, rtol=1e-6)

    # every subspot of the middle sees the others at the same places: they form one lattice
    tree = cKDTree(points)
    middle = rows[np.argmin(np.linalg.norm(points[rows] - points[rows].mean(axis=0), axis=1))]
    around = points[tree.query_ball_point(points[middle], 2.5 * np.sqrt(cell_area / n_subspots))] - points[middle]
    assert len(around) > 12
    assert tree.query(points[rows][:, None] + around)[0].max() < 1e-6


@pytest.mark.parametrize(("name", "n_subspots"), [*DIVISIONS, ("quincunx", 16)])
def test_subspots_of_regular_lattices_are_evenly_spaced_and_lie_in_their_spot(name, n_subspots):
    xy, array = LATTICES[name](6, 6)
    subspots = divided(xy, array, n_subspots).obsm["subspots"]
    points = subspots.reshape(-1, 2)
    spacing = cKDTree(points).query(points, k=2)[0][:, 1]
    np.testing.assert_allclose(spacing, PITCH / np.sqrt(n_subspots))
    np.testing.assert_array_equal(cKDTree(xy).query(points)[1], np.repeat(np.arange(len(xy)), n_subspots))


def test_four_squares_in_closed_form():
    adata = divided([[0, 0], [8, 0], [0, 8], [8, 8], [16, 0]], n_subspots=4)
    np.testing.assert_allclose(adata.obsm["subspots"][0], [[-2, -2], [2, -2], [-2, 2], [2, 2]])


# ---------------------------------------------------------------------------------- subspots: moves and order


@pytest.mark.parametrize("degrees", [13, 45, 60, 90, 179, 271])
@pytest.mark.parametrize(("name", "n_subspots"), [("square", 9), ("quincunx", 4), ("hex", 7), ("hex", 19)])
def test_subspots_move_and_turn_with_the_spots(name, n_subspots, degrees):
    xy, array = LATTICES[name]()
    turn, shift = rotation(degrees), np.array([1000.0, -40.0])
    for stretch in ((1, 1), (1.1, 1)):
        before = divided(xy * stretch, array, n_subspots).obsm["subspots"]
        after = divided(xy * stretch @ turn + shift, array, n_subspots).obsm["subspots"]
        np.testing.assert_allclose(after, before @ turn + shift, atol=1e-6)

        before = divided(xy * stretch, None, n_subspots).obsm["subspots"]
        after = divided(xy * stretch @ turn + shift, None, n_subspots).obsm["subspots"]
        for a, b in zip(before, after, strict=True):
            assert same_points(a @ turn + shift, b)


@pytest.mark.parametrize("factor", [1e-3, 1e5])
@pytest.mark.parametrize("name", LATTICES)
def test_the_unit_of_the_coordinates_does_not_matter(name, factor):
    xy, array = LATTICES[name]()
    for indices in (array, None):
        expected = divided(xy, indices)
        found = divided(factor * xy, indices)
        np.testing.assert_allclose(found.obsm["subspots"], factor * expected.obsm["subspots"], rtol=1e-6, atol=1e-9)
        assert found.uns["subspots"]["pitch"] == pytest.approx(factor * PITCH)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("name", LATTICES)
def test_permuting_the_spots_permutes_the_subspots(name, indexed):
    xy, array = LATTICES[name]()
    order = np.random.default_rng(0).permutation(len(xy))
    straight = divided(xy, array if indexed else None).obsm["subspots"]
    permuted = divided(xy[order], array[order] if indexed else None).obsm["subspots"]
    np.testing.assert_allclose(permuted, straight[order], atol=1e-6)


# ------------------------------------------------------------------------------------ subspots: what is written


def test_written_slots_survive_a_file(tmp_path):
    adata = spots(*hexagonal())
    assert pp.subspots(adata, 19) is None
    assert set(adata.obsm) == {"spatial", *SLOTS}
    assert set(adata.uns) == {"subspots"}
    assert set(adata.uns["subspots"]) == {
        *("geometry", "n_subspots", "pitch", "subspot_diameter", "basis", "array_steps"),
    }
    np.testing.assert_allclose(adata.obsm["subspot_exposure"], np.full((adata.n_obs, 19), 1 / 19))
    adata.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    for slot in SLOTS:
        np.testing.assert_array_equal(read.obsm[slot], adata.obsm[slot])
    for name, value in adata.uns["subspots"].items():
        np.testing.assert_array_equal(read.uns["subspots"][name], value)


def test_copy_leaves_the_input_alone():
    adata = spots(*square())
    result = pp.subspots(adata, 4, copy=True)
    assert set(SLOTS) <= set(result.obsm)
    assert not set(SLOTS) & set(adata.obsm)
    assert "subspots" not in adata.uns


def test_a_second_division_replaces_the_first():
    adata = spots(*square())
    pp.subspots(adata, 25)
    pp.subspots(adata, positions=adata.obsm["spatial"][:, None] + [[-1.0, 0.0], [1.0, 0.0]])
    assert adata.obsm["subspots"].shape == (adata.n_obs, 2, 2)
    assert adata.obsm["subspot_exposure"].shape == (adata.n_obs, 2)
    assert adata.uns["subspots"]["geometry"] == "positions"
    assert "basis" not in adata.uns["subspots"]


def test_a_view_is_divided_with_a_warning():
    whole = spots(*square())
    view = whole[:50]
    with pytest.warns(UserWarning, match="view"):
        pp.subspots(view, 4)
    assert view.obsm["subspots"].shape == (50, 4, 2)
    assert "subspots" not in whole.obsm
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pp.subspots(whole[:50], 4, copy=True).n_obs == 50


def test_own_positions_with_padding():
    adata = spots(np.random.default_rng(0).random((5, 2)))
    positions = adata.obsm["spatial"][:, None] + np.random.default_rng(1).normal(0, 0.1, (5, 3, 2))
    positions[1, 2] = np.nan
    positions[4, :2] = np.nan
    pp.subspots(adata, positions=positions)
    np.testing.assert_array_equal(adata.obsm["subspots"], positions)
    exposure = adata.obsm["subspot_exposure"]
    np.testing.assert_allclose(exposure.sum(axis=1), 1)
    np.testing.assert_array_equal(exposure == 0, np.isnan(positions[..., 0]))
    np.testing.assert_allclose(exposure[[0, 1, 4]], [[1 / 3] * 3, [0.5, 0.5, 0], [0, 0, 1]])
    assert adata.uns["subspots"]["geometry"] == "positions"
    assert adata.uns["subspots"]["n_subspots"] == 3


@pytest.mark.parametrize("indexed", [True, False])
def test_each_section_has_its_own_lattice(indexed):
    (near, near_array), (far, far_array) = square(), square(12, 7)
    far = 1.7 * far @ rotation(20) + 4  # over each other, in other units
    alone = [divided(xy, array if indexed else None, 9) for xy, array in ((near, near_array), (far, far_array))]
    order = np.random.default_rng(0).permutation(len(near) + len(far))
    both = spots(
        np.vstack([near, far])[order],
        np.vstack([near_array, far_array])[order] if indexed else None,
        section=np.repeat(["a", "b"], [len(near), len(far)])[order],
    )
    pp.subspots(both, 9, library_key="section")
    expected = np.concatenate([adata.obsm["subspots"] for adata in alone])[order]
    np.testing.assert_allclose(both.obsm["subspots"], expected, atol=1e-9)
    assert both.uns["subspots"]["pitch"] == pytest.approx(1.35 * PITCH)
    assert ("array_steps" in both.uns["subspots"]) == indexed


def test_positions_in_sections():
    xy = np.random.default_rng(0).random((20, 2))
    adata = spots(np.vstack([xy, xy]), section=np.repeat(["a", "b"], 20))
    pp.subspots(adata, positions=adata.obsm["spatial"][:, None] + [[0, 0], [0.1, 0.1]], library_key="section")
    spacing = np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])
    assert adata.uns["subspots"]["pitch"] == pytest.approx(spacing)


# ----------------------------------------------------------------------------------------------- subspots: errors


def random_xy():
    return np.random.default_rng(0).random((200, 2))


@pytest.mark.parametrize(
    "xy",
    [random_xy(), np.zeros((1, 2)), [[0, 0], [1, 0]], np.ones((6, 2)), np.column_stack([range(30), range(30)])],
    ids=["random", "one", "two", "same", "line"],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_positions_off_any_lattice(xy, indexed):
    array = np.column_stack(np.divmod(np.arange(len(xy)), 4))
    with pytest.raises(ValueError, match=f"{len(xy)} spots do not lie on a square or hexagonal lattice.*`positions=`"):
        divided(xy, array if indexed else None)


@pytest.mark.parametrize("n_subspots", [0, 1, 7, -4, 10, "nine", 4.5])
def test_wrong_number_of_subspots_on_a_square_lattice(n_subspots):
    with pytest.raises(ValueError, match=r"one of \[4, 9, 16, .* square lattice, found"):
        divided(*square(), n_subspots)


@pytest.mark.parametrize("n_subspots", [1, 4, 9, 13])
def test_wrong_number_of_subspots_on_a_hexagonal_lattice(n_subspots):
    with pytest.raises(ValueError, match=rf"one of \[7, 19, 37, .* hex lattice, found {n_subspots}"):
        divided(*hexagonal(), n_subspots)


def test_unknown_geometry():
    with pytest.raises(ValueError, match="'square', 'hex'\\], found 'triangle'"):
        divided(*square(), geometry="triangle")


def test_faulty_coordinates():
    adata = spots(*square())
    adata.obsm["spatial"][3, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values for 1 of 90 .*'s3'"):
        pp.subspots(adata)
    adata.obsm["spatial"] = np.zeros((adata.n_obs, 3))
    with pytest.raises(ValueError, match=r"n_obs x 2 \(x, y\), found shape \(90, 3\)"):
        pp.subspots(adata)
    del adata.obsm["spatial"]
    with pytest.raises(ValueError, match="Expected spot coordinates"):
        pp.subspots(adata)
    with pytest.raises(ValueError, match="at least one spot"):
        pp.subspots(spots(*square())[:0].copy())
    assert not set(SLOTS) & set(adata.obsm)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((89, 4, 2)), r"n_spots = 90, found \(89, 4, 2\)"),
        (np.zeros((90, 4)), r"n_subspots x 2 with n_spots = 90, found \(90, 4\)"),
        (np.zeros((90, 4, 3)), r"found \(90, 4, 3\)"),
        (np.zeros((90, 1, 2)), "at least 2 subspots"),
    ],
)
def test_own_positions_of_the_wrong_shape(positions, message):
    with pytest.raises(ValueError, match=message):
        divided(*square(), positions=positions)


def test_own_positions_with_holes():
    for hole in (np.nan, np.inf):
        positions = np.zeros((90, 3, 2))
        positions[5, 1, 0] = hole
        with pytest.raises(ValueError, match=r"finite x and y or two NaN \(padding\)"):
            divided(*square(), positions=positions)
    positions = np.zeros((90, 3, 2))
    positions[7] = np.nan
    with pytest.raises(ValueError, match=r"every spot to hold a subspot, found 1 without \(first: row 7\)"):
        divided(*square(), positions=positions)


def test_faulty_sections():
    adata = spots(*square(), section=["a"] * 90)
    for function in (pp.subspots, pp.spot_graph):
        with pytest.raises(ValueError, match=r"column of `adata.obs`, found 'slide'; there are \['section'"):
            function(adata, library_key="slide")
    adata.obs.loc["s4", "section"] = np.nan
    for function in (pp.subspots, pp.spot_graph):
        with pytest.raises(ValueError, match="found 1 NaN"):
            function(adata, library_key="section")


def test_sections_on_different_lattices():
    (a, _), (b, _) = square(), hexagonal()
    adata = spots(np.vstack([a, b]), section=np.repeat(["a", "b"], [len(a), len(b)]))
    with pytest.raises(ValueError, match=r"one kind of lattice, found \['hex', 'square'\]"):
        pp.subspots(adata, library_key="section")


# ----------------------------------------------------------------------------------------- indices of the subspots


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("name", "n_subspots"), [*DIVISIONS, ("quincunx", 4), ("quincunx", 9)])
def test_fine_indices_are_unique_and_affine_in_the_positions(name, n_subspots, convention):
    xy, array = LATTICES[name]()
    xy = xy * [1.1, 1] @ rotation(15)
    array = CONVENTIONS[convention](array)
    adata = divided(xy, array, n_subspots)
    fine = fine_array_index(array, adata.uns["subspots"])
    assert fine.shape == (len(xy), n_subspots, 2)
    assert np.issubdtype(fine.dtype, np.integer)
    fine, points = fine.reshape(-1, 2), adata.obsm["subspots"].reshape(-1, 2)
    assert len(np.unique(fine, axis=0)) == len(fine)
    design = np.column_stack([fine, np.ones(len(fine))])
    affine = np.linalg.lstsq(design, points, rcond=None)[0]
    np.testing.assert_allclose(design @ affine, points, atol=1e-6)
    # neighbouring indices are neighbouring subspots: the index lattice has no gaps
    step = abs(np.linalg.det(affine[:2])) * (2 if KIND[name] == "hex" else 1)
    np.testing.assert_allclose(step, abs(np.linalg.det(adata.uns["subspots"]["basis"])) / n_subspots, rtol=1e-6)
    if KIND[name] == "hex":
        assert (fine.sum(axis=1) % 2 == 0).all()
    else:
        assert (fine.min(axis=0) == 0).all()


def test_fine_indices_are_those_of_a_finer_lattice():
    xy, array = hexagonal()
    coarse = divided(xy, array, 7)
    fine = divided(
        coarse.obsm["subspots"].reshape(-1, 2), fine_array_index(array, coarse.uns["subspots"]).reshape(-1, 2), 7
    )
    assert fine.uns["subspots"]["pitch"] == pytest.approx(PITCH / np.sqrt(7))
    np.testing.assert_array_equal(fine.uns["subspots"]["array_steps"], [[2, 0], [1, 1]])


# -------------------------------------------------------------------------------------------------- graph of spots


def profiles(n_spots, n_genes=6, seed=0):
    return np.random.default_rng(seed).poisson(5, (n_spots, n_genes)).astype(float)


def graph_of(xy, array=None, x=None, **kwargs):
    adata = spots(xy, array, profiles(len(xy)) if x is None else x)
    return pp.spot_graph(adata, copy=True, **kwargs).obsp["spot_graph"].toarray()


def dense_graph(adjacent, x, strength):
    """The formula, pair by pair; profiles as they are."""
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    edges = distance[np.triu(adjacent)]
    delta = (np.median(edges) - edges.min()) / np.log(strength)
    return np.where(adjacent, np.exp(-(distance - edges.min()) / delta), 0)


def near(xy, reach):
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    return (distance > 0) & (distance < reach)


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


def test_radius_and_rings_without_a_lattice():
    xy = random_xy()
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    reach = 3 * np.median(np.sort(distance, axis=1)[:, 1])
    np.testing.assert_array_equal(graph_of(xy, radius=3) > 0, (distance > 0) & (distance <= 1.001 * reach))
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


# ----------------------------------------------------------------------------------------------- graph of subspots


@pytest.mark.parametrize(
    ("name", "n_subspots"), [("square", 4), ("square", 9), ("quincunx", 9), ("hex", 7), ("hex", 19)]
)
@pytest.mark.parametrize("size", [2, 6])
def test_touching_subspots_are_those_that_share_a_side(name, n_subspots, size):
    xy, array = LATTICES[name](size, size)
    points = divided(xy, array, n_subspots).obsm["subspots"].reshape(-1, 2)
    i, j, weight = image_similarity(points, np.ones((len(points), 2)), np.zeros(len(points)))
    expected = np.argwhere(np.triu(near(points, 1.05 * PITCH / np.sqrt(n_subspots))))
    assert (i < j).all()
    assert set(zip(i, j, strict=True)) == set(map(tuple, expected))
    assert len(i) == len(expected)
    np.testing.assert_array_equal(weight, 1)


@pytest.mark.parametrize("strength", [2, 4])
def test_weights_of_touching_subspots(strength):
    points = divided(*square(5, 5), 4).obsm["subspots"].reshape(-1, 2)
    features = np.random.default_rng(0).normal(size=(len(points), 8)).astype(np.float32)
    i, j, weight = image_similarity(points, features, np.zeros(len(points)), strength)
    expected = dense_graph(near(points, 1.05 * PITCH / 2), features, strength)
    np.testing.assert_allclose(weight, expected[i, j], rtol=1e-4)
    assert weight.max() == 1
    assert np.exp(np.median(np.log(weight))) == pytest.approx(1 / strength)


def test_no_similarity_across_sections():
    points = divided(*square(5, 5), 4).obsm["subspots"].reshape(-1, 2)
    n = len(points)
    order = np.random.default_rng(0).permutation(2 * n)
    section = np.repeat(["a", "b"], n)[order]
    both = np.vstack([points, points + 0.1])[order]
    features = np.random.default_rng(1).normal(size=(2 * n, 3))
    i, j, weight = image_similarity(both, features, section)
    expected = dense_graph(near(both, 1.05 * PITCH / 2) & (section[:, None] == section), features, 2)
    assert len(weight) == np.triu(expected > 0).sum()
    np.testing.assert_allclose(weight, expected[i, j])


def test_similarity_of_a_single_subspot():
    assert [len(part) for part in image_similarity(np.zeros((1, 2)), np.ones((1, 3)), np.zeros(1))] == [0, 0, 0]


# ------------------------------------------------------------------------------------------------- choice of genes


def test_smooth_genes_come_before_noise():
    xy, _ = hexagonal(14, 14)
    rng = np.random.default_rng(0)
    smooth = 20 * np.exp(np.column_stack([np.sin(xy[:, 0] / 25), np.cos(xy[:, 1] / 30), xy.sum(axis=1) / 150]))
    depth = np.exp(xy[:, :1] / 60)  # a pattern of the depth alone, shared by all genes
    x = rng.poisson(depth * np.column_stack([np.full((len(xy), 20), 20.0), smooth]))
    adata = spots(xy, x=x)
    adata.var_names = [f"noise{i}" for i in range(20)] + ["sine", "cosine", "slope"]
    assert set(pp.spatial_genes(adata, 3)) == {"sine", "cosine", "slope"}
    assert len(pp.spatial_genes(adata)) == 23
    assert pp.spatial_genes(adata, 23) == pp.spatial_genes(adata)
    adata.X = csr_matrix(x)
    assert set(pp.spatial_genes(adata, 3)) == {"sine", "cosine", "slope"}
    adata.layers["counts"], adata.X = x, rng.poisson(20, x.shape)
    assert set(pp.spatial_genes(adata, 3, layer="counts")) == {"sine", "cosine", "slope"}


def test_only_the_most_counted_genes_are_candidates():
    xy, _ = square()
    noise = 100 + np.random.default_rng(0).poisson(5, (90, 4))
    x = np.column_stack([noise, 1 + (xy[:, 0] > 40)])
    adata = spots(xy, x=x.astype(float))
    assert pp.spatial_genes(adata, 1) == ["4"]
    assert "4" not in pp.spatial_genes(adata, n_candidates=4)


def test_ties_go_to_the_more_counted_gene_and_constant_genes_come_last():
    xy, _ = square()
    pattern = np.random.default_rng(0).random(90)
    adata = spots(xy, x=np.column_stack([pattern, 4 * pattern, np.full(90, 9.5), 2 * pattern]))
    assert pp.spatial_genes(adata) == ["1", "3", "0", "2"]


@pytest.mark.parametrize("n_spots", [1, 2, 3, 6])
def test_genes_of_very_few_spots(n_spots):
    xy, _ = square()
    adata = spots(xy[:n_spots], x=profiles(n_spots, 5) * [1, 3, 9, 27, 81] + [0, 1, 2, 3, 4])
    names = pp.spatial_genes(adata, 4)
    assert len(set(names)) == 4
    if n_spots < 3:
        assert names == ["4", "3", "2", "1"]


def test_genes_need_coordinates():
    adata = spots(square()[0])
    del adata.obsm["spatial"]
    with pytest.raises(ValueError, match="Expected spot coordinates"):
        pp.spatial_genes(adata)


# ------------------------------------------------------------------------------------------------------- real data


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("path", "kind", "pitch", "n_neighbors"),
    [("her2st/C2", "square", 291, 4), ("mouse_ob/MOB1", "square", 32.3, 4), ("embryo/embryo", "hex", 21.45, 6)],
)
def test_real_sections(path, kind, pitch, n_neighbors, data_dir):
    read = ad.read_h5ad(data_dir / f"{path}.h5ad", backed="r")
    adata = spots(read.obsm["spatial"], read.obs[["array_col", "array_row"]].to_numpy())
    for indexed in (True, False):
        if not indexed:
            adata.obs = adata.obs.drop(columns=["array_col", "array_row"])
        pp.subspots(adata)
        assert adata.uns["subspots"]["geometry"] == kind
        assert adata.uns["subspots"]["pitch"] == pytest.approx(pitch, rel=0.015)
        assert ("array_steps" in adata.uns["subspots"]) == indexed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # embryo: two spots are isolated
            pp.spot_graph(adata)
        degree = np.diff(adata.obsp["spot_graph"].indptr)
        assert degree.max() == np.median(degree) == n_neighbors
