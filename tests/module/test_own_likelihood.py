"""The likelihood that the documentation adds."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from soscope_scverse import bench, datasets, tl
from soscope_scverse.module import likelihoods
from soscope_scverse.module.likelihoods import Start, get_likelihood

FAST = {"accelerator": "cpu", "train_kwargs": {"max_steps": 2, "enable_progress_bar": False}}


N_DRAWS = 100_000


@pytest.fixture
def gamma(monkeypatch):
    """The class on the page, registered by the page's own line."""
    page = (Path(__file__).parents[2] / "docs" / "likelihoods.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class " in block]
    assert 10 < len(code[code.index("class ") :].splitlines()) < 40
    monkeypatch.setitem(likelihoods.LIKELIHOODS, "gamma", None)  # taken out again after the test
    exec(compile(code, "docs/likelihoods.md", "exec"), {"__name__": "docs"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield get_likelihood("gamma")


def gamma_subspots(gamma, n_spots=1):
    """Three subspots and one that is padding, two features."""
    effect = torch.tensor([[0.5, -0.3], [-1.0, 0.2], [0.1, 0.8], [2.0, 2.0]], dtype=torch.float64)
    exposure = 1.7 * torch.tensor([0.2, 0.5, 0.3, 0.0], dtype=torch.float64)  # of a large spot
    start = Start(*torch.tensor([[1.0, 0.0], [-0.5, -1.0], [1.0, 1.0]], dtype=torch.float64))
    return gamma.parameters(effect.expand(n_spots, 4, 2), start, exposure.expand(n_spots, 4))


def test_gamma_log_prob_is_that_of_scipy(gamma):
    spots = gamma.aggregate(gamma_subspots(gamma))
    x = torch.tensor([[3.0, 0.4]], dtype=torch.float64)
    scale = spots.dispersion.numpy()
    expected = stats.gamma.logpdf(x.numpy(), spots.mean.numpy() / scale, scale=scale)
    np.testing.assert_allclose(gamma.log_prob(x, spots).numpy(), expected)


def test_averaged_gamma_draws_have_the_law_of_the_spot(gamma):
    subspots = gamma_subspots(gamma, N_DRAWS)
    mean = (gamma.share(subspots) * gamma.sample(subspots)).sum(dim=1)
    spots = gamma.aggregate(gamma_subspots(gamma))
    for feature in range(2):
        m, scale = spots.mean[0, feature].item(), spots.dispersion[feature].item()
        assert stats.kstest(mean[:, feature].numpy(), "gamma", (m / scale, 0, scale)).pvalue > 0.01


def test_gamma_given_the_spot_averages_to_it_with_the_right_moments(gamma):
    one, subspots = gamma_subspots(gamma), gamma_subspots(gamma, N_DRAWS)
    x = torch.tensor([[4.0, 0.7]], dtype=torch.float64)
    expected, draws = gamma.condition(x, one), gamma.sample(subspots, x.expand(N_DRAWS, 2))
    torch.testing.assert_close((gamma.share(one) * expected).sum(dim=1), x)
    torch.testing.assert_close((gamma.share(subspots) * draws).sum(dim=1), x.expand(N_DRAWS, 2))
    torch.testing.assert_close(draws.mean(dim=0)[:3], expected[0, :3], rtol=0.02, atol=0.01)
    # shares are Dirichlet distributed
    concentration = (gamma.share(one) * one.mean / one.dispersion)[0]
    total = concentration.sum(dim=0)
    share = concentration / total
    variance = (x / gamma.share(one)[0]) ** 2 * share * (1 - share) / (total + 1)
    torch.testing.assert_close(draws.var(dim=0)[:3], variance[:3], rtol=0.05, atol=0.01)


def test_prior_gamma_draws_whose_mean_is_that_of_the_spot_are_the_conditional_ones(gamma):
    """No scaling here: draws that happen to average to x."""
    subspots, one = gamma_subspots(gamma, 4 * N_DRAWS), gamma_subspots(gamma)
    draws = gamma.sample(subspots)
    x = gamma.aggregate(one).mean * 1.2
    hit = ((gamma.share(subspots) * draws).sum(dim=1) - x).abs()[:, 0] < 0.05
    assert hit.sum() > 2000
    torch.testing.assert_close(
        draws[hit][:, :3, 0].mean(dim=0), gamma.condition(x, one)[0, :3, 0], rtol=0.05, atol=0.02
    )


@pytest.mark.usefixtures("gamma")
def test_the_model_takes_the_likelihood_of_the_docs():
    adata = datasets.synthetic_components(144).adata
    adata.X = np.exp(0.5 * adata.X)
    low = bench.simulate_low_resolution(adata, 2, aggregate="mean").adata
    enhanced = tl.enhance(low, likelihood="gamma", n_samples=2, **FAST)
    assert enhanced.X.min() > 0
    np.testing.assert_allclose(enhanced.X.reshape(low.n_obs, 4, 2).mean(axis=1), low.X, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\['mean'\], found 'sum'"):
        tl.enhance(low, likelihood="gamma", model_kwargs={"aggregate": "sum"})
