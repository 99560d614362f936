"""Lattices of spots that are few, scattered or off their place: the right one, or none."""

import numpy as np
import pytest

from lattices import CONVENTIONS, KIND, LATTICES, PITCH, divided, hexagonal, rotation, spots, square
from soscope_scverse import pp
from soscope_scverse.pp._lattice import find_lattice, lattice_or_none


def is_right(lattice, name):
    return lattice.kind == KIND[name] and lattice.pitch == pytest.approx(PITCH, rel=0.05)


@pytest.mark.parametrize("share", [0.5, 0.33, 0.1, 0.03])
@pytest.mark.parametrize("name", LATTICES)
def test_scattered_spots(name, share):
    xy, array = LATTICES[name](60, 50)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        kept = rng.random(len(xy)) < share
        moved = (xy + rng.normal(0, 0.02 * PITCH, xy.shape))[kept] @ rotation(20 * seed)
        assert is_right(find_lattice(moved, array[kept]), name)
        without = lattice_or_none(moved, None)
        assert is_right(without, name) if share > 0.3 else without is None or is_right(without, name)


@pytest.mark.parametrize("n_spots", [2, 3, 4, 5, 7, 8, 12, 30])
@pytest.mark.parametrize("name", LATTICES)
def test_very_few_spots_are_right_or_refused(name, n_spots):
    xy, array = LATTICES[name](60, 50)
    found = []
    for seed in range(20):
        rows = np.random.default_rng(seed).choice(len(xy), n_spots, replace=False)
        found.append(lattice_or_none(xy[rows], array[rows]))
    assert all(is_right(lattice, name) for lattice in found if lattice is not None)
    assert n_spots < 12 or sum(lattice is not None for lattice in found) >= 18


def test_bins_of_a_large_array():
    """Visium HD: some of 3,350 x 3,350 bins of 2 um."""
    array = np.random.default_rng(0).integers(0, 3350, (15, 2))
    lattice = find_lattice(array * 7.3 @ rotation(3), array)
    assert lattice.kind == "square"
    assert lattice.pitch == pytest.approx(7.3)


@pytest.mark.parametrize("name", LATTICES)
def test_spots_off_their_place(name):
    xy, _ = LATTICES[name](16, 14)
    for seed in range(5):
        moved = xy + np.random.default_rng(seed).normal(0, 0.09 * PITCH, xy.shape)
        assert is_right(find_lattice(moved @ rotation(11 * seed)), name)


@pytest.mark.parametrize("n_spots", [8, 20, 100])
def test_random_positions_are_no_lattice(n_spots):
    found = [lattice_or_none(np.random.default_rng(seed).random((n_spots, 2)), None) for seed in range(50)]
    assert sum(lattice is not None for lattice in found) == 0


@pytest.mark.parametrize("flip", [False, True])
def test_rows_that_are_shifted_and_not_numbered_so(flip):
    xy, array = hexagonal()
    plain = np.column_stack([array[:, 0] // 2, array[:, 1]])
    found = find_lattice(xy, plain[:, ::-1] if flip else plain)
    assert is_right(found, "hex")
    assert found.array_steps is None


def test_one_wrong_index_changes_nothing():
    xy, array = hexagonal()
    wrong = array.copy()
    wrong[7, 0] += 1
    np.testing.assert_allclose(find_lattice(xy, wrong).basis, find_lattice(xy, array).basis, atol=0.05 * PITCH)


def test_every_second_row_and_column_is_a_lattice_of_its_own():
    xy, array = square(10, 10)
    kept = (array % 2 == 0).all(axis=1)
    assert divided(xy[kept], array[kept]).uns["subspots"]["pitch"] == pytest.approx(2 * PITCH)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("name", "every", "axis"),
    [  # every third column of a hexagonal array is a hexagonal lattice of its own
        *(("square", every, axis) for every in (2, 3, 4) for axis in (0, 1)),
        *(("hex", every, axis) for every, axis in ((2, 0), (2, 1), (3, 1), (4, 0), (4, 1))),
    ],
)
def test_missing_rows_or_columns_do_not_change_the_lattice_of_the_array(name, every, axis, convention):
    xy, array = LATTICES[name](16, 14)
    kept = array[:, axis] % every == 0
    found = find_lattice(xy[kept] @ rotation(15), CONVENTIONS[convention](array)[kept])
    assert is_right(found, name)
    assert np.linalg.norm(found.basis, axis=1) == pytest.approx(PITCH)
    graph = pp.spot_graph(spots(xy[kept], array[kept]), copy=True).obsp["spot_graph"]
    assert (graph.getnnz(axis=1) >= 2).all()  # to the next spots that are there


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("name", ["square", "hex"])
def test_elongated_lattices_without_array_indices_are_refused(name, every):
    xy, array = LATTICES[name](16, 14)
    xy = xy[array[:, 1] % every == 0] @ rotation(15)
    with pytest.raises(ValueError, match=r"rows or columns of spots may be missing.*array_row.*positions="):
        divided(xy)
    assert divided(xy, geometry="square").n_obs == len(xy)
    assert divided(xy, positions=xy[:, None] + np.array([[-1.0, 0], [1, 0]])).n_obs == len(xy)


@pytest.mark.parametrize("name", LATTICES)
def test_stretched_lattices_are_accepted(name):
    for degrees in (0, 20, 45, 90):
        turned = LATTICES[name](12, 12)[0] @ rotation(degrees)
        assert divided(turned * [1.2, 1]).uns["subspots"]["geometry"] == KIND[name]


def test_indices_in_micrometres_are_no_array_with_missing_rows():
    xy, array = hexagonal(12, 12)
    found = find_lattice(xy, array * [50, 87])
    assert is_right(found, "hex")
