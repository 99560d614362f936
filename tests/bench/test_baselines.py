"""Merged sections on small lattices made by hand, and the baselines against closed forms and scikit-learn."""

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, issparse
from scipy.stats import multivariate_normal

from soscope_scverse import _keys as keys
from soscope_scverse import bench, metrics, pp
from soscope_scverse.bench import baselines

DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def section(lattice, positions, columns=("array_row", "array_col"), n_genes=3) -> ad.AnnData:
    """Counts on given lattice positions, shuffled so that no test leans on the order of the rows."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(positions))
    obs = pd.DataFrame(np.asarray(lattice)[order], columns=list(columns), index=[f"s{i}" for i in range(len(order))])
    x = csr_matrix(rng.poisson(3, (len(order), n_genes)).astype(np.int32))
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame({"kind": "gene"}, index=[f"g{i}" for i in range(n_genes)]))
    adata.obsm["spatial"] = np.asarray(positions, dtype=float)[order]
    adata.uns["spatial"] = {"slide": {"images": {}, "scalefactors": {"spot_diameter_fullres": 4.0}}}
    return adata


def square(n_rows, n_cols, first=(0, 0)) -> ad.AnnData:
    lattice = np.stack(np.meshgrid(range(n_rows), range(n_cols), indexing="ij"), -1).reshape(-1, 2) + first
    return section(lattice, 10.0 * lattice[:, ::-1])


def hexagonal(n_rows, n_cols) -> ad.AnnData:
    rows, cols = np.nonzero(np.add.outer(np.arange(n_rows), np.arange(n_cols)) % 2 == 0)
    return section(np.column_stack([rows, cols]), np.column_stack([5 * cols, 5 * np.sqrt(3) * rows]))


def cells(n_cells=60) -> ad.AnnData:
    positions = np.random.default_rng(1).random((n_cells, 2)) * [40, 30] + 100
    return section(np.zeros((n_cells, 0)), positions, columns=())


SECTIONS = {
    "square": (square(5, 7), {}),
    "thirds": (square(7, 7, first=(-3, 11)), {"factor": 3}),
    "hex": (hexagonal(12, 24), {}),
    "cells": (cells(), {"factor": 10.0, "cells": True}),
}


@pytest.fixture(params=SECTIONS)
def merged(request) -> tuple[ad.AnnData, bench.LowResolution]:
    adata, arguments = SECTIONS[request.param]
    return adata, bench.simulate_low_resolution(adata, **arguments)


# ---------------------------------------------------------------------------------------------------------- simulation


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


def test_spatial_genes_are_the_smooth_ones_among_the_most_counted():
    rng = np.random.default_rng(2)
    adata = square(12, 12)
    depth = rng.gamma(3, 1, (144, 1))
    x, y = adata.obsm["spatial"].T / 110
    names = ["noise", "gradient", "bump", "rare gradient", "flat"]
    rates = np.column_stack([x * 0 + 30, 40 * x + 10, 20 + 30 * (y > 0.5), 2 * x, x * 0 + 300])
    counts = ad.AnnData(csr_matrix(rng.poisson(rates * depth)), var=pd.DataFrame(index=names))
    counts.obsm["spatial"] = adata.obsm["spatial"]
    assert set(pp.spatial_genes(counts, 2)) == {"gradient", "bump"}
    assert "rare gradient" not in pp.spatial_genes(counts, 5, n_candidates=4)
    assert len(pp.spatial_genes(counts)) == 5


# ---------------------------------------------------------------------------------------------------------- baselines


def with_features(low: ad.AnnData) -> ad.AnnData:
    """Image features that follow the position, with one that is constant."""
    xy = low.obsm["subspots"] / 10
    features = np.concatenate([np.sin(xy), np.cos(xy), np.full_like(xy[..., :1], 0.1)], axis=2)
    low.obsm["subspot_features"] = features.astype(np.float32)
    return low


def plane(rows=8, cols=8) -> bench.LowResolution:
    """Merge a section whose counts rise linearly with the position."""
    adata = square(rows, cols)
    x, y = adata.obsm["spatial"].T
    adata.X = csr_matrix(np.column_stack([x + 10, 2 * y + 5, 300 - x - y]))
    return bench.simulate_low_resolution(adata)


@pytest.mark.parametrize("name", bench.BASELINES)
@pytest.mark.parametrize("kind", ["square", "cells"])
@pytest.mark.filterwarnings("error")
def test_every_baseline_predicts_counts_of_every_target_without_a_warning(name, kind):
    adata, arguments = SECTIONS[kind]
    low, truth = bench.simulate_low_resolution(adata, **arguments)
    with_features(low)
    prediction = bench.BASELINES[name](low)
    assert prediction.shape == truth.shape
    assert np.isfinite(prediction).all()
    assert prediction.min() >= 0
    np.testing.assert_array_equal(bench.BASELINES[name](low), prediction)
    assert bench.BASELINES[name](low[:, :1]).shape == (truth.n_obs, 1)


@pytest.mark.parametrize("name", bench.BASELINES)
def test_every_baseline_spreads_a_uniform_section_by_exposure(name):
    low, _ = bench.simulate_low_resolution(cells(), 10, cells=True)
    with_features(low)
    for size in (low.obs["relative_cell_number"].to_numpy()[:, None], np.ones((low.n_obs, 1))):
        low.obs["relative_cell_number"] = size
        low.X = csr_matrix(np.full(low.shape, 12.0) * size)
        exposure = size * low.obsm["subspot_exposure"]
        np.testing.assert_allclose(bench.BASELINES[name](low), np.tile(12 * exposure[exposure > 0][:, None], 3))


@pytest.mark.parametrize("name", ["repeat", "linear_conserving"])
def test_conserving_baselines_add_up_to_the_spots(name, merged):
    _, (low, truth) = merged
    spot = low.obs_names.get_indexer(truth.obs["spot"])
    sums = np.zeros(low.shape)
    np.add.at(sums, spot, bench.BASELINES[name](low))
    np.testing.assert_allclose(sums, low.X.toarray(), atol=1e-9)


def test_the_gaussian_process_does_not_see_the_order_of_the_spots():
    """Of a gene in one spot, too, where no length scale explains anything and all shares of signal are equally good."""
    spots = ad.AnnData(np.eye(16, dtype=np.float32)[:, [5]], obsm={"spatial": 10.0 * np.mgrid[:4, :4].reshape(2, -1).T})
    pp.subspots(spots, positions=spots.obsm["spatial"][:, None] + [[-0.2, 0], [0.2, 0]])
    rows = np.random.default_rng(0).permutation(16)
    straight, mixed = (baselines.gaussian_process(x).reshape(16, 2) for x in (spots, spots[rows].copy()))
    np.testing.assert_allclose(mixed, straight[rows], atol=1e-6)


def test_repeat_has_no_resolution(merged):
    _, (low, truth) = merged
    np.testing.assert_array_equal(metrics.within_r(baselines.repeat(low), truth.X, truth.obs["spot"]), 0)


def test_linear_is_exact_on_a_plane_inside_the_hull_and_nearest_outside():
    low, truth = plane()
    prediction = baselines.linear(low)
    inside = ((truth.obsm["spatial"] > 5) & (truth.obsm["spatial"] < 65)).all(axis=1)
    np.testing.assert_allclose(prediction[inside], truth.X.toarray()[inside])
    corner = np.flatnonzero((truth.obsm["spatial"] == 0).all(axis=1))
    spot = low.obs_names.get_indexer(truth.obs["spot"].iloc[corner])
    np.testing.assert_allclose(prediction[corner], low.X.toarray()[spot] / 4)


def test_linear_says_that_spots_on_one_line_cannot_be_interpolated():
    low = bench.simulate_low_resolution(square(2, 12)).adata
    with pytest.raises(ValueError, match="do not lie on one line"):
        baselines.linear(low)


@pytest.mark.parametrize("name", ["gaussian_process", "image_linear", "image_gaussian_process"])
def test_smooth_sections_are_recovered(name):
    low, truth = plane(16, 16)
    low.obsm["subspot_features"] = low.obsm["subspots"] @ np.array([[1.0, 1, 0], [1, -1, 0]])
    prediction = bench.BASELINES[name](low)
    assert metrics.within_r(prediction, truth.X, truth.obs["spot"]).min() > 0.95
    assert metrics.pearson(prediction, truth.X).min() > 0.99


@pytest.mark.parametrize("name", ["image_mlp", "joint_mlp"])
def test_networks_learn_from_the_image(name):
    low, truth = plane(24, 24)
    low.obsm["subspot_features"] = low.obsm["subspots"] @ np.array([[1.0, 1, 0], [1, -1, 0]])
    assert metrics.pearson(bench.BASELINES[name](low), truth.X).min() > 0.9


def test_gaussian_process_has_the_best_evidence_of_its_grid_and_the_posterior_mean():
    rng = np.random.default_rng(3)
    inputs, new = rng.normal(size=(30, 2)), rng.normal(size=(5, 2))
    values = np.column_stack([np.sin(2 * inputs[:, 0]), inputs[:, 1] + rng.normal(0, 1, 30), rng.normal(0, 1, 30)])
    prediction = baselines._fit_gaussian_process(inputs, values)(new)
    for gene, y in enumerate(values.T):
        candidates = []
        for length in baselines.LENGTH_SCALES * np.sqrt(2):
            kernel = baselines._rbf(inputs, inputs, length)
            for share in baselines.SIGNAL_SHARES:
                covariance = share * kernel + (1 - share) * np.eye(30)
                weights = np.linalg.solve(covariance, y)
                best_scale = y @ weights / 30
                evidence = multivariate_normal.logpdf(y, np.zeros(30), best_scale * covariance)
                candidates.append((evidence, share * baselines._rbf(new, inputs, length) @ weights))
        expected = max(candidates, key=lambda candidate: candidate[0])[1]
        np.testing.assert_allclose(prediction[:, gene], expected, atol=1e-8)


def test_gaussian_process_is_that_of_scikit_learn():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    rng = np.random.default_rng(4)
    inputs, new = rng.uniform(-1.7, 1.7, (60, 2)), rng.uniform(-1.2, 1.2, (20, 2))
    y = np.sin(2 * inputs[:, 0]) + np.cos(2 * inputs[:, 1]) + rng.normal(0, 0.3, 60)
    y = (y - y.mean()) / y.std()
    tuned = GaussianProcessRegressor(ConstantKernel() * RBF() + WhiteKernel(), random_state=0).fit(inputs, y)
    ours = baselines._fit_gaussian_process(inputs, y[:, None])(new)[:, 0]
    np.testing.assert_allclose(ours, tuned.predict(new), atol=0.1)


def test_image_features_of_padding_are_never_read():
    low, _ = bench.simulate_low_resolution(cells(), 10, cells=True)
    expected = baselines.image_linear(with_features(low))
    low.obsm["subspot_features"][low.obsm["subspot_exposure"] == 0] = np.inf
    np.testing.assert_array_equal(baselines.image_linear(low), expected)


def broken(slot, value) -> ad.AnnData:
    low = with_features(plane().adata)
    if value is None:
        del low.obsm[slot]
    else:
        low.obsm[slot] = value(low.obsm[slot])
    return low


@pytest.mark.parametrize(
    ("slot", "value", "message"),
    [
        (keys.SPATIAL, None, "spot coordinates"),
        (keys.EXPOSURE, None, "subspot_exposure.*found only"),
        (keys.SUBSPOTS, None, "pp.subspots"),
        (keys.FEATURES, None, "im.features"),
        (keys.FEATURES, lambda x: x[:, :2], "hold 4 subspots per spot.* found 2"),
        (keys.FEATURES, lambda x: x[..., 0], "3 dimensions, found shape"),
        (keys.FEATURES, lambda x: x * np.nan, "finite"),
    ],
)
def test_a_missing_or_wrong_slot_is_named(slot, value, message):
    with pytest.raises(ValueError, match=message):
        baselines.joint_mlp(broken(slot, value))


# ---------------------------------------------------------------------------------------------------------- real data

README = {  # file: spots, parts, Pearson of the repeated spot, of linear, of the Gaussian process
    "her2st/C2": (39, 4, 0.758, 0.765, 0.762),
    "her2st/C3": (36, 4, 0.756, 0.750, 0.734),
    "her2st/C4": (36, 4, 0.738, 0.743, 0.676),
    "mouse_ob/MOB1": (85, 4, 0.761, 0.739, 0.713),
    "mouse_ob/MOB2": (91, 4, 0.775, 0.756, 0.726),
    "embryo/embryo": (324, 7, 0.855, 0.876, 0.839),
    "humanskin/humanskin_prot": (343, 4, 0.740, 0.720, 0.578),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", README)
def test_real_sections_give_the_tasks_and_figures_of_the_readme(name):
    path = DATA / f"{name}.h5ad"
    if not path.exists():
        pytest.skip(f"no {path}: set SOSCOPE_TEST_DATA to the folder of the real sections")
    n_spots, n_parts, *expected = README[name]
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(path))
    assert low.obsm["subspots"].shape[:2] == (n_spots, n_parts)
    genes = pp.spatial_genes(truth, 60)
    scores = [
        np.median(metrics.pearson(baseline(low[:, genes]), truth[:, genes].X))
        for baseline in (baselines.repeat, baselines.linear, baselines.gaussian_process)
    ]
    np.testing.assert_allclose(scores[:2], expected[:2], atol=0.011)
    np.testing.assert_allclose(scores[2], expected[2], atol=0.035)


@pytest.mark.realdata
def test_real_cells_are_merged_in_bins():
    path = DATA / "osmfish" / "osmfish.h5ad"
    if not path.exists():
        pytest.skip(f"no {path}: set SOSCOPE_TEST_DATA to the folder of the real sections")
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(path), 1500, cells=True)
    assert 0.9 * 5328 < truth.n_obs <= 5328
    assert low.X.sum() == truth.X.sum()
