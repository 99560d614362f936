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


def squares(n: int = 8, width: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Positions on an n x n lattice, and the spot of each: squares of width x width."""
    y, x = (axis.ravel() for axis in np.mgrid[:n, :n])
    return np.column_stack([x, y]).astype(float), x // width + n * (y // width)


def test_seam_index_of_steps_between_the_spots():
    """Steps of 1 inside a spot and of 3 across a border, along x: the index is 3."""
    xy, spot = squares()
    x = xy[:, 0]
    values = np.column_stack([x, x + 2 * (x // 2), 5 * x + 1])
    np.testing.assert_allclose(metrics.seam_index(values, xy, spot), [1, 3, 1])
    np.testing.assert_allclose(metrics.seam_index(csr_matrix(values), 70 * xy + 5, spot.astype(str)), [1, 3, 1])


def test_seam_index_of_gain_differences_and_of_independent_values():
    xy, spot = squares(40)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1600, 30))
    assert metrics.seam_index(noise, xy, spot).mean() == pytest.approx(1, abs=0.02)
    shifts = 2 * rng.normal(size=(1600, 30))[spot]
    # differences are normal: of variance 2 inside, 2 + 2 * 4 across the borders
    assert metrics.seam_index(noise + shifts, xy, spot).mean() == pytest.approx(5**0.5, rel=0.02)


def test_seam_index_where_nothing_differs():
    xy, spot = squares()
    values = np.column_stack([spot, np.ones(64)])
    np.testing.assert_array_equal(metrics.seam_index(values, xy, spot), [np.inf, np.nan])
    assert np.isnan(metrics.seam_index(values, xy, np.zeros(64))).all()
    assert np.isnan(metrics.seam_index(values, xy, np.arange(64))).all()


def test_seam_index_of_sections_that_lie_on_each_other():
    xy, spot = squares()
    values = np.random.default_rng(0).normal(size=(128, 3))
    both = np.vstack([xy, xy + 0.1])
    sections = np.repeat(["a", "b"], 64)
    found = metrics.seam_index(values, both, np.r_[spot, spot + 100], sections)
    i, j = np.array([(i, j) for i in range(64) for j in range(i) if np.linalg.norm(xy[i] - xy[j]) == 1]).T
    i, j, across = np.r_[i, i + 64], np.r_[j, j + 64], np.tile(spot[i] != spot[j], 2)
    difference = np.abs(values[i] - values[j])
    np.testing.assert_allclose(found, difference[across].mean(axis=0) / difference[~across].mean(axis=0))


def test_seam_index_needs_a_position_and_a_spot_for_each_target():
    xy, spot = squares()
    values = np.ones((64, 2))
    with pytest.raises(ValueError, match="one position for each of the 64 targets, found 63"):
        metrics.seam_index(values, xy[1:], spot)
    with pytest.raises(ValueError, match="one label for each of the 64 targets"):
        metrics.seam_index(values, xy, spot[1:])
    with pytest.raises(ValueError, match="one label for each of the 64 targets"):
        metrics.seam_index(values, xy, spot, np.zeros(3))
