"""The probability integral transform, its plot, and the variances that the draws are made with."""

import dask.array
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from soscope_scverse import datasets, metrics, pl
from soscope_scverse.metrics import _calibration as calibration
from soscope_scverse.model.estimates.uncertainty import feature_variation
from soscope_scverse.model.inference.sampler import residual_roots

mpl.use("Agg")


def drawn(n_samples=19, shape=(400, 5), scale=1.0, seed=0):
    """Truth and draws with many ties, from the same law if `scale` is 1."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2, 1, shape)
    spread = rng.gamma(1 / scale**2, scale**2, (n_samples, *shape)) if scale else 1.0
    return rng.poisson(mean * rng.gamma(1, 1, shape)), rng.poisson(mean * spread)


# ----------------------------------------------------------------------------------------------------------------- pit


@pytest.mark.parametrize("n_samples", [1, 4, 50])
def test_pit_of_calibrated_draws_is_uniform_whatever_their_number_and_ties(n_samples):
    truth, draws = drawn(n_samples, shape=(4000, 5))
    assert (draws[0] == truth).mean() > 0.2
    assert stats.kstest(metrics.pit(truth, draws).ravel(), "uniform").pvalue > 0.01


def test_pit_by_hand():
    draws = np.array([0.0, 1, 1, 2]).reshape(4, 1, 1)
    for truth, low, high in ((-1.0, 0, 0.2), (0.0, 0, 0.4), (1.0, 0.2, 0.8), (1.5, 0.6, 0.8), (3.0, 0.8, 1)):
        values = [metrics.pit(np.array([[truth]]), draws, seed=seed).item() for seed in range(200)]
        assert low < min(values) < low + 0.05
        assert high - 0.05 < max(values) < high


def test_pit_tells_too_narrow_from_too_wide():
    narrow, wide = (metrics.central_coverage(metrics.pit(*drawn(50, scale=s))).mean() for s in (0.3, 3.0))
    assert narrow < 0.8
    assert wide > 0.93


def test_pit_of_arrays_on_disk_and_of_sparse_truth(monkeypatch):
    truth, draws = drawn()
    expected = metrics.pit(truth, draws, seed=3)
    monkeypatch.setattr(calibration, "_VALUES_AT_ONCE", 1000)
    np.testing.assert_array_equal(metrics.pit(csr_matrix(truth), dask.array.from_array(draws), seed=3), expected)
    assert not np.array_equal(metrics.pit(truth, draws, seed=4), expected)


def test_pit_of_missing_values_is_missing():
    truth, draws = (values.astype(float) for values in drawn(shape=(6, 3)))
    truth[0, 0] = draws[2, 1, 1] = np.nan
    values = metrics.pit(truth, draws)
    assert np.argwhere(np.isnan(values)).tolist() == [[0, 0], [1, 1]]
    assert np.isnan(metrics.central_coverage(values)).tolist() == [True, True, False]


@pytest.mark.parametrize("shape", [(6, 3), (0, 6, 3), (2, 3, 6)])
def test_pit_wants_draws_of_the_truth(shape):
    with pytest.raises(ValueError, match="n_samples x n_targets"):
        metrics.pit(np.zeros((6, 3)), np.zeros(shape))


def test_central_coverage():
    values = np.linspace(0.005, 0.995, 100)[:, None] * np.array([1, 0.5])
    np.testing.assert_allclose(metrics.central_coverage(values), [0.9, 0.9])
    np.testing.assert_allclose(metrics.central_coverage(values, level=0.5), [0.5, 0.5])
    with pytest.raises(ValueError, match="level"):
        metrics.central_coverage(values, level=90)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        metrics.central_coverage(values * 2)


# ---------------------------------------------------------------------------------------------------------------- plot


def test_calibration_curve_is_the_share_inside(tmp_path):
    pit = metrics.pit(*drawn(50, scale=0.3))
    ax = pl.calibration(pit, save=tmp_path / "calibration.png")
    level, inside = ax.lines[1].get_data()
    assert (tmp_path / "calibration.png").stat().st_size > 0
    assert inside[-1] == 1
    at_90 = np.isclose(level, 0.9)
    assert inside[at_90].item() == pytest.approx(metrics.central_coverage(pit).mean(), abs=1e-3)
    assert ax.get_legend() is None
    plt.close("all")


def test_calibration_curves_by_name():
    _, ax = plt.subplots()
    curves = {"a": np.array([0.5, np.nan]), "b": np.array([0.1, 0.9])}
    assert pl.calibration(curves, ax=ax) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    plt.close("all")


@pytest.mark.parametrize("values", [[1.5], [np.nan], []])
def test_calibration_refuses_what_is_no_pit(values):
    with pytest.raises(ValueError, match=r"metrics\.pit"):
        pl.calibration(np.array(values))


# ----------------------------------------------------------------------------------------------------------- variation


def lattice(n):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) * 50.0


def field(rng, spatial, length, size):
    covariance = np.exp(-cdist(spatial, spatial) / length)
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(spatial))) @ rng.normal(size=(len(spatial), size))


@pytest.mark.parametrize("library_size_noise", [0.0, 0.1])
def test_variation_of_counts_is_found(library_size_noise):
    rng = np.random.default_rng(0)
    spatial, phi = lattice(20), np.repeat([0.5, 5.0], 20)
    depth = np.sqrt(library_size_noise) * rng.normal(size=(400, 1))
    mean = 60 * np.exp(np.sqrt(0.3) * field(rng, spatial, 3 * 50, 40) + depth)
    x = rng.poisson(rng.gamma(mean / phi, phi))
    found = feature_variation(x, spatial, library_size_noise=library_size_noise)
    assert found.length in (2, 3, 4)
    for value in (0.5, 5.0):
        assert value / 1.7 < np.median(found.dispersion[phi == value]) < 1.7 * value
    # within a spot it is the variance by length that counts
    variance = (found.loadings**2).sum(axis=0)
    assert np.median(variance) / found.length == pytest.approx(0.1, rel=0.3)


def test_variation_of_other_data_is_found():
    rng = np.random.default_rng(0)
    spatial = lattice(20)
    x = 2 * field(rng, spatial, 2 * 50, 40) + 1.5 * rng.normal(size=(400, 40)) + 100
    found = feature_variation(x, spatial, is_counts=False)
    assert np.median(found.dispersion) == pytest.approx(2.25, rel=0.3)
    assert np.median((found.loadings**2).sum(axis=0)) == pytest.approx(4, rel=0.3)


def test_features_that_vary_together_have_loadings_that_do():
    rng = np.random.default_rng(0)
    spatial = lattice(15)
    one, other = field(rng, spatial, 150, 2).T
    x = rng.poisson(200 * np.exp(0.6 * np.stack([one, one, -one, other], axis=1)))
    loadings = feature_variation(x, spatial).loadings
    correlation = np.corrcoef(field(rng, spatial, 1, len(loadings)) @ loadings, rowvar=False)
    assert correlation[0, 1] > 0.9
    assert correlation[0, 2] < -0.9
    assert abs(correlation[0, 3]) < 0.7


def test_variation_does_not_depend_on_units_of_position_and_size():
    section = datasets.synthetic_section(60, n_genes=8).adata
    x, spatial = section.X, section.obsm["spatial"]
    size = np.random.default_rng(0).uniform(0.5, 2, (60, 1))
    expected = feature_variation(x, spatial, size=size)
    moved = feature_variation(x, 7 * spatial[:, ::-1] + 100, size=size)
    np.testing.assert_allclose(moved.dispersion, expected.dispersion)
    np.testing.assert_allclose(moved.loadings**2, expected.loadings**2, atol=1e-10)
    assert not np.allclose(feature_variation(x, spatial).dispersion, expected.dispersion)


@pytest.mark.parametrize("is_counts", [True, False])
def test_variation_of_next_to_nothing(is_counts):
    few = feature_variation(np.ones((3, 4)), lattice(2)[:3], is_counts=is_counts)
    assert not few.loadings.any()
    empty = feature_variation(np.zeros((25, 4)), lattice(5), is_counts=is_counts)
    for found in (few, empty):
        assert np.isfinite(found.dispersion).all()
        assert (found.dispersion > 0).all()
        assert np.isfinite(found.loadings).all()


# ----------------------------------------------------------------------------------------------------------- residuals


def divided(n_side, n_spots=2):
    """Spots of n_side x n_side subspots, in distances of the spots."""
    offset = (np.arange(n_side) + 0.5) / n_side
    square = np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
    return np.tile(square, (n_spots, 1, 1)), np.full((n_spots, n_side**2), n_side**-2.0)


def test_residuals_average_to_nothing_over_a_spot():
    positions, exposure = divided(3)
    exposure[1] = np.r_[0.5, np.full(6, 0.5 / 6), 0, 0]
    root = residual_roots(np.where(exposure[..., None] > 0, positions, np.nan), exposure)
    np.testing.assert_allclose(np.einsum("nk,nkj->nj", exposure, root), 0, atol=1e-7)
    assert np.sqrt((root**2).sum(axis=2))[exposure > 0].min() > 0.2


def test_residuals_are_what_the_average_does_not_tell():
    """Against draws of the process: what is left of it after regression on its average over the spot."""
    positions, exposure = divided(2)
    draws = field(np.random.default_rng(0), positions[0], 1, 50_000)
    average = draws.mean(axis=0)
    left = draws - np.outer(draws @ average / (average @ average), average)
    root = residual_roots(positions, exposure)[0]
    np.testing.assert_allclose(root @ root.T, left @ left.T / 50_000, atol=0.01)


def test_residuals_of_long_fields_fine_divisions_and_whole_spots():
    def variance(n_side, length):
        positions, exposure = divided(n_side)
        return (residual_roots(positions / length, exposure)[0] ** 2).sum() / n_side**2

    assert variance(2, 10) < 0.2 * variance(2, 1)
    assert variance(2, 2) < variance(6, 2) < 2 * variance(2, 2)
    assert variance(1, 2) == pytest.approx(0, abs=1e-12)
