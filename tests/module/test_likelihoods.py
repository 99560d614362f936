"""Closed forms against Monte Carlo, and the five methods against each other."""

import pytest
import torch
from scipy import stats

from soscope_scverse.module.likelihoods import Start, get_likelihood

N_DRAWS = 100_000
ALL = [("nb", {}), ("poisson", {}), ("gaussian", {"sigma": 0.7}), ("gaussian", {"aggregate": "sum", "sigma": 0.7})]


@pytest.fixture(params=ALL, ids=["nb", "poisson", "gaussian mean", "gaussian sum"])
def likelihood(request):
    name, options = request.param
    return get_likelihood(name, **options)


def subspots_of(likelihood, n_spots=1, padded=True, dtype=torch.float64):
    """Four subspots (the last one padding) and two features."""
    generator = torch.Generator().manual_seed(1)
    effect = torch.randn(1, 4, 2, generator=generator, dtype=dtype).expand(n_spots, 4, 2) * 0.5
    exposure = torch.tensor([[0.2, 0.5, 0.3, 0.0]] if padded else [[0.25] * 4], dtype=dtype).expand(n_spots, 4)
    baseline = torch.tensor([2.0, 1.0], dtype=dtype)
    start = Start(baseline, torch.tensor([0.5, -0.5], dtype=dtype), torch.ones(2, dtype=dtype))
    return likelihood.parameters(effect, start, exposure)


def add_up(likelihood, x, exposure):
    return (exposure * x).sum(1) if getattr(likelihood, "is_mean", False) else (x * (exposure > 0)).sum(1)


def test_aggregate_has_the_moments_of_summed_draws(likelihood):
    subspots = subspots_of(likelihood, N_DRAWS)
    total = add_up(likelihood, likelihood.sample(subspots), subspots.exposure)
    total = total + getattr(likelihood, "sigma", 0.0) * torch.randn_like(total)
    spots = likelihood.aggregate(subspots)
    one = likelihood.aggregate(subspots_of(likelihood))
    variance = {"nb": one.mean * (1 + one.dispersion), "poisson": one.mean}.get(name_of(likelihood), one.dispersion)
    assert spots.mean.shape == (N_DRAWS, 2)
    torch.testing.assert_close(total.mean(0), one.mean[0], rtol=0.02, atol=0.01)
    torch.testing.assert_close(total.var(0), variance[0], rtol=0.03, atol=0.01)


def name_of(likelihood):
    return {"NegativeBinomialLikelihood": "nb", "PoissonLikelihood": "poisson"}.get(type(likelihood).__name__)


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_log_prob_is_that_of_summed_draws(name):
    """The exact law of the sum: its mass against the frequencies of the draws."""
    likelihood = get_likelihood(name)
    subspots = subspots_of(likelihood, N_DRAWS)
    total = add_up(likelihood, likelihood.sample(subspots), subspots.exposure)
    spots = likelihood.aggregate(subspots_of(likelihood))
    for value in range(12):
        mass = likelihood.log_prob(torch.full((1, 2), float(value), dtype=torch.float64), spots).exp()[0]
        torch.testing.assert_close((total == value).double().mean(0), mass, rtol=0.1, atol=0.003)


def test_log_prob_against_scipy():
    mean, phi, x = 3.7, 0.8, torch.arange(30.0, dtype=torch.float64).unsqueeze(1)
    spots = type("S", (), {"mean": torch.full_like(x, mean), "dispersion": torch.tensor([phi], dtype=torch.float64)})
    nb = stats.nbinom(mean / phi, 1 / (1 + phi))
    assert nb.var() == pytest.approx((1 + phi) * mean)
    got = get_likelihood("nb").log_prob(x, spots)
    torch.testing.assert_close(got, torch.as_tensor(nb.logpmf(x.numpy())))
    got = get_likelihood("poisson").log_prob(x, spots)
    torch.testing.assert_close(got, torch.as_tensor(stats.poisson(mean).logpmf(x.numpy())))
    got = get_likelihood("gaussian").log_prob(x, spots)
    torch.testing.assert_close(got, torch.as_tensor(stats.norm(mean, phi**0.5).logpdf(x.numpy())))


def test_conditional_mean_is_the_mean_of_draws_with_that_total(likelihood):
    """Prior draws whose total happens to be x: their mean must be the conditional mean."""
    subspots = subspots_of(likelihood, 4 * N_DRAWS)
    draws = likelihood.sample(subspots)
    total = add_up(likelihood, draws, subspots.exposure)
    total = total + getattr(likelihood, "sigma", 0.0) * torch.randn_like(total)
    one = subspots_of(likelihood)
    x = likelihood.aggregate(one).mean * 1.3
    x = x.round() if likelihood.is_counts else x
    expected = likelihood.condition(x, one)[0]
    for feature in range(2):
        width = 0.01 if likelihood.is_counts else 0.05
        hit = (total[:, feature] - x[0, feature]).abs() < width
        assert hit.sum() > 2000
        torch.testing.assert_close(draws[hit][:, :3, feature].mean(0), expected[:3, feature], rtol=0.05, atol=0.03)


def test_draws_given_a_spot_have_the_conditional_mean(likelihood):
    subspots = subspots_of(likelihood, N_DRAWS)
    one = subspots_of(likelihood)
    x = torch.tensor([[9.0, 4.0]], dtype=torch.float64)
    draws = likelihood.sample(subspots, x.expand(N_DRAWS, 2))
    torch.testing.assert_close(draws.mean(0)[:3], likelihood.condition(x, one)[0, :3], rtol=0.02, atol=0.02)


def test_nb_draws_given_a_spot_spread_like_a_dirichlet_multinomial():
    likelihood = get_likelihood("nb")
    one, x = subspots_of(likelihood), torch.tensor([[20.0, 20.0]], dtype=torch.float64)
    draws = likelihood.sample(subspots_of(likelihood, N_DRAWS), x.expand(N_DRAWS, 2))
    concentration = one.mean[0] / one.dispersion
    total = concentration.sum(0)
    p = concentration / total
    variance = 20 * p * (1 - p) * (20 + total) / (1 + total)
    torch.testing.assert_close(draws.var(0)[:3], variance[:3], rtol=0.03, atol=0.01)


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_conditioned_counts_add_up_and_padding_is_empty(name):
    likelihood = get_likelihood(name)
    x = torch.tensor([[0.0, 7.0], [3.0, 1e7]], dtype=torch.float64)
    subspots = subspots_of(likelihood, 2)
    for result in (likelihood.condition(x, subspots), likelihood.sample(subspots, x)):
        torch.testing.assert_close(result.sum(1), x, rtol=1e-10, atol=0)
        assert (result >= 0).all()
        assert (result[:, 3] == 0).all()
    assert (likelihood.sample(subspots)[:, 3] == 0).all()


def test_gaussian_without_noise_adds_up():
    for aggregate in ("sum", "mean"):
        likelihood = get_likelihood("gaussian", aggregate=aggregate)
        x = torch.tensor([[-3.0, 7.0]], dtype=torch.float64)
        subspots = subspots_of(likelihood)
        for result in (likelihood.condition(x, subspots), likelihood.sample(subspots, x)):
            torch.testing.assert_close(add_up(likelihood, result, subspots.exposure), x)


def test_a_spot_does_not_depend_on_how_finely_it_is_divided(likelihood):
    start = Start(torch.tensor([2.0]), torch.tensor([0.3]), torch.ones(1))
    spots = [
        likelihood.aggregate(likelihood.parameters(torch.zeros(1, k, 1), start, torch.full((1, k), 1 / k)))
        for k in (1, 4, 37)
    ]
    for other in spots[1:]:
        torch.testing.assert_close(other.mean, spots[0].mean)
        torch.testing.assert_close(other.dispersion.expand(1, 1), spots[0].dispersion.expand(1, 1))


def test_dispersion_of_every_subspot_matches_the_variance_of_the_sum():
    likelihood = get_likelihood("nb")
    start = Start(torch.zeros(1), torch.tensor([[[-1.0], [1.0]]]), torch.ones(1))
    subspots = likelihood.parameters(torch.tensor([[[1.0], [2.0]]]), start, torch.full((1, 2), 0.5))
    spots = likelihood.aggregate(subspots)
    variance = (subspots.mean * (1 + subspots.dispersion)).sum(1)
    torch.testing.assert_close(spots.mean * (1 + spots.dispersion), variance)


@pytest.mark.parametrize("name", ["nb", "poisson", "gaussian"])
def test_extreme_effects_stay_finite_with_gradients(name):
    likelihood = get_likelihood(name)
    effect = torch.tensor([[[1e4], [-1e4]]], requires_grad=True)
    start = Start(torch.tensor([8.0]), torch.tensor([-8.0]), torch.ones(1))
    subspots = likelihood.parameters(effect, start, torch.full((1, 2), 0.5))
    for x in (0.0, 1e7):
        loss = likelihood.log_prob(torch.tensor([[x]]), likelihood.aggregate(subspots)).sum()
        (gradient,) = torch.autograd.grad(loss, effect, retain_graph=True)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_start_is_the_mean():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    start = get_likelihood("nb").start(x)
    torch.testing.assert_close(start.baseline[0].exp(), torch.tensor(2.0))
    assert torch.isfinite(start.baseline).all()
    start = get_likelihood("gaussian").start(x)
    torch.testing.assert_close(start.baseline, torch.tensor([2.0, 0.0]))
    assert (start.unit > 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"), [("zinb", {}, "zinb"), ("nb", {"aggregate": "mean"}, "add up")]
)
def test_unknown_likelihoods(name, options, message):
    with pytest.raises(ValueError, match=message):
        get_likelihood(name, **options)
