"""The probability integral transform."""

import dask.array
import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from soscope_scverse import metrics
from soscope_scverse.metrics import _calibration as calibration


def drawn(n_samples=19, shape=(400, 5), scale=1.0, seed=0):
    """Truth and draws with many ties, from the same law if `scale` is 1."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(2, 1, shape)
    spread = rng.gamma(1 / scale**2, scale**2, (n_samples, *shape)) if scale else 1.0
    return rng.poisson(mean * rng.gamma(1, 1, shape)), rng.poisson(mean * spread)


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
