"""Sections merged on small lattices made by hand."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse

from merging import SECTIONS, cells, hexagonal, square
from soscope_scverse import bench


def test_truth_adds_up_to_the_spots_and_lies_on_their_subspots(merged):
    adata, (low, truth) = merged
    valid = low.obsm["subspot_exposure"] > 0
    spot = np.nonzero(valid)[0]
    sums = np.zeros(low.shape)
    np.add.at(sums, spot, truth.X.toarray())
    np.testing.assert_array_equal(low.X.toarray(), sums)
    np.testing.assert_array_equal(low.obsm["subspots"][valid], truth.obsm["spatial"])
    assert np.isnan(low.obsm["subspots"][~valid]).all()
    np.testing.assert_array_equal(truth.obs["spot"], low.obs_names[spot])
    np.testing.assert_array_equal(truth.obs["subspot"], np.nonzero(valid)[1])
    np.testing.assert_array_equal(adata[truth.obs_names].X.toarray(), truth.X.toarray())
    assert truth.obs_names.is_unique


def test_the_spots_have_every_slot_and_the_input_is_left_alone(merged):
    adata, (low, _) = merged
    exposure = low.obsm["subspot_exposure"]
    np.testing.assert_allclose(exposure.sum(axis=1), 1)
    assert all(len(np.unique(row[row > 0])) == 1 for row in exposure)
    np.testing.assert_allclose(low.obsm["spatial"], np.nanmean(low.obsm["subspots"], axis=1))
    assert issparse(low.X)
    assert low.X.dtype == adata.X.dtype
    pd.testing.assert_frame_equal(low.var, adata.var)
    assert low.uns["subspots"] == {
        "geometry": "positions",
        "n_subspots": exposure.shape[1],
        "aggregate": "sum",
    }
    assert low.obs_names.is_unique
    assert not low.obs.duplicated(["array_row", "array_col"]).any()
    assert adata.uns["spatial"]["slide"]["scalefactors"]["spot_diameter_fullres"] == 4


@pytest.mark.parametrize(("kind", "diameter"), [("square", 8), ("thirds", 12), ("hex", 4 * 7**0.5), ("cells", 10)])
def test_the_merged_spots_are_larger(kind, diameter):
    adata, arguments = SECTIONS[kind]
    scales = bench.simulate_low_resolution(adata, **arguments).adata.uns["spatial"]["slide"]["scalefactors"]
    assert scales["spot_diameter_fullres"] == pytest.approx(diameter)


@pytest.mark.parametrize(("factor", "n_blocks"), [(2, 4 * 3), (3, 2 * 2), (4, 2), (6, 1)])
def test_square_blocks_are_compact_and_as_many_as_fit(factor, n_blocks):
    low = bench.simulate_low_resolution(square(8, 7, first=(1, -4)), factor).adata
    assert low.obsm["subspots"].shape == (n_blocks, factor**2, 2)
    np.testing.assert_array_equal(np.ptp(low.obsm["subspots"], axis=1), 10 * (factor - 1))


def test_the_phase_with_the_most_blocks_wins():
    adata = square(6, 6)
    adata = adata[(adata.obs["array_row"] > 0) & (adata.obs["array_col"] < 5)].copy()  # rows 1..5, columns 0..4
    adata = adata[~((adata.obs["array_row"] == 1) & (adata.obs["array_col"] == 0))].copy()
    low = bench.simulate_low_resolution(adata).adata
    assert low.n_obs == 4  # rows from 2, or columns from 1; the phase of the corner has but 3
    assert bench.simulate_low_resolution(adata[::-1].copy()).adata.n_obs == 4


def test_a_quincunx_is_merged_by_its_square_coordinates():
    adata = square(6, 6)
    u, v = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    adata.obs = pd.DataFrame({"quad_u": u, "quad_v": v, "array_row": u + v, "array_col": u - v}, adata.obs_names)
    low = bench.simulate_low_resolution(adata).adata
    assert low.obsm["subspots"].shape == (9, 4, 2)
    np.testing.assert_array_equal(np.ptp(low.obsm["subspots"], axis=1), 10)


def test_flowers_are_a_spot_and_its_six_neighbours():
    adata = hexagonal(12, 24)
    low = bench.simulate_low_resolution(adata).adata
    assert low.obsm["subspots"].shape[1] == 7
    distances = np.linalg.norm(low.obsm["subspots"] - low.obsm["spatial"][:, None], axis=2)
    np.testing.assert_allclose(np.sort(distances, axis=1), np.tile([0] + [10] * 6, (low.n_obs, 1)), atol=1e-9)


def test_flowers_form_a_coarse_hexagonal_lattice():
    low = bench.simulate_low_resolution(hexagonal(20, 40)).adata
    lattice, centres = low.obs[["array_row", "array_col"]].to_numpy(), low.obsm["spatial"]
    assert len(np.unique(lattice.sum(axis=1) % 2)) == 1
    step = np.abs(lattice[:, None] - lattice)
    touching = ((step[..., 0] == 0) & (step[..., 1] == 2)) | ((step[..., 0] == 1) & (step[..., 1] == 1))
    distances = np.linalg.norm(centres[:, None] - centres, axis=2)
    np.testing.assert_array_equal(touching, np.isclose(distances, 10 * np.sqrt(7)))
    again = bench.simulate_low_resolution(low)  # told to be hexagonal from the coordinates
    assert again.adata.obsm["subspots"].shape[1] == 7


def test_no_phase_of_the_flowers_keeps_more():
    adata = hexagonal(11, 23)
    n_kept = bench.simulate_low_resolution(adata).adata.n_obs
    row, col = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    spots = set(zip(row, col, strict=True))
    steps = [(0, 0), (0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    whole = [all((r + a, c + b) in spots for a, b in steps) for r, c in zip(row, col, strict=True)]
    assert n_kept == np.bincount((((col - row) // 2 + 3 * row) % 7)[whole]).max()


def test_cells_of_a_bin_are_merged_whatever_their_number():
    adata = cells()
    low, truth = bench.simulate_low_resolution(adata, 10, cells=True)
    exposure = low.obsm["subspot_exposure"]
    sizes = (exposure > 0).sum(axis=1)
    assert sizes.min() >= 2
    assert sizes.max() == exposure.shape[1] > sizes.min()
    np.testing.assert_allclose(low.obs["relative_cell_number"], sizes / sizes.mean())
    assert (np.nanmax(low.obsm["subspots"], axis=1) - np.nanmin(low.obsm["subspots"], axis=1)).max() <= 10
    bins = pd.Series(map(tuple, (adata.obsm["spatial"] - adata.obsm["spatial"].min(axis=0)) // 10)).value_counts()
    assert sorted(sizes) == sorted(bins[bins >= 2])
    assert truth.n_obs == bins[bins >= 2].sum()


def test_dense_counts_and_views_are_merged_like_sparse_ones():
    adata = square(6, 6)
    expected = bench.simulate_low_resolution(adata).adata.X.toarray()
    view = ad.concat({"a": adata, "b": square(3, 3)}, uns_merge="first", index_unique="-")[: adata.n_obs]
    np.testing.assert_array_equal(bench.simulate_low_resolution(view).adata.X.toarray(), expected)
    adata.X = adata.X.toarray()
    low = bench.simulate_low_resolution(adata).adata
    assert issparse(low.X)
    np.testing.assert_array_equal(low.X.toarray(), expected)


def without(adata, column):
    adata = adata.copy()
    del adata.obs[column]
    return adata


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bench.simulate_low_resolution(square(6, 6), 7), "integer from 2 to 6 .* found 7"),
        (lambda: bench.simulate_low_resolution(square(6, 6), 2.5), "integer from 2 to 6 .* found 2.5"),
        (lambda: bench.simulate_low_resolution(hexagonal(8, 16), 3), "flower of 7 spots, found 3"),
        (lambda: bench.simulate_low_resolution(square(6, 6), lattice="round"), "one of .*, found 'round'"),
        (lambda: bench.simulate_low_resolution(hexagonal(3, 3)), "no complete block of 7 spots in 5 spots"),
        (lambda: bench.simulate_low_resolution(square(1, 9)), "no complete block of 4"),
        (lambda: bench.simulate_low_resolution(without(square(4, 4), "array_col")), r"no \['array_col'\]"),
        (
            lambda: bench.simulate_low_resolution(
                ad.concat([square(4, 4), square(4, 4)], index_unique="-", keys=["a", "b"])
            ),
            "one section at a time",
        ),
        (lambda: bench.simulate_low_resolution(cells(), 0, cells=True), "positive width"),
        (lambda: bench.simulate_low_resolution(cells(), 1e-6, cells=True), "larger `factor`"),
    ],
)
def test_sections_that_cannot_be_merged_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.realdata
def test_real_cells_are_merged_in_bins(data_dir):
    path = data_dir / "osmfish" / "osmfish.h5ad"
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(path), 1500, cells=True)
    assert 0.9 * 5328 < truth.n_obs <= 5328
    assert low.X.sum() == truth.X.sum()
