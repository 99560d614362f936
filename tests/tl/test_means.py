"""Data that average: from merged sections through the model and its rivals."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from soscope_scverse import bench, datasets, im, tl
from soscope_scverse.module.likelihoods import get_likelihood

FAST = {"accelerator": "cpu", "train_kwargs": {"max_steps": 2, "enable_progress_bar": False}}


@pytest.fixture(scope="module")
def beads():
    """Slide-DNA-seq-like: two principal components of fine beads."""
    return datasets.synthetic_components(900)


@pytest.mark.parametrize("factor", range(2, 7))
@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_components_run_and_their_subspots_average_to_the_spots(beads, factor):
    low, truth = bench.simulate_low_resolution(beads.adata, factor, aggregate="mean")
    assert low.obsm["subspots"].shape[1] == factor**2
    np.testing.assert_allclose(low.X, truth.X.reshape(low.n_obs, factor**2, 2).mean(axis=1), atol=1e-6)
    enhanced = tl.enhance(low, image=beads.image, likelihood="gaussian", n_samples=2, **FAST)
    assert enhanced.shape == truth.shape
    np.testing.assert_allclose(enhanced.obsm["spatial"], truth.obsm["spatial"])
    np.testing.assert_allclose(enhanced.X.reshape(low.n_obs, factor**2, 2).mean(axis=1), low.X, atol=1e-4)
    assert enhanced.X.min() < 0
    assert (enhanced.layers["std"] > 0).all()


def test_cells_of_a_bin_are_averaged_whatever_their_number():
    adata = datasets.synthetic_components(100).adata
    adata.obsm["spatial"] = np.random.default_rng(0).random((100, 2)) * 100
    low, truth = bench.simulate_low_resolution(adata, 25, cells=True, aggregate="mean")
    assert len(np.unique((low.obsm["subspot_exposure"] > 0).sum(axis=1))) > 1
    means = truth.to_df().groupby(truth.obs["spot"].to_numpy()).mean().loc[low.obs_names]
    np.testing.assert_allclose(low.X, means, atol=1e-6)


def test_comparisons_take_gaussian_data(beads):
    low, truth = bench.simulate_low_resolution(beads.adata, 6, aggregate="mean")
    kwargs = {"likelihood": "gaussian", **FAST}
    df = bench.compare(low, truth, beads.image, seeds=[0], progress=False, enhance_kwargs=kwargs)
    assert set(df["method"]) == {*bench.BASELINES, "soscope"}
    assert df["value"].notna().all()
    repeat = df[(df["method"] == "repeat") & (df["metric"] == "within_r")]
    np.testing.assert_array_equal(repeat["value"], 0)


@pytest.mark.parametrize("name", bench.BASELINES)
def test_baselines_of_means_know_no_zero_and_no_exposure(beads, name):
    """They follow a shift of the data, which those of counts cannot."""
    low, _ = bench.simulate_low_resolution(beads.adata, 6, aggregate="mean")
    im.features(low, beads.image)
    prediction = bench.BASELINES[name](low)
    assert prediction.min() < 0
    assert np.abs(prediction.mean(axis=0) - low.X.mean(axis=0)).max() < 0.3
    low.X = low.X - 100
    np.testing.assert_allclose(bench.BASELINES[name](low), prediction - 100, atol=1e-4)


@pytest.mark.parametrize("name", ["repeat", "linear_conserving", "kriging_image"])
def test_conserving_baselines_average_to_the_spots(beads, name):
    low, _ = bench.simulate_low_resolution(beads.adata, 3, aggregate="mean")
    prediction = bench.BASELINES[name](low).reshape(low.n_obs, 9, 2)
    np.testing.assert_allclose(prediction.mean(axis=1), low.X, atol=1e-9)


def test_a_shift_keeps_what_is_inside_the_spots(beads):
    low, _ = bench.simulate_low_resolution(beads.adata, 3, aggregate="mean")
    plain, conserving = (bench.BASELINES[name](low).reshape(-1, 9, 2) for name in ("linear", "linear_conserving"))
    centred = [values - values.mean(axis=1, keepdims=True) for values in (plain, conserving)]
    np.testing.assert_allclose(*centred, atol=1e-9)


def test_an_unknown_aggregate_is_named(beads):
    with pytest.raises(ValueError, match=r"\['sum', 'mean'\], found 'median'"):
        bench.simulate_low_resolution(beads.adata, 2, aggregate="median")
    with pytest.raises(ValueError, match="found 'median'"):
        get_likelihood("gaussian", aggregate="median")


def test_peaks_run_and_add_up():
    """Spatial-CUT&Tag-like: a thinned section is shallow, and nearly Poisson whatever its overdispersion was."""
    low, image, truth = datasets.synthetic_section(49, lattice="square", n_subspots=4, n_genes=60)
    kept = np.random.default_rng(0).binomial(truth.X.toarray(), 0.02)
    low.X = csr_matrix(kept.reshape(low.n_obs, 4, -1).sum(axis=1))
    assert (kept == 0).mean() > 0.8
    enhanced = tl.enhance(low, image=image, n_subspots=4, likelihood="poisson", n_samples=2, **FAST)
    np.testing.assert_allclose(enhanced.X.reshape(low.n_obs, 4, -1).sum(axis=1), low.X.toarray(), atol=1e-4)
    assert enhanced.X.min() >= 0
