"""The model of preset="paper" against dense evaluations, written from the equations of Li et al. 2024."""

import math

import pytest
import torch

from helpers import chain
from soscope_scverse.module.image_regularizer import graph_bce
from soscope_scverse.module.vae import GraphAutoencoder, SoScopeVAE
from soscope_scverse.tl import _paper as paper

N, K, SIGMA = 12, 3, 1.5
MODULE = (
    *("n_latent", "decoder", "observation", "dispersion", "n_image_components", "masked", "n_graph_samples"),
    *("loss_per", "image_deviation"),
)
CASES = {
    "nb": [("nb", 5)],
    "poisson": [("poisson", 5)],
    "gaussian": [("gaussian", 5)],
    "joint": [("poisson", 2), ("nb", 3)],
    "gaussian and nb": [("gaussian", 2), ("nb", 3)],
}
cases = pytest.mark.parametrize("modalities", CASES.values(), ids=CASES)


def as_published(tile, modalities, **options):
    kwargs = paper.model_kwargs(has_cells=False)
    kwargs = {name: kwargs[name] for name in MODULE} | {
        "aggregate": None,
        "sigma": SIGMA,
        "n_hidden": 16,
        "n_layers": 3,
        "uses_latent": True,
        "feature_dropout": 0.0,
        "image_weight": 1.0,
    }
    module = SoScopeVAE(modalities, tile["features"].shape[-1], **kwargs | options)
    module.start_from(tile["x"], tile["size"])
    return module


def columns(modalities):
    """Likelihood and columns of every modality."""
    start = 0
    for name, size in modalities:
        yield name, slice(start, start + size)
        start += size


def dense_loss(modalities, x, mean, variance, qz, w, *, kl_weight, image_weight):
    """Eq. 6 in double precision: -E log p(X given the sum) + KL + beta L, and the three terms.

    `mean` and `variance` are N x K x G, those of the subspots; `w` is the M x M similarity W with 1 on its diagonal.
    """
    one_minus, reconstruction = torch.ones_like(w), torch.zeros(N, dtype=torch.float64)
    for name, own in columns(modalities):
        weight, centre = (1 / K, x[:, None, own]) if name == "gaussian" else (1.0, x[:, None, own] / K)
        squared = (x[:, own] - weight * mean[..., own].sum(1)) ** 2
        if name == "gaussian":  # the expectation of the square over the subspots (Eq. 4)
            squared = squared + weight**2 * variance[..., own].sum(1)
        reconstruction += (squared / (2 * SIGMA**2) + 0.5 * math.log(2 * math.pi * SIGMA**2)).sum(1)
        deviation = (mean[..., own] - centre).reshape(N * K, -1)
        one_minus = one_minus * (1 - torch.sigmoid(deviation @ deviation.T))  # 1 - (a + b - a b) = (1 - a)(1 - b)
    image = -(w * torch.log(1 - one_minus) + (1 - w) * torch.log(one_minus)).mean()  # Eq. 5, all pairs
    kl = (0.5 * (qz.mean**2 + qz.scale**2 - 1) - qz.scale.log()).sum(1).double()
    return reconstruction.mean() + kl_weight * kl.mean() + image_weight * image, reconstruction, kl, image


def dense_similarity(tile):
    w = torch.eye(N * K, dtype=torch.float64)
    i, j = tile["image_edge_index"]
    w[i, j] = w[j, i] = tile["image_edge_weight"].double()
    return w


def exact_density(tile):
    n_targets = N * K
    return tile | {"image_edge_density": torch.tensor((n_targets - 1) / (n_targets * (n_targets - 1) / 2))}


@cases
def test_the_loss_is_that_of_the_equations(modalities):
    """Eqs. 4 to 6, every term to 1e-5, for one and for two modalities."""
    tile = exact_density(chain(n=N, k=K))
    for name, own in columns(modalities):
        tile["x"][:, own] /= 3 if name == "gaussian" else 1  # else 1 - Lambda is 0 in double precision
    module = as_published(tile, modalities, image_weight=0.7).eval()
    inference, generative, output = module(tile, loss_kwargs={"kl_weight": 0.4})
    subspots, qz = generative["subspots"], inference["qz"]
    variance = subspots.dispersion.double().expand_as(subspots.mean)
    loss, reconstruction, kl, image = dense_loss(
        modalities,
        tile["x"].double(),
        subspots.mean.double(),
        variance,
        qz,
        dense_similarity(tile),
        kl_weight=0.4,
        image_weight=0.7,
    )
    found = [output.loss, *output.reconstruction_loss.values(), *output.kl_local.values()]
    for value, expected in zip(found, (loss, reconstruction, kl), strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.extra_metrics["image_loss"].double(), 0.7 * image, rtol=1e-5, atol=1e-5)


def test_two_modalities_are_joined_as_published():
    """Lambda_p + Lambda_g - Lambda_p Lambda_g, as it is written."""
    a, b = (torch.randn(9, 3, dtype=torch.float64) for _ in range(2))
    w = torch.eye(9, dtype=torch.float64)
    w[0, 1] = w[1, 0] = 0.3
    p, g = (torch.sigmoid(one @ one.T) for one in (a, b))
    expected = torch.nn.functional.binary_cross_entropy(p + g - p * g, w)
    edges, weight = torch.tensor([[0], [1]]), torch.tensor([0.3], dtype=torch.float64)
    both = torch.cat([a, b], dim=1)
    found = graph_bce(both.__getitem__, 9, edges, weight, sizes=[3, 3], diagonal=1 / 9)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 30.0, 300.0])
def test_joined_similarities_do_not_overflow(scale):
    """Inner products of raw counts reach thousands, of either sign."""
    both = (scale * torch.randn(12, 6)).requires_grad_()
    edges = torch.tensor([[0, 1], [1, 2]])
    options = {"sizes": [2, 4], "diagonal": 1 / 12}
    value = graph_bce(both.__getitem__, 12, edges, torch.ones(2), **options)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(both.grad).all()
    expected = graph_bce(both.detach().double().__getitem__, 12, edges, torch.ones(2).double(), **options)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_sample_of_all_pairs_is_unbiased():
    both = torch.randn(30, 5, dtype=torch.float64) * 0.6
    edges = torch.combinations(torch.arange(30))[::8].T
    weight = torch.rand(edges.shape[1], dtype=torch.float64)
    arguments = both.__getitem__, 30, edges, weight
    expected = graph_bce(*arguments, sizes=[2, 3], diagonal=1 / 30)
    values = torch.stack([graph_bce(*arguments, 12, sizes=[2, 3], diagonal=1 / 30) for _ in range(4000)])
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_deviations_of_cells_are_from_the_mean_of_all_cells():
    tile = exact_density(chain(n=N, k=K))
    module = as_published(tile, CASES["nb"], image_deviation="overall").eval()
    _, generative, output = module(tile)
    mean = generative["subspots"].mean.double().reshape(N * K, -1)
    deviation = mean - mean.mean(0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(deviation @ deviation.T, dense_similarity(tile))
    torch.testing.assert_close(output.extra_metrics["image_loss"].double(), expected, rtol=1e-5, atol=1e-6)


def test_the_observed_spot_is_divided_by_what_it_captured():
    """Unequal subspots: the share of each in the spot; in a gap nothing is expected of the spot."""
    tile = exact_density(chain(n=N, k=K))
    share = torch.tensor([0.5, 0.5, 0.0]).expand(N, K)
    tile |= {"exposure": share.contiguous(), "area": torch.full((N, K), 0.5)}
    module = as_published(tile, CASES["nb"]).eval()
    _, generative, output = module(tile)
    captured = generative["subspots"].mean * torch.tensor([1.0, 1.0, 0.0]).view(1, K, 1)
    deviation = (captured - tile["x"].unsqueeze(1) * share.unsqueeze(2)).reshape(N * K, -1).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(deviation @ deviation.T, dense_similarity(tile))
    torch.testing.assert_close(output.extra_metrics["image_loss"].double(), expected, rtol=1e-5, atol=1e-6)


@cases
def test_expected_subspots_are_those_of_the_decoder_at_the_mean_latent_state(modalities):
    """Eq. 7, with the mean r exp(logit) of a negative binomial."""
    tile = chain(n=N, k=K)
    module = as_published(tile, modalities).eval()
    torch.nn.init.normal_(module.log_dispersion, std=0.3)
    z = module.inference(tile)["qz"].mean
    found = module.generative(tile, z)["subspots"]
    output = module.decoder(z.repeat_interleave(K, dim=0), tile["features"].flatten(0, 1)).view(N, K, -1)
    for name, own in columns(modalities):
        first, baseline = 8 * torch.tanh(output[..., :5][..., own] / 8), module.baseline[own]
        if name == "gaussian":
            expected = baseline + module.unit[own] * output[..., :5][..., own]
        elif name == "poisson":
            expected = (baseline + first).exp() / K
        else:
            logit = module.log_dispersion[own] + output[..., 5:][..., own]
            expected = (baseline + first).exp() / K * logit.exp()
            torch.testing.assert_close(found.dispersion.expand_as(found.mean)[..., own], logit.exp())
        torch.testing.assert_close(found.mean[..., own], expected, rtol=1e-5, atol=1e-6)


@cases
def test_every_parameter_is_trained(modalities):
    """No gradient is 0, before and after a step; of the dispersions that of no feature."""
    tile = chain(n=N, k=K)
    module = as_published(tile, modalities).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        module(tile)[2].loss.backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
        # attention is the same for any bias of the keys
        trained = {name: gradient for name, gradient in gradients.items() if not name.endswith("lin_key.bias")}
        assert len(trained) == len(gradients) - 3
        assert [name for name, gradient in trained.items() if gradient is None or not gradient.abs().max() > 0] == []
        for name, own in columns(modalities):
            if name != "poisson":
                assert (module.log_dispersion.grad[own] != 0).all()
                assert (module.decoder.head.weight.grad[5:][own].abs().amax(1) > 0).all()
        optimizer.step()


def test_both_phases_add_up_features_without_weights():
    tile = chain(n=N, k=K)
    module = as_published(tile, CASES["joint"])
    auto = GraphAutoencoder(
        module.encoder,
        module.sizes,
        module.likelihood,
        n_latent=128,
        n_hidden=16,
        masked=0.0,
        n_graph_samples=None,
        loss_per="spot",
    ).eval()
    auto.start_from(tile["x"], tile["size"])
    inference, generative, output = auto(tile)
    nll = -auto.likelihood.log_prob(tile["x"], generative["spots"]).sum(1)
    qz = inference["qz"]
    kl = (0.5 * (qz.mean**2 + qz.scale**2 - 1) - qz.scale.log()).sum(1)
    expected = (nll + kl).mean() + output.extra_metrics["graph_loss"]
    torch.testing.assert_close(output.loss, expected)


def test_a_larger_library_leaves_shapes_alone():
    tile = chain(n=N, k=K)
    module = as_published(tile, CASES["nb"]).eval()
    z = module.inference(tile)["z"]
    before = module.generative(tile, z)["subspots"]
    module.scale_library_size(4.0)
    after = module.generative(tile, z)["subspots"]
    torch.testing.assert_close(after.mean, 4 * before.mean)
    torch.testing.assert_close(after.dispersion, 4 * before.dispersion)
