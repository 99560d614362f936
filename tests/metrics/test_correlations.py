"""Correlations between features against numpy, closed forms and invariances."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from soscope_scverse import metrics


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.gamma(2, 2, (40, 3)) @ rng.normal(size=(3, 7)) + rng.normal(size=(40, 7))


def test_correlations_are_those_of_numpy(values):
    np.testing.assert_allclose(metrics.feature_correlations(values), np.corrcoef(values, rowvar=False))
    np.testing.assert_allclose(
        metrics.feature_correlations(csr_matrix(values)), metrics.feature_correlations(values), atol=1e-14
    )


def test_constant_features_have_no_correlation(values):
    values[:, 2] = 0.1
    found = metrics.feature_correlations(values)
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    assert np.isfinite(np.delete(np.delete(found, 2, 0), 2, 1)).all()


def test_agreement_does_not_depend_on_level_scale_and_order(values):
    other = values + np.random.default_rng(1).normal(size=values.shape)
    plain = metrics.correlation_agreement(other, values)
    moved = metrics.correlation_agreement(3 + 2 * other, values * np.arange(1, 8) - 5)
    np.testing.assert_allclose(plain, moved)
    order = [3, 1, 0, 2, 6, 5, 4]
    np.testing.assert_allclose(plain, metrics.correlation_agreement(other[::-1][:, order], values[::-1][:, order]))
    np.testing.assert_allclose(metrics.correlation_agreement(values, values), (1, 0), atol=1e-12)
    assert 0 < plain.r < 1
    assert plain.mse > 0


def test_the_published_score_includes_the_diagonal(values):
    other = values + np.random.default_rng(1).normal(size=values.shape)
    a, b = np.corrcoef(other, rowvar=False), np.corrcoef(values, rowvar=False)
    found = metrics.correlation_agreement(other, values, diagonal=True)
    np.testing.assert_allclose(found, (np.corrcoef(a.ravel(), b.ravel())[0, 1], ((a - b) ** 2).mean()))
    assert found.r > metrics.correlation_agreement(other, values).r


def test_constant_features_of_the_truth_are_ignored_those_of_the_prediction_count(values):
    other = values + np.random.default_rng(1).normal(size=values.shape)
    expected = metrics.correlation_agreement(other[:, 1:], values[:, 1:])
    truth = values.copy()
    truth[:, 0] = 3
    np.testing.assert_allclose(metrics.correlation_agreement(other, truth), expected)
    known = np.corrcoef(values, rowvar=False)[np.tril_indices(7, -1)]
    flat = metrics.correlation_agreement(np.ones_like(values), values)
    np.testing.assert_allclose(flat, (0, (known**2).mean()))


def test_less_than_two_pairs_have_no_r(values):
    found = metrics.correlation_agreement(values[:, :2], values[:, :2])
    assert np.isnan(found.r)
    assert found.mse == pytest.approx(0)
    assert np.isnan(metrics.correlation_agreement(values[:, :1], values[:, :1])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.correlation_agreement(x, x[:, :3]), "matrices of one shape"),
        (lambda x: metrics.correlation_agreement(x, x, diagonal=None), "`diagonal` to be one of"),
        (lambda x: metrics.feature_correlations(x[:1]), "at least two targets"),
        (lambda x: metrics.feature_correlations(x * np.nan), "280 NaN or infinite"),
        (lambda x: metrics.image_r2(x, x[:30]), "for 40 targets, found shape"),
        (lambda x: metrics.image_r2(x, x * np.nan), "280 not finite"),
        (lambda x: metrics.image_r2(x, np.eye(40)), "more targets than the 40 components"),
        (lambda x: metrics.image_r2(x, x, n_folds=1), "`n_folds` to be at least 2"),
        (lambda x: metrics.high_expression(np.full_like(x, np.inf)), "280 NaN or infinite"),
        (lambda x: metrics.high_expression_compactness(x, x[:5, :2]), "each of the 40 targets, found 5"),
        (lambda x: metrics.cluster_ari(x, x, 41), "at most the number of targets, 40"),
        (lambda x: metrics.cluster_ari(x, x, 1), "`n_clusters` to be at least 2"),
        (lambda x: metrics.cluster_ari(x, x[:5], 3), "matrices of one shape"),
    ],
)
def test_what_does_not_fit_is_named(values, call, message):
    with pytest.raises(ValueError, match=message):
        call(values)


def test_the_image_explains_what_is_linear_in_it():
    rng = np.random.default_rng(2)
    image = rng.normal(size=(500, 80))
    weights = rng.normal(size=80)
    known, noise, flat = image @ weights, rng.normal(size=500), np.full(500, 0.1)
    profiles = np.column_stack([known, 3 - 2 * known, noise, flat])
    complete = metrics.image_r2(csr_matrix(profiles), image, n_components=80)
    assert complete[:2] == pytest.approx(1)
    assert -0.6 < complete[2] < 0.05
    assert np.isnan(complete[3])
    inside = metrics.image_r2(profiles, image, n_folds=None)
    assert inside[2] == pytest.approx(0.1, abs=0.05)
    assert metrics.image_r2(profiles, image)[2] < 0.05
    np.testing.assert_allclose(metrics.image_r2(profiles, 5 * image + 1), metrics.image_r2(profiles, image))
