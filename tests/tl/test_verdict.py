"""Which genes may be believed, from recovered spots whose errors are known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from soscope_scverse import metrics
from soscope_scverse.tl._verdict import FALSE_DISCOVERY_RATE, shrunken, verdict

N_BLOCKS, K = 80, 4
BLOCK = np.repeat(np.arange(N_BLOCKS), K)


def within(values):
    return values - values.reshape(N_BLOCKS, K, -1).mean(axis=1)[BLOCK]


def fields(n_genes, deviation, seed):
    """Rates that differ between and within blocks, by genes of different variation."""
    rng = np.random.default_rng(seed)
    between = rng.normal(0, 0.5, (N_BLOCKS, n_genes))[BLOCK]
    return np.exp(between + deviation * rng.normal(0, 1, (len(BLOCK), n_genes)))


def judged(truth, recovered, linear=None, **kwargs):
    linear = truth.reshape(N_BLOCKS, K, -1).mean(axis=1)[BLOCK] if linear is None else linear
    return verdict(truth, recovered, linear, BLOCK, **{"is_counts": True, **kwargs})


def test_recovered_detail_is_believed_and_the_lack_of_it_is_not():
    rate = 10 * fields(5, 0.4, 0)
    truth = np.random.default_rng(1).poisson(rate).astype(float)
    even = truth.reshape(N_BLOCKS, K, -1).mean(axis=1)[BLOCK]
    assert judged(truth, rate)["believed"].all()
    assert not judged(truth, even)["believed"].any()
    assert not judged(truth, rate, linear=rate)["believed"].any()  # linear interpolation does as well
    # the right pattern with four times its contrast: less than half of the detail is real
    scores = judged(truth, even + 4 * within(rate))
    assert (scores["within_r"] > 0.5).all()
    assert not scores["believed"].any()


def test_detail_that_is_not_in_the_truth_is_not_believed():
    truth = np.random.default_rng(0).poisson(10 * fields(400, 0.3, 1)).astype(float)
    scores = judged(truth, 10 * fields(400, 0.3, 2))
    assert not scores["believed"].any()


def test_false_discoveries_at_the_border_of_belief():
    """Half of the detail is real on average: as good as equal shares, so p-values are uniform at most."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(0, 1, (len(BLOCK), 2000))
    truth = 20 + within(pattern) + rng.normal(0, 2, pattern.shape)
    far = truth + 100 * rng.normal(size=pattern.shape)
    scores = judged(truth, 20 + 2 * within(pattern), linear=far, is_counts=False)
    assert scores["believed"].mean() <= FALSE_DISCOVERY_RATE / 10
    p_value = (scores["p_adjusted"] < 0.5).mean()
    assert p_value < 0.05


def test_noise_of_the_truth_does_not_change_who_is_believed():
    """Noise adds the same to all errors: of a gene with few counts only the certainty is less."""
    rate = fields(60, 0.8, 0)
    recovered = rate.reshape(N_BLOCKS, K, -1).mean(axis=1)[BLOCK] + 0.7 * within(rate)
    for depth in (2, 20):
        truth = np.random.default_rng(1).poisson(depth * rate).astype(float)
        scores = judged(truth, depth * recovered)
        assert scores["believed"].mean() > 0.9
    assert scores["within_r"].median() > 0.9


def test_scores_are_those_of_the_metrics():
    truth = np.random.default_rng(0).poisson(10 * fields(4, 0.4, 0)).astype(float)
    recovered, linear = 10 * fields(4, 0.4, 1), 10 * fields(4, 0.4, 2)
    scores = judged(truth, recovered, linear)
    np.testing.assert_allclose(scores["within_r"], metrics.within_r(recovered, truth, BLOCK))
    np.testing.assert_allclose(scores["linear_within_r"], metrics.within_r(linear, truth, BLOCK))


def test_expected_scores_one_level_finer():
    """Genes of different depth: the same pattern with a quarter of the counts."""
    rng = np.random.default_rng(0)
    depth, quality = rng.uniform(1, 60, 80), rng.uniform(0.3, 0.95, 80)
    coarse, fine = fields(80, 0.4, 1), fields(80, 0.4, 2)

    def task(rate, depth):
        error = rng.normal(0, 1, rate.shape) * within(rate).std(axis=0)
        recovered = depth * (quality * within(rate) + np.sqrt(1 - quality**2) * within(error))
        truth = rng.poisson(depth * rate).astype(float)
        return truth, recovered

    expected = judged(*task(coarse, depth))["expected_within_r"]
    truth, recovered = task(fine, depth / K)
    found = metrics.within_r(recovered, truth, BLOCK)
    assert abs(expected - found).mean() < 0.1
    assert spearmanr(expected, found)[0] > 0.8
    raw = metrics.within_r(*task(coarse, depth)[::-1], BLOCK)
    assert abs(expected - found).mean() < 0.7 * abs(raw - found).mean()


@pytest.mark.parametrize("is_counts", [True, False])
def test_genes_without_variation(is_counts):
    truth = np.random.default_rng(0).poisson(5, (len(BLOCK), 3)).astype(float)
    truth[:, 0], truth[:, 1] = 0, 7
    scores = judged(truth, np.random.default_rng(1).random(truth.shape), is_counts=is_counts)
    assert not scores["believed"].any()
    assert np.isnan(scores["within_r"][:2]).all()
    assert np.isfinite(scores[["expected_within_r", "p_adjusted"]]).all(axis=None)


def test_one_gene():
    rate = 10 * fields(1, 0.4, 0)
    assert judged(np.random.default_rng(1).poisson(rate).astype(float), rate)["believed"].all()


def test_shrinkage():
    estimate = np.array([0.2, 0.4, 0.9, 0.5])
    np.testing.assert_allclose(shrunken(estimate, np.full(4, 10.0)), estimate.mean())  # nothing but noise
    np.testing.assert_allclose(shrunken(estimate, np.full(4, 1e-6)), estimate, atol=1e-6)
    error = np.array([0.01, 0.01, 0.01, np.inf])
    assert shrunken(estimate, error)[3] == pytest.approx(estimate[:3].mean(), abs=1e-3)
    equal = shrunken(estimate, np.full(4, 0.2))
    variance = estimate.var(ddof=1) - 0.2**2  # by moments, where all errors are equal
    share = variance / (variance + 0.2**2)
    np.testing.assert_allclose(equal, estimate.mean() + share * (estimate - estimate.mean()))
