"""Structure scores against closed forms and brute force."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from soscope_scverse import metrics


@pytest.fixture
def counts() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth, 40 targets x 7 features."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(2, 2, (40, 7))
    return rate + rng.normal(0, 0.5, rate.shape).clip(-rate), rng.poisson(rate).astype(float)


def test_kmeans_finds_separate_groups_and_nothing_in_noise():
    rng = np.random.default_rng(5)
    labels = np.repeat(["a", "b", "c"], 30)
    groups = np.repeat(10 * np.eye(3), 30, axis=0) + rng.normal(size=(90, 3))
    assert metrics.kmeans_ari(groups, labels) == 1
    assert metrics.kmeans_ari(csr_matrix(groups), labels, seed=1) == 1
    assert abs(metrics.kmeans_ari(rng.normal(size=(90, 3)), labels)) < 0.1


def test_compactness_weighs_the_clusters_by_size_and_leaves_out_single_targets():
    positions = np.array([[0, 0], [0, 2], [10, 0], [10, 3], [14, 0], [50, 50]])
    labels = ["a", "a", "b", "b", "b", "c"]
    assert metrics.compactness(positions, labels) == pytest.approx((2 * 2 + 3 * (3 + 4 + 5) / 3) / 5)
    assert np.isnan(metrics.compactness(positions, range(6)))


def test_compactness_of_a_large_cluster_is_estimated_from_a_seeded_sample():
    positions = np.random.default_rng(6).random((1500, 2))
    labels = np.zeros(1500)
    exact = metrics.compactness(positions, labels)
    sampled = metrics.compactness(positions, labels, n_sample=500)
    assert sampled == pytest.approx(exact, rel=0.05)
    assert sampled != exact
    assert sampled == metrics.compactness(positions, labels, n_sample=500)


def test_morans_i_is_its_double_sum(counts):
    positions = np.random.default_rng(7).random((40, 2))
    values = counts[1]
    distances = cdist(positions, positions) + np.diag(np.full(40, np.inf))
    nearest = np.argsort(distances, axis=1)[:, :4]
    z = values - values.mean(axis=0)
    double_sum = sum(z[i] * z[j] / 4 for i in range(40) for j in nearest[i])
    np.testing.assert_allclose(metrics.morans_i(csr_matrix(values), positions, 4), double_sum / (z**2).sum(axis=0))


def test_morans_i_tells_smooth_from_checkered_and_constant():
    grid = np.array(list(itertools.product(range(20), range(20))))
    smooth, checkered, flat = grid[:, 0], grid.sum(axis=1) % 2, np.full(400, 0.1)
    noise = np.random.default_rng(8).normal(size=400)
    scores = metrics.morans_i(np.column_stack([smooth, checkered, flat, noise]), grid, 4)
    assert scores[0] > 0.95
    assert scores[1] < -0.85  # less than 1 along the border only
    assert np.isnan(scores[2])
    assert abs(scores[3]) < 0.1


def test_morans_i_stands_observations_at_one_place():
    positions = np.zeros((30, 2))
    positions[20:] = np.random.default_rng(9).random((10, 2)) + 5
    assert np.isfinite(metrics.morans_i(np.arange(30.0)[:, None], positions, 3)).all()
