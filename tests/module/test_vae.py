"""The generative model against evaluations by hand."""

import numpy as np
import pytest
import torch

from helpers import chain, vae
from soscope_scverse.module.image_regularizer import graph_bce
from soscope_scverse.module.likelihoods import Spots


def test_depth_of_a_spot_is_absorbed():
    tile = chain(n=40, n_features=30)
    module = vae(tile)
    generative = module.eval()(tile)[1]
    spots = module.likelihood.aggregate(generative["subspots"])
    x = torch.poisson(spots.mean * torch.linspace(0.2, 5, 40).unsqueeze(1) * 20) / 20
    unchanged, penalty = module.likelihood.absorb_library_size(x, spots, module.library_size_noise)
    assert unchanged is spots
    assert (penalty == 0).all()
    module.library_size_noise.fill_(1e6)
    absorbed, _ = module.likelihood.absorb_library_size(x, spots, module.library_size_noise)
    torch.testing.assert_close(absorbed.mean.sum(1), x.sum(1), rtol=0.05, atol=0.5)
    torch.testing.assert_close(
        absorbed.mean / absorbed.mean.sum(1, keepdim=True), spots.mean / spots.mean.sum(1, keepdim=True)
    )


def test_depth_is_integrated_out():
    """Laplace's approximation against the integral over the log depth."""
    torch.manual_seed(1)
    noise, mean = 0.09, 20 * torch.rand(1, 30) + 5
    module = vae(chain(n_features=30), likelihood="poisson")
    module.library_size_noise.fill_(noise)
    for surplus in (-0.5, 0.0, 0.7):
        x = torch.poisson(mean * np.exp(surplus))
        spots, penalty = module.likelihood.absorb_library_size(
            x, Spots(mean, torch.zeros(())), module.library_size_noise
        )
        found = module.likelihood.log_prob(x, spots).sum() - penalty.sum()
        depth = torch.linspace(-2, 2, 4001)
        prior = torch.distributions.Normal(0.0, noise**0.5).log_prob(depth)
        given = module.likelihood.log_prob(x, Spots(mean * depth.exp().unsqueeze(1), torch.zeros(()))).sum(1)
        exact = torch.logsumexp(prior + given, dim=0) + np.log(1e-3)
        assert abs(float(found - exact)) < 0.3


@pytest.mark.parametrize("decoder", ["shift", "joint"])
@pytest.mark.parametrize("likelihood", ["nb", "poisson", "gaussian"])
@pytest.mark.parametrize("observation", ["matched", "gaussian"])
@pytest.mark.parametrize("dispersion", ["feature", "subspot"])
def test_every_form_has_a_finite_loss_and_gradients(decoder, likelihood, observation, dispersion):
    tile = chain()
    module = vae(tile, decoder=decoder, likelihood=likelihood, observation=observation, dispersion=dispersion)
    module.train()
    inference, _, output = module(tile)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    generative = module.eval().generative(tile, inference["z"])
    assert generative["subspots"].mean.shape == (12, 3, 5)
    assert inference["qz"].mean.shape == (12, 4)


def test_loss_is_what_the_paper_writes():
    """-log p / G + w KL / G + beta L_image, all evaluated by hand."""
    tile = chain()
    module = vae(tile, image_weight=0.7).eval()
    torch.nn.init.normal_(module.decoder.shift, std=0.3)
    inference, generative, output = module(tile, loss_kwargs={"kl_weight": 0.4})
    subspots = generative["subspots"]
    nll = -module.likelihood.log_prob(tile["x"], module.likelihood.aggregate(subspots)).sum(1)
    mean, scale = inference["qz"].mean, inference["qz"].scale
    kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum(1)
    rate = subspots.mean * 3
    residual = (rate - subspots.mean.sum(1, keepdim=True)) / tile["x"].mean(0)
    residual = residual.reshape(36, 5) / 5**0.5
    image = graph_bce(residual.__getitem__, 36, tile["image_edge_index"], tile["image_edge_weight"])
    expected = (nll + 0.4 * kl).mean() / 5 + 0.7 * image
    torch.testing.assert_close(output.loss, expected)


def test_gaussian_observation_is_that_of_the_sum():
    tile = chain()
    module = vae(tile, observation="gaussian", sigma=2.0, image_weight=0.0).eval()
    _, generative, output = module(tile, loss_kwargs={"kl_weight": 0.0})
    total = generative["subspots"].mean.sum(1)
    expected = 0.5 * ((tile["x"] - total) / 2) ** 2 + np.log(2 * (2 * np.pi) ** 0.5)
    torch.testing.assert_close(output.loss, expected.mean())


def test_image_loss_does_not_grow_with_depth_features_or_subspots():
    base = chain()
    losses = []
    for depth, repeat in ((1, 1), (50, 1), (1, 4)):
        tile = base | {"x": (base["x"] * depth).repeat(1, repeat)}
        module = vae(tile).eval()
        exposure = tile["exposure"]
        effect = torch.linspace(-1, 1, 3).view(1, 3, 1).expand(12, 3, 5).repeat(1, 1, repeat)
        subspots = module.likelihood.parameters(effect, module.feature_parameters(), exposure)
        pairs = module._image_pairs(tile)
        _, deviations = module._spots(subspots, tile["x"], tile, pairs)
        losses.append(module._image_loss(deviations, pairs, tile))
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_scaling_the_depth_scales_the_counts():
    tile = chain()
    module = vae(tile).eval()
    z = module.inference(tile)["z"]
    before = module.likelihood.aggregate(module.generative(tile, z)["subspots"])
    module.scale_library_size(4.0)
    deeper = tile | {"x": tile["x"] * 4}
    torch.testing.assert_close(module.inference(deeper)["z"], z)
    after = module.likelihood.aggregate(module.generative(deeper, z)["subspots"])
    torch.testing.assert_close(after.mean, 4 * before.mean)
    torch.testing.assert_close(after.dispersion, 4 * before.dispersion)


def test_masking_happens_in_training_only():
    tile = chain()
    module = vae(tile, masked=0.5).eval()
    assert torch.equal(module.inference(tile)["qz"].mean, module.inference(tile)["qz"].mean)
    module.train()
    assert not torch.equal(module.inference(tile)["qz"].mean, module.inference(tile)["qz"].mean)
