"""Divisions of lattices made by hand, against closed forms."""

import warnings

import anndata as ad
import numpy as np
import pytest
from scipy.spatial import Voronoi, cKDTree

from lattices import (
    CONVENTIONS,
    DIVISIONS,
    KIND,
    LATTICES,
    PITCH,
    central,
    divided,
    hexagonal,
    random_xy,
    rotation,
    spots,
    square,
)
from soscope_scverse import pp
from soscope_scverse.pp._geometry import fine_array_index

SLOTS = ("subspots", "subspot_exposure", "subspot_measured")


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


# ------------------------------------------------------------------------------------------------------------- lattices


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


# --------------------------------------------------------------------------------------------------------------- tiling


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


# ------------------------------------------------------------------------------------------------------ moves and order


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


# ------------------------------------------------------------------------------------------------------ what is written


def test_written_slots_survive_a_file(tmp_path):
    adata = spots(*hexagonal())
    assert pp.subspots(adata, 19, capture=None) is None
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


# --------------------------------------------------------------------------------------------------------------- errors


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


# ---------------------------------------------------------------------------------------------- indices of the subspots


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


# ------------------------------------------------------------------------------------------------------------ real data


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
