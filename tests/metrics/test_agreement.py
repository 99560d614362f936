"""Agreement scores against closed forms, scipy and brute force."""

import numpy as np
import pytest
from scipy.sparse import coo_matrix, csc_array, csr_matrix
from scipy.stats import ks_2samp, pearsonr

from soscope_scverse import metrics

SPOT = np.repeat(np.arange(8), 5)


@pytest.fixture
def counts() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth, 40 targets x 7 features."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(2, 2, (40, 7))
    return rate + rng.normal(0, 0.5, rate.shape).clip(-rate), rng.poisson(rate).astype(float)


def test_pearson_is_the_correlation_of_each_column(counts):
    expected = [pearsonr(p, t).statistic for p, t in zip(*(matrix.T for matrix in counts), strict=True)]
    np.testing.assert_allclose(metrics.pearson(*counts), expected)


@pytest.mark.parametrize("score", ["pearson", "mse", "normalized_pearson", "within_r", "normalized_within_r"])
@pytest.mark.parametrize("sparse", [csr_matrix, csc_array, coo_matrix])
def test_sparse_and_dense_input_score_the_same_in_blocks_of_columns(counts, score, sparse):
    """Hundreds of columns are dense at the same time, here of 1,400."""
    rest = (SPOT,) if score.endswith("within_r") else ()
    prediction, truth = (np.tile(matrix, 200) for matrix in counts)
    if score.startswith("normalized"):  # which divides by the sum of all columns
        expected = getattr(metrics, score)(prediction, truth, *rest)
    else:
        expected = np.tile(getattr(metrics, score)(*counts, *rest), 200)
    np.testing.assert_allclose(getattr(metrics, score)(prediction, sparse(truth), *rest), expected)


@pytest.mark.parametrize("score", [metrics.pearson, metrics.normalized_pearson, metrics.mse])
def test_a_perfect_prediction_has_the_best_score(counts, score):
    best = 0 if score is metrics.mse else 1
    np.testing.assert_allclose(score(counts[1], counts[1]), best, atol=1e-12)


def test_a_constant_truth_is_undefined_and_a_constant_prediction_is_worthless():
    vary = np.arange(6.0)[:, None] ** 2
    flat = np.full((6, 1), 0.1)
    assert np.isnan(metrics.pearson(vary, flat))
    assert metrics.pearson(flat, vary) == 0
    assert np.isnan(metrics.mse(vary, flat))
    assert metrics.mse(flat, vary) == pytest.approx(np.mean((vary / 25) ** 2))


def test_mse_ignores_scale_and_offset_of_each_feature(counts):
    prediction, truth = counts
    scale = np.arange(1, 8)
    np.testing.assert_allclose(metrics.mse(3 + prediction * scale, truth), metrics.mse(prediction, truth))
    assert metrics.mse(np.array([[0], [1], [2.0]]), np.array([[0], [4], [4.0]])) == pytest.approx(0.25 / 3)


def test_within_r_is_the_correlation_of_centred_spots(counts):
    def centred(matrix):
        return matrix - np.vstack([np.tile(matrix[spot == SPOT].mean(axis=0), (5, 1)) for spot in range(8)])

    prediction, truth = counts
    np.testing.assert_allclose(
        metrics.within_r(prediction, truth, SPOT), metrics.pearson(centred(prediction), centred(truth))
    )


def test_within_r_does_not_see_the_spots_means_nor_the_order_of_the_targets(counts):
    prediction, truth = counts
    expected = metrics.within_r(prediction, truth, SPOT)
    order = np.random.default_rng(1).permutation(40)
    names = np.array([f"spot {number}" for number in SPOT])[order]
    shifted = prediction + 100 * np.sin(SPOT)[:, None]
    np.testing.assert_allclose(metrics.within_r(shifted[order], truth[order], names), expected)


def test_within_r_of_a_repeated_spot_is_zero_even_with_rounding(counts):
    _, truth = counts
    repeated = np.repeat(truth[::5] / 7, 5, axis=0) * 0.3
    np.testing.assert_array_equal(metrics.within_r(repeated, truth, SPOT), 0)
    assert np.isnan(metrics.within_r(truth, repeated, SPOT)).all()


def test_normalized_pearson_does_not_see_depth(counts):
    prediction, truth = counts
    depth = np.random.default_rng(2).gamma(1, 1, (40, 1)) + 0.1
    np.testing.assert_allclose(
        metrics.normalized_pearson(prediction * depth, truth), metrics.normalized_pearson(prediction, truth)
    )
    empty = truth.copy()
    empty[3] = 0
    assert np.isfinite(metrics.normalized_pearson(prediction, empty)).all()


def test_normalized_within_r_sees_neither_library_sizes_nor_the_spots_means(counts):
    prediction, truth = counts
    found = metrics.normalized_within_r(prediction, truth, SPOT)
    shares = [matrix / matrix.sum(axis=1, keepdims=True) for matrix in counts]
    np.testing.assert_allclose(found, metrics.within_r(*shares, SPOT))
    depth = np.random.default_rng(2).gamma(1, 1, (40, 1)) + 0.1
    np.testing.assert_allclose(metrics.normalized_within_r(prediction * depth, truth, SPOT), found)
    library = truth.sum(axis=1, keepdims=True) @ truth.mean(axis=0, keepdims=True)  # right about library sizes alone
    assert np.median(metrics.within_r(library, truth, SPOT)) > 0.1
    np.testing.assert_array_equal(metrics.normalized_within_r(library, truth, SPOT), 0)


def test_ks_distance_is_that_of_scipy_with_ties(counts):
    truth = counts[1]
    inside = np.random.default_rng(3).random(40) < 0.3
    expected = [ks_2samp(column[inside], column[~inside]).statistic for column in truth.T]
    np.testing.assert_allclose(metrics.ks_distance(csr_matrix(truth), inside), expected)


def test_ks_distance_is_one_for_separate_and_zero_for_equal_values():
    inside = np.array([True, True, False, False])
    values = np.array([[1, 5, 2], [2, 5, 1], [3, 5, 1], [4, 5, np.nan]])
    np.testing.assert_array_equal(metrics.ks_distance(values, inside), [1, 0, np.nan])


def test_coverage_counts_the_ends_and_matches_a_calibrated_interval():
    truth = np.array([[0.0, 1, 2], [1, 1, np.nan]])
    lower, upper = np.zeros((2, 3)), np.array([[0.0, 0.5, 3], [1, 1, 3]])
    np.testing.assert_array_equal(metrics.coverage(truth, lower, upper), [1, 0.5, np.nan])
    normal = np.random.default_rng(4).normal(size=(4000, 2))
    np.testing.assert_allclose(
        metrics.coverage(normal, np.full_like(normal, -1.645), np.full_like(normal, 1.645)), 0.9, atol=0.02
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.pearson(x, x[:3]), "one shape"),
        (lambda x: metrics.mse(x[0], x[0]), "n_targets x n_features"),
        (lambda x: metrics.pearson(x[:0], x[:0]), "n_targets > 0"),
        (lambda x: metrics.within_r(x, x, [0, 1]), "one `spot` label for each of the 4 targets, found 2"),
        (lambda x: metrics.ks_distance(x, np.ones(4)), "4 booleans, found 4 values of type float64"),
        (lambda x: metrics.ks_distance(x, np.ones(4, bool)), "found 4 of 4 targets inside"),
        (lambda x: metrics.coverage(x, x + 1, x), "swapped"),
        (lambda x: metrics.kmeans_ari(x, [0, 1]), "one label for each of the 4 targets, found 2"),
        (lambda x: metrics.compactness(x, [0, 1]), "one label for each of the 4 targets, found 2"),
        (lambda x: metrics.morans_i(x, x[:, :2]), "1 <= `n_neighbors` < 4"),
        (lambda x: metrics.morans_i(x, x[:3, :2], 2), "found 3 positions"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.arange(12.0).reshape(4, 3))
