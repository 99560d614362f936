import numpy as np
import pytest
import torch

from soscope_scverse.model.trust import picture_trust
from soscope_scverse.module.graph_encoder import GraphEncoder
from soscope_scverse.module.image_regularizer import graph_bce
from soscope_scverse.module.subspot_decoder import DECODERS
from soscope_scverse.module.vae import SoScopeVAE

OPTIONS = {
    "likelihood": "nb",
    "aggregate": None,
    "sigma": None,
    "dispersion": "feature",
    "observation": "matched",
    "n_latent": 4,
    "n_hidden": 16,
    "n_layers": 3,
    "decoder": "additive",
    "feature_dropout": 0.5,
    "masked": 0.3,
    "image_weight": 1.0,
    "n_graph_samples": None,
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def chain(n=12, k=3, n_features=5, n_image_features=2):
    """Spots in a row, each joined to the next, k subspots each."""
    i = torch.arange(n - 1)
    m = torch.arange(n * k - 1)
    return {
        "x": torch.poisson(torch.full((n, n_features), 6.0)),
        "edge_index": torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i])], dim=1),
        "edge_weight": torch.rand(2 * n - 2),
        "exposure": torch.full((n, k), 1 / k),
        "neighbors": torch.arange(n).view(n, 1, 1).expand(n, k, 1).contiguous(),
        "neighbor_weights": torch.ones(n, k, 1),
        "valid": torch.arange(n * k),
        "features": torch.randn(n, k, n_image_features),
        "image_edge_index": torch.stack([m, m + 1]),
        "image_edge_weight": torch.rand(n * k - 1),
    }


def vae(tile, **options):
    n_image_features = tile["features"].shape[-1] if "features" in tile else 0
    module = SoScopeVAE(tile["x"].shape[1], n_image_features, **OPTIONS | options)
    module.start_from(tile["x"])
    return module


def test_hidden_spots_are_not_looked_at():
    tile = chain()
    encoder = GraphEncoder(5, 4, 16)
    hidden = torch.zeros(12, dtype=torch.bool)
    hidden[4] = True
    edges = tile["edge_index"], tile["edge_weight"]
    changed = tile["x"].clone()
    changed[4] += 100
    assert torch.equal(encoder(tile["x"], hidden, *edges).mean, encoder(changed, hidden, *edges).mean)
    assert not torch.equal(encoder(tile["x"], ~hidden, *edges).mean, encoder(tile["x"], hidden, *edges).mean)


def test_a_latent_state_depends_on_three_hops_and_no_more():
    tile = chain(n_features=5)
    encoder = GraphEncoder(5, 4, 16)
    x = tile["x"].requires_grad_()
    nobody = torch.zeros(12, dtype=torch.bool)
    z = encoder(x, nobody, tile["edge_index"], tile["edge_weight"]).mean
    (gradient,) = torch.autograd.grad(z[0].sum(), x)
    assert (gradient.abs().sum(1) > 0).tolist() == [True] * 4 + [False] * 8


def test_edge_weights_matter():
    tile = chain()
    encoder = GraphEncoder(5, 4, 16)
    nobody = torch.zeros(12, dtype=torch.bool)
    a = encoder(tile["x"], nobody, tile["edge_index"], tile["edge_weight"]).mean
    b = encoder(tile["x"], nobody, tile["edge_index"], tile["edge_weight"] * 0.1).mean
    assert not torch.allclose(a, b)


def test_untrusted_picture_has_no_effect():
    decoder = DECODERS["additive"](4, 2, 3).eval()
    torch.nn.init.normal_(decoder.image[-1].weight)
    z, y = torch.randn(7, 4), torch.randn(7, 2)
    alone = decoder(z, None, torch.zeros(3))
    assert torch.equal(decoder(z, y, torch.zeros(3)), alone)
    trust = torch.tensor([0.0, 1.0, 0.0])
    assert ((decoder(z, y, trust) != alone).any(0)).tolist() == [False, True, False]


def test_picture_starts_without_effect_in_the_additive_decoder():
    z, y = torch.randn(7, 4), torch.randn(7, 2)
    additive, joint = DECODERS["additive"](4, 2, 3).eval(), DECODERS["joint"](4, 2, 3).eval()
    assert torch.equal(additive(z, y, torch.ones(3)), additive(z, -y, torch.ones(3)))
    assert not torch.equal(joint(z, y, torch.ones(3)), joint(z, -y, torch.ones(3)))


@pytest.mark.parametrize("decoder", ["additive", "joint"])
@pytest.mark.parametrize("likelihood", ["nb", "poisson", "gaussian"])
@pytest.mark.parametrize("observation", ["matched", "gaussian"])
@pytest.mark.parametrize("dispersion", ["feature", "subspot"])
def test_every_form_has_a_finite_loss_and_gradients(decoder, likelihood, observation, dispersion):
    tile = chain()
    module = vae(tile, decoder=decoder, likelihood=likelihood, observation=observation, dispersion=dispersion)
    module.train()
    inference, generative, output = module(tile)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    assert generative["subspots"].mean.shape == (12, 3, 5)
    assert inference["qz"].mean.shape == (12, 4)


def test_loss_is_what_the_paper_writes():
    """-log p / G + w KL / G + beta L_image, all evaluated by hand."""
    tile = chain()
    module = vae(tile, image_weight=0.7).eval()
    torch.nn.init.normal_(module.decoder.image[-1].weight, std=0.3)
    inference, generative, output = module(tile, loss_kwargs={"kl_weight": 0.4})
    subspots = generative["subspots"]
    nll = -module.likelihood.log_prob(tile["x"], module.likelihood.aggregate(subspots)).sum(1)
    mean, scale = inference["qz"].mean, inference["qz"].scale
    kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum(1)
    rate = subspots.mean * 3
    residual = (rate - subspots.mean.sum(1, keepdim=True)) / tile["x"].mean(0)
    image = graph_bce(residual.reshape(36, 5) / 5**0.5, tile["image_edge_index"], tile["image_edge_weight"])
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
        losses.append(module._image_loss(subspots, module.likelihood.aggregate(subspots), tile))
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_scaling_the_depth_scales_the_counts():
    tile = chain()
    module = vae(tile).eval()
    z = module.inference(tile)["z"]
    before = module.likelihood.aggregate(module.generative(tile, z)["subspots"])
    module.scale_depth(4.0)
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


@pytest.fixture(scope="module")
def pictured():
    """Spots on a grid; half of the features follow the picture, half are noise."""
    rng = np.random.default_rng(0)
    n = 15
    spatial = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    features = rng.normal(size=(n * n, 6))
    signal = features @ rng.normal(size=(6, 20)) + rng.normal(size=(n * n, 20))
    profile = np.hstack([signal, rng.normal(size=(n * n, 20)) + spatial[:, :1]])
    index = np.arange(n * n).reshape(n, n)
    right = np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()])
    down = np.stack([index[:-1].ravel(), index[1:].ravel()])
    return profile, features, np.hstack([right, down]), spatial


def test_trust_tells_signal_from_noise(pictured):
    profile, features, edges, spatial = pictured
    trust = picture_trust(profile, features, edges, spatial)
    assert trust.shape == (40,)
    assert ((trust >= 0) & (trust <= 1)).all()
    assert trust[:20].min() > 0.9
    assert np.median(trust[20:]) < 0.7


def test_a_shuffled_picture_is_not_trusted(pictured):
    profile, features, edges, spatial = pictured
    trust = []
    for seed in range(10):
        shuffled = features[np.random.default_rng(seed).permutation(len(features))]
        trust.append(np.median(picture_trust(profile, shuffled, edges, spatial)))
    assert np.median(trust) < 0.05
    assert max(trust) < 0.3


def test_trust_where_nothing_can_be_learnt(pictured):
    profile, features, _, spatial = pictured
    assert (picture_trust(profile, features, np.empty((2, 0), dtype=int), spatial) == 0).all()
    constant = np.zeros_like(features)
    assert (picture_trust(profile, constant, pictured[2], spatial) == 0).all()
