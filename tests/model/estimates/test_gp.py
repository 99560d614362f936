"""Gaussian processes of the estimates against dense formulas."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from soscope_scverse._gp import SpectralProcess
from soscope_scverse.model.estimates import gp


@pytest.fixture
def spots():
    """Two groups of spots, the correlations in them and three features."""
    rng = np.random.default_rng(0)
    spatial = np.r_[rng.uniform(0, 5, (12, 2)), rng.uniform(20, 25, (9, 2))]
    groups = gp.groups_of(spatial, np.repeat([0, 1], [12, 9]))
    values = rng.normal(size=(21, 3))
    return groups, [gp.correlation(group.distance, 2.0) for group in groups], values - values.mean(axis=0)


def covariance(groups, correlations, smooth, noise):
    """That of all spots together; groups are independent."""
    whole = noise * np.eye(sum(len(group.rows) for group in groups))
    for group, correlation in zip(groups, correlations, strict=True):
        whole[np.ix_(group.rows, group.rows)] += smooth * correlation
    return whole


def spectral(spots):
    groups, correlations, values = spots
    return SpectralProcess(correlations, [group.rows for group in groups], values)


def test_the_likelihood_on_the_grid_is_that_of_the_most_likely_variance(spots):
    groups, correlations, values = spots
    shares = np.array([0.1, 0.5, 0.9])
    found, total = spectral(spots).log_likelihood(shares)
    constant = -0.5 * len(values) * (1 + np.log(2 * np.pi))
    for i, share in enumerate(shares):
        for j, y in enumerate(values.T):
            unit = covariance(groups, correlations, share, 1 - share)
            assert total[i, j] == pytest.approx(y @ np.linalg.solve(unit, y) / len(y))
            expected = multivariate_normal(cov=total[i, j] * unit).logpdf(y)
            assert found[i, j] + constant == pytest.approx(expected)


def test_predictions_are_those_of_conditioning(spots):
    groups, correlations, values = spots
    smooth, noise = np.array([0.3, 1.0, 2.0]), np.array([1.0, 0.2, 0.5])
    process = spectral(spots)
    fitted, (mean, variance) = process.fitted(smooth, noise), process.left_out(smooth, noise)
    for j, y in enumerate(values.T):
        whole = covariance(groups, correlations, smooth[j], noise[j])
        signal = whole - noise[j] * np.eye(len(y))
        np.testing.assert_allclose(fitted[:, j], signal @ np.linalg.solve(whole, y))
        for i in range(len(y)):
            others = np.delete(np.arange(len(y)), i)
            gain = np.linalg.solve(whole[np.ix_(others, others)], signal[others, i])
            assert mean[i, j] == pytest.approx(gain @ y[others])
            assert variance[i, j] == pytest.approx(signal[i, i] - gain @ signal[others, i])


def test_the_gradient_is_that_of_the_likelihood(spots):
    groups, _, values = spots
    log_parameters = np.array([-0.3, 0.5, -0.9])
    arguments = groups, values[:, 0]
    loss, gradient = gp._loss(log_parameters, *arguments)
    smooth, length, noise = np.exp(log_parameters)
    whole = covariance(groups, [gp.correlation(group.distance, length) for group in groups], smooth, noise)
    expected = multivariate_normal(cov=whole).logpdf(values[:, 0]) + 0.5 * len(values) * np.log(2 * np.pi)
    assert -loss == pytest.approx(expected)
    numeric = approx_fprime(log_parameters, lambda theta: gp._loss(theta, *arguments)[0], 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)
