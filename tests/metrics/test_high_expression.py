"""Regions of high expression against k-means of scikit-learn and closed forms."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from soscope_scverse import metrics


def test_the_two_groups_are_those_of_k_means():
    values = np.random.default_rng(0).gamma(1, 2, (200, 6)).round(1)
    high = metrics.high_expression(values)
    for x, found in zip(values.T, high.T, strict=True):
        model = KMeans(2, n_init=50, random_state=0).fit(x[:, None])
        within = sum(((x[group] - x[group].mean()) ** 2).sum() for group in (found, ~found))
        assert within <= model.inertia_ + 1e-9
        assert x[found].min() > x[~found].max()


def test_groups_do_not_depend_on_level_scale_and_storage():
    values = np.random.default_rng(1).poisson(2, (50, 4)).astype(float)
    high = metrics.high_expression(values)
    np.testing.assert_array_equal(metrics.high_expression(3 * values + 1), high)
    np.testing.assert_array_equal(metrics.high_expression(csr_matrix(values)), high)


def test_constant_features_are_high_nowhere():
    assert not metrics.high_expression(np.full((5, 2), 0.1)).any()
    assert np.isnan(metrics.high_expression_compactness(np.full((5, 1), 0.1), np.eye(5)[:, :2])).all()
    assert not metrics.high_expression(np.ones((1, 2))).any()


def test_compactness_is_that_of_the_published_code():
    rng = np.random.default_rng(2)
    positions, values = rng.random((80, 2)) * [300, 40] + 7, rng.gamma(1, 1, (80, 3))
    unit = (positions - positions.min(axis=0)) / np.ptp(positions, axis=0)
    expected = []
    for high in metrics.high_expression(values).T:
        distances = np.sort(cdist(unit[high], unit[high]), axis=1)[:, 1:]
        expected.append(np.median(distances.mean(axis=1)))
    found = metrics.high_expression_compactness(values, positions)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(metrics.high_expression_compactness(values, positions * [2, -3]), found)


def test_a_patch_is_more_compact_than_scattered_targets():
    positions = np.stack(np.meshgrid(np.arange(30), np.arange(30)), -1).reshape(-1, 2)
    patch = (positions < 8).all(axis=1).astype(float)
    scattered = np.random.default_rng(3).permutation(patch)
    compact, spread = metrics.high_expression_compactness(np.column_stack([patch, scattered]), positions)
    assert compact < 0.15
    assert spread == pytest.approx(0.52, abs=0.05)  # the mean distance of two random points of the unit square
    sampled = metrics.high_expression_compactness(scattered[:, None], positions, n_sample=30)
    assert sampled == pytest.approx(spread, abs=0.08)
    assert (metrics.high_expression_compactness(scattered[:, None], positions, n_sample=30) == sampled).all()


def test_clusters_of_prediction_and_truth_agree_whatever_the_scale():
    rng = np.random.default_rng(4)
    truth = np.repeat(10 * np.eye(4), 20, axis=0) + rng.normal(size=(80, 4))
    assert metrics.cluster_ari(truth * [1, 100, 3, 0.01] + 5, truth, 4) == 1
    assert metrics.cluster_ari(csr_matrix(truth), truth, 3, seed=2) == 1
    assert abs(metrics.cluster_ari(rng.normal(size=(80, 4)), truth, 4)) < 0.1
