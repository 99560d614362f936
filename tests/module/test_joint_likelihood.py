"""Several modalities side by side."""

import numpy as np
import pytest
import torch

from soscope_scverse.module.likelihoods import (
    GaussianLikelihood,
    JointLikelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    Start,
)
from soscope_scverse.module.vae import modality_weights


@pytest.fixture
def joint():
    """Likelihood of 3 negative binomial, 2 Gaussian and 1 Poisson feature, and its parts with their columns."""
    parts = [NegativeBinomialLikelihood(), GaussianLikelihood(sigma=0.3), PoissonLikelihood()]
    columns = [slice(0, 3), slice(3, 5), slice(5, 6)]
    return JointLikelihood(parts, [3, 2, 1]), list(zip(parts, columns, strict=True))


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.poisson(20, (7, 6)), dtype=torch.float32)
    effect = torch.as_tensor(rng.normal(0, 0.3, (7, 4, 6)), dtype=torch.float32)
    exposure = torch.full((7, 4), 0.25)
    exposure[0] = torch.tensor([0.5, 0.5, 0, 0])
    return x, effect, exposure


def start_of(start, columns):
    return Start(*(value[..., columns] for value in start))


def test_a_joint_likelihood_is_its_parts_side_by_side(joint, values):
    likelihood, parts = joint
    x, effect, exposure = values
    start = likelihood.start(x)
    subspots = likelihood.parameters(effect, start, exposure)
    spots = likelihood.aggregate(subspots)
    noise = torch.tensor([0.1, 0.0, 0.2])
    absorbed, penalty = likelihood.absorb_library_size(x, spots, noise)
    for i, (part, columns) in enumerate(parts):
        own = part.parameters(effect[..., columns], start_of(start, columns), exposure)
        torch.testing.assert_close(part.start(x[:, columns]), start_of(start, columns))
        torch.testing.assert_close(own.mean, subspots.mean[..., columns])
        torch.testing.assert_close(part.rate(own), likelihood.rate(subspots)[..., columns])
        torch.testing.assert_close(part.transform(x, 2 + x)[:, columns], likelihood.transform(x, 2 + x)[:, columns])
        own_spots = part.aggregate(own)
        expected = part.log_prob(x[:, columns], own_spots)
        torch.testing.assert_close(expected, likelihood.log_prob(x, spots)[:, columns])
        torch.testing.assert_close(part.condition(x[:, columns], own), likelihood.condition(x, subspots)[..., columns])
        own_absorbed, own_penalty = part.absorb_library_size(x[:, columns], own_spots, noise[i])
        torch.testing.assert_close(own_absorbed.mean, absorbed.mean[:, columns])
        torch.testing.assert_close(own_penalty[:, 0], penalty[:, i])


def test_draws_of_a_joint_likelihood_add_up_by_modality(joint, values):
    likelihood, _ = joint
    x, effect, exposure = values
    draw = likelihood.sample(likelihood.parameters(effect, likelihood.start(x), exposure), x)
    assert draw.shape == (7, 4, 6)
    counts = [0, 1, 2, 5]
    torch.testing.assert_close(draw.sum(1)[:, counts], x[:, counts])


def test_modalities_weigh_alike():
    weight = modality_weights([10, 300])
    assert weight[0] * 10 == weight[1] * 300
    torch.testing.assert_close(weight @ torch.tensor([10.0, 300.0]), torch.tensor(310.0))
    assert modality_weights([7]) == 1
