"""The baselines against closed forms and scikit-learn."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import multivariate_normal

from merging import SECTIONS, cells, square
from soscope_scverse import _keys as keys
from soscope_scverse import bench, metrics, pp
from soscope_scverse.bench import baselines


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


@pytest.mark.parametrize("name", ["repeat", "linear_conserving", "kriging_image"])
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
def test_real_sections_give_the_tasks_and_figures_of_the_readme(data_dir, name):
    path = data_dir / f"{name}.h5ad"
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
