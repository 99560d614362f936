"""Posterior mean of the rate: closed forms against sampled gamma-Poisson counts and sums on a grid, and limits."""

import numpy as np
import pytest
import torch
from scipy import stats

from soscope_scverse.module.likelihoods import (
    PoissonLikelihood,
    Start,
    Subspots,
    get_likelihood,
    joint_likelihood,
)

MEAN = torch.tensor([2.0, 5.0, 1.0, 0.0], dtype=torch.float64)  # the last is padding
EXPOSURE = torch.tensor([0.2, 0.5, 0.3, 0.0], dtype=torch.float64)
SHARE = torch.tensor([1.0, 0.15, 0.0, 1.0], dtype=torch.float64)
N = 1_000_000


def subspots_of(phi, measured=None, n_spots=1):
    """Four subspots of one feature."""
    share = None if measured is None else measured[None, :, None].expand(n_spots, -1, -1)
    mean, exposure = (values[None, :, None].expand(n_spots, -1, -1) for values in (MEAN, EXPOSURE))
    return Subspots(mean, torch.as_tensor([phi], dtype=torch.float64), exposure, share)


def observed(*counts):
    return torch.tensor(counts, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("phi", [0.2, 1.0, 6.0])
@pytest.mark.parametrize("measured", [None, SHARE], ids=["whole", "capture area"])
def test_it_is_the_mean_of_gamma_rates_whose_poisson_counts_add_up_to_the_spot(phi, measured):
    """Rates and counts are sampled as the model states, and those are kept whose sum happens to be x."""
    rng = np.random.default_rng(0)
    share = np.ones(4) if measured is None else measured.numpy()
    mean = MEAN.numpy() * share
    captured = rng.gamma(np.maximum(mean, 1e-12) / phi, phi, (N, 4))
    rest = rng.gamma(np.maximum(MEAN.numpy() - mean, 1e-12) / phi, phi, (N, 4))
    total = rng.poisson(captured).sum(axis=1)
    for x in (2, 5, 8):
        rates = (captured + rest)[total == x]
        assert len(rates) > 2000
        found = get_likelihood("nb").denoised(observed(x), subspots_of(phi, measured))[0, :, 0].numpy()
        error = rates.std(axis=0) / len(rates) ** 0.5
        assert (np.abs(rates.mean(axis=0) - found) < 5 * error + 1e-9).all()


def test_it_is_the_formula_summed_over_all_partitions_of_the_counts():
    """Dense: the probability of every (x_1, x_2, x_3) with this sum, and the mean of the gamma posterior of each."""
    phi, x = 0.7, 6
    counts = np.stack(np.meshgrid(*[np.arange(x + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    counts = counts[counts.sum(axis=1) == x]
    mean = MEAN.numpy()[:3]
    weight = stats.nbinom(mean / phi, 1 / (1 + phi)).pmf(counts).prod(axis=1)
    rates = (mean / phi + counts) * phi / (1 + phi)
    expected = weight @ rates / weight.sum()
    found = get_likelihood("nb").denoised(observed(x), subspots_of(phi))[0, :, 0]
    np.testing.assert_allclose(found.numpy(), [*expected, 0])


def test_without_dispersion_it_is_decoded_and_with_a_large_one_conditional():
    likelihood, x = get_likelihood("nb"), observed(11)
    for measured in (None, SHARE):
        conditional = likelihood.enhanced(x, subspots_of(1.0, measured))
        torch.testing.assert_close(likelihood.denoised(x, subspots_of(1e-12, measured)), MEAN[None, :, None])
        torch.testing.assert_close(likelihood.denoised(x, subspots_of(1e12, measured)), conditional)


def test_it_lies_between_decoded_and_conditional_and_adds_up_to_neither():
    likelihood, x = get_likelihood("nb"), observed(40)
    subspots = subspots_of(1.0)
    found, conditional = likelihood.denoised(x, subspots)[0, :3, 0], likelihood.enhanced(x, subspots)[0, :3, 0]
    assert ((MEAN[:3] < found) & (found < conditional)).all()
    torch.testing.assert_close(found.sum(), (MEAN.sum() + x[0, 0]) / 2)


def test_a_feature_without_counts_in_a_spot_is_not_zero():
    found = get_likelihood("nb").denoised(observed(0), subspots_of(0.5))[0, :, 0]
    torch.testing.assert_close(found, MEAN / 1.5)


def test_a_spot_without_expected_counts_has_finite_rates():
    nothing = subspots_of(0.5)._replace(mean=torch.zeros(1, 4, 1, dtype=torch.float64))
    found = get_likelihood("nb").denoised(observed(3), nothing)
    torch.testing.assert_close(found[0, :, 0], EXPOSURE)  # 3 phi / (1 + phi) = 1, by area


@pytest.mark.parametrize(
    "likelihood",
    [get_likelihood("poisson"), get_likelihood("gaussian"), get_likelihood("gaussian", aggregate="sum", sigma=0.3)],
    ids=["poisson", "gaussian mean", "gaussian sum"],
)
@pytest.mark.parametrize("measured", [None, SHARE], ids=["whole", "capture area"])
def test_where_all_variance_is_noise_the_rate_is_the_mean(likelihood, measured):
    subspots = subspots_of(1.3, measured)
    torch.testing.assert_close(likelihood.denoised(observed(5), subspots), subspots.mean)


def test_an_own_likelihood_without_a_rate_has_its_mean():
    class Own(PoissonLikelihood):
        pass

    subspots = subspots_of(1.0)
    torch.testing.assert_close(Own().denoised(observed(5), subspots), subspots.mean)


def test_modalities_keep_their_own_rates():
    joint = joint_likelihood([("nb", 1), ("gaussian", 1), ("nb", 1)])
    generator = torch.Generator().manual_seed(1)
    effect = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    start = Start(*torch.tensor([[2.0, 0.5, 1.0], [0.5, -0.5, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64))
    subspots = joint.parameters(effect, start, EXPOSURE.expand(2, 4))
    subspots = joint.with_measured(subspots, SHARE[None, :, None].expand(2, -1, -1))
    x = torch.tensor([[7.0, 1.2, 0.0], [0.0, 0.3, 30.0]], dtype=torch.float64)
    found = joint.denoised(x, subspots)
    for i, part in enumerate(joint.parts):
        own = subspots._replace(mean=subspots.mean[..., i : i + 1], dispersion=subspots.dispersion[..., i : i + 1])
        torch.testing.assert_close(found[..., i : i + 1], part.denoised(x[:, i : i + 1], own))


@pytest.mark.usefixtures("_seeded")
@pytest.mark.parametrize("measured", [None, SHARE], ids=["whole", "capture area"])
def test_sampled_rates_have_the_posterior_of_the_rate(measured):
    n, phi, x = 200_000, 0.8, 9
    likelihood = get_likelihood("nb")
    samples = likelihood.sample_denoised(subspots_of(phi, measured, n), observed(x).expand(n, 1))[:, :, 0]
    expected = likelihood.denoised(observed(x), subspots_of(phi, measured))[0, :, 0]
    torch.testing.assert_close(samples.mean(dim=0), expected, rtol=0.02, atol=0.01)
    assert (samples[:, 3] == 0).all()
    if measured is None:  # the rate of the spot is gamma distributed with the counts of the spot
        total = stats.gamma(MEAN.sum().item() / phi + x, scale=phi / (1 + phi))
        assert stats.kstest(samples.sum(dim=1).numpy()[:20_000], total.cdf).pvalue > 0.01


@pytest.mark.usefixtures("_seeded")
@pytest.mark.parametrize("name", ["nb", "poisson", "gaussian"])
def test_sampled_rates_are_less_noisy_than_sampled_subspots(name):
    n = 50_000
    likelihood, subspots = get_likelihood(name), subspots_of(0.8, None, n)
    rates = likelihood.sample_denoised(subspots, observed(9).expand(n, 1))
    profiles = likelihood.sample_enhanced(subspots, observed(9).expand(n, 1))
    assert (rates.var(dim=0)[:3] < profiles.var(dim=0)[:3]).all()
