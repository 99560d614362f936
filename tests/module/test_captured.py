"""Spots that captured a part of their subspots: what was measured of them, and what was not."""

import pytest
import torch

from soscope_scverse.module.likelihoods import Likelihood, PoissonLikelihood, Start, get_likelihood, joint_likelihood

ALL = [("nb", {}), ("poisson", {}), ("gaussian", {"sigma": 0.7}), ("gaussian", {"aggregate": "sum", "sigma": 0.7})]

SHARE = torch.tensor([[[1.0], [0.15], [0.0], [0.6]]], dtype=torch.float64)


@pytest.fixture(params=ALL, ids=["nb", "poisson", "gaussian mean", "gaussian sum"])
def likelihood(request):
    name, options = request.param
    return get_likelihood(name, **options)


def subspots_of(likelihood, n_spots=1):
    """Four subspots of one area and two features."""
    generator = torch.Generator().manual_seed(1)
    effect = torch.randn(1, 4, 2, generator=generator, dtype=torch.float64).expand(n_spots, 4, 2) * 0.5
    baseline, log_dispersion = torch.tensor([[2.0, 1.0], [0.5, -0.5]], dtype=torch.float64)
    start = Start(baseline, log_dispersion, torch.ones(2, dtype=torch.float64))
    return likelihood.parameters(effect, start, torch.full((n_spots, 4), 0.5, dtype=torch.float64))


def with_gaps(likelihood, n_spots=1):
    """The same, of which the third lies in a gap."""
    subspots = subspots_of(likelihood, n_spots)
    return likelihood.with_measured(subspots, SHARE.expand(n_spots, 4, 1))


def observed(likelihood):
    return (
        torch.tensor([[30.0, 7.0]], dtype=torch.float64) if likelihood.is_counts else torch.full((1, 2), 1.7).double()
    )


def test_all_captured_is_the_same_as_no_capture_area(likelihood):
    subspots, x = subspots_of(likelihood), observed(likelihood)
    whole = likelihood.with_measured(subspots, torch.ones_like(SHARE))
    torch.testing.assert_close(likelihood.enhanced(x, whole), likelihood.condition(x, subspots))
    for one, other in zip(
        likelihood.aggregate(likelihood.captured(whole)), likelihood.aggregate(subspots), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_what_was_captured_of_counts_adds_up_to_the_spot():
    likelihood = get_likelihood("nb")
    subspots, x = with_gaps(likelihood), observed(likelihood)
    enhanced = likelihood.enhanced(x, subspots)
    captured = enhanced - (1 - SHARE) * subspots.mean
    torch.testing.assert_close(captured.sum(dim=1), x)
    share = SHARE * subspots.mean / (SHARE * subspots.mean).sum(dim=1, keepdim=True)
    torch.testing.assert_close(captured, x[:, None] * share)


def test_a_subspot_in_a_gap_does_not_depend_on_the_spot(likelihood):
    subspots = with_gaps(likelihood)
    low, high = (likelihood.enhanced(x, subspots)[0, 2] for x in (observed(likelihood), 9 * observed(likelihood)))
    torch.testing.assert_close(low, high)
    torch.testing.assert_close(low, subspots.mean[0, 2])


def test_samples_average_to_the_expectation(likelihood):
    n = 200_000
    subspots, x = with_gaps(likelihood, n), observed(likelihood)
    torch.manual_seed(0)
    samples = likelihood.sample_enhanced(subspots, x.expand(n, 2))
    expected = likelihood.enhanced(x, with_gaps(likelihood))[0]
    error = samples.std(dim=0) / n**0.5
    assert ((samples.mean(dim=0) - expected).abs() < 5 * error + 1e-9).all()


def test_captured_samples_of_counts_are_integers_of_the_spot():
    likelihood = get_likelihood("nb")
    subspots, x = with_gaps(likelihood, 500), observed(likelihood)
    torch.manual_seed(0)
    samples = likelihood.sample_enhanced(subspots, x.expand(500, 2))
    torch.testing.assert_close(samples, samples.round())
    assert (samples[:, 0] <= x).all()  # wholly captured: never more than the spot
    assert samples[:, 2].var(dim=0).min() > 0


def test_a_gap_does_not_change_the_variance_of_the_spot_of_a_gaussian_mean():
    likelihood = get_likelihood("gaussian", sigma=0.7)
    whole = likelihood.aggregate(subspots_of(likelihood))
    gaps = likelihood.aggregate(likelihood.captured(with_gaps(likelihood)))
    torch.testing.assert_close(gaps.dispersion, whole.dispersion)


def test_modalities_keep_their_own_portions():
    joint = joint_likelihood([("nb", 1), ("gaussian", 1)])
    subspots = with_gaps(joint)
    x = torch.tensor([[30.0, 1.7]], dtype=torch.float64)
    enhanced = joint.enhanced(x, subspots)
    for part, column in zip(joint.parts, range(2), strict=True):
        columns = slice(column, column + 1)
        own = subspots._replace(mean=subspots.mean[..., columns], dispersion=subspots.dispersion[..., columns])
        torch.testing.assert_close(enhanced[..., columns], part.enhanced(x[:, columns], own))


def test_a_likelihood_without_portions_says_so():
    class Whole(PoissonLikelihood):
        portion = Likelihood.portion

    likelihood = Whole()
    subspots = with_gaps(likelihood)
    with pytest.raises(NotImplementedError, match="`portion` and `union` of a Whole"):
        likelihood.enhanced(observed(likelihood), subspots)
