import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from soscope_scverse.model.estimates.image_evidence import image_evidence
from soscope_scverse.model.estimates.library_size import library_size_noise
from soscope_scverse.module.graph_encoder import GraphEncoder
from soscope_scverse.module.image_regularizer import graph_bce
from soscope_scverse.module.likelihoods import Spots
from soscope_scverse.module.subspot_decoder import DECODERS
from soscope_scverse.module.vae import SoScopeVAE

OPTIONS = {
    "aggregate": None,
    "sigma": None,
    "dispersion": "feature",
    "observation": "matched",
    "n_latent": 4,
    "n_hidden": 16,
    "n_layers": 3,
    "decoder": "shift",
    "uses_latent": True,
    "n_image_components": 128,
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
        "size": torch.ones(n, 1),
        "edge_index": torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i])], dim=1),
        "edge_weight": torch.rand(2 * n - 2),
        "own": torch.arange(n),
        "edge_density": torch.tensor(2 / n),
        "exposure": torch.full((n, k), 1 / k),
        "neighbors": torch.arange(n).view(n, 1, 1).expand(n, k, 1).contiguous(),
        "neighbor_weights": torch.ones(n, k, 1),
        "valid": torch.arange(n * k),
        "features": torch.randn(n, k, n_image_features),
        "image_edge_index": torch.stack([m, m + 1]),
        "image_edge_weight": torch.rand(n * k - 1),
        "image_edge_density": torch.tensor(2 / (n * k)),
    }


def vae(tile, likelihood="nb", **options):
    n_image_features = tile["features"].shape[-1] if "features" in tile else 0
    module = SoScopeVAE([(likelihood, tile["x"].shape[1])], n_image_features, **OPTIONS | options)
    module.start_from(tile["x"], tile["size"])
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


def test_the_image_starts_without_effect_in_the_shift_decoder():
    z, y = torch.randn(7, 4), torch.randn(7, 2)
    shift, joint = DECODERS["shift"](4, 2, 3).eval(), DECODERS["joint"](4, 2, 3).eval()
    assert torch.equal(shift(z, y), shift(z, None))
    assert not torch.equal(joint(z, y), joint(z, None))


@pytest.mark.parametrize("decoder", ["shift", "joint"])
def test_no_image_is_a_image_that_is_the_same_everywhere(decoder):
    decoder = DECODERS[decoder](4, 2, 3).eval()
    z = torch.randn(7, 4)
    assert torch.equal(decoder(z, None), decoder(z, torch.zeros(7, 2)))


def test_the_image_moves_the_latent_state():
    decoder = DECODERS["shift"](4, 2, 3).eval()
    torch.nn.init.normal_(decoder.shift)
    z, y = torch.randn(7, 4), torch.randn(7, 2)
    torch.testing.assert_close(decoder(z, y), decoder(z + y @ decoder.shift.T, None))


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
        losses.append(module._image_loss(subspots, module.likelihood.aggregate(subspots), tile))
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


@pytest.fixture(scope="module")
def imaged():
    """Spots on a grid whose profiles are smooth in space and follow an image, in equal parts."""
    rng = np.random.default_rng(0)
    n = 12
    spatial = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    features = rng.normal(size=(n * n, 6))
    smooth = np.cos(spatial @ rng.normal(size=(2, 20)) / 3)
    profile = features @ rng.normal(size=(6, 20)) / 6**0.5 + smooth + 0.3 * rng.normal(size=(n * n, 20))
    return profile, features, spatial


def test_evidence_tells_a_image_from_a_shuffled_one(imaged):
    profile, features, spatial = imaged
    assert image_evidence(profile, features, spatial) > 30
    shuffled = [features[np.random.default_rng(seed).permutation(len(features))] for seed in range(10)]
    evidence = [image_evidence(profile, image, spatial) for image in shuffled]
    assert min(evidence) >= 0
    assert max(evidence) < 4


def test_a_image_that_is_merely_smooth_is_little_evidence(imaged):
    rng = np.random.default_rng(0)
    fields = gaussian_filter(rng.normal(size=(30, 30, 30)), (1.5, 1.5, 0))[9:21, 9:21].reshape(144, 30)
    fields /= fields.std(axis=0)
    profile, features = fields[:, :20] + 0.3 * rng.normal(size=(144, 20)), fields[:, 20:]
    assert image_evidence(profile, features, imaged[2]) < 4
    assert image_evidence(profile + features @ rng.normal(size=(10, 20)) / 10**0.5, features, imaged[2]) > 20


def test_evidence_does_not_depend_on_pose_scale_or_order(imaged):
    profile, features, spatial = imaged
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    rows = np.random.default_rng(0).permutation(len(profile))
    moved = image_evidence(3 * profile[rows] + 1, 5 * features[rows], 40 * spatial[rows] @ turn - 7)
    assert moved == pytest.approx(image_evidence(profile, features, spatial), rel=1e-3)


def test_no_evidence_where_nothing_can_be_learnt(imaged):
    profile, features, spatial = imaged
    assert image_evidence(profile[:5], features[:5], spatial[:5]) == 0
    assert image_evidence(profile, np.ones_like(features), spatial) == 0
    assert image_evidence(np.ones_like(profile), features, spatial) == 0


def test_evidence_of_sections_adds_up(imaged):
    profile, features, spatial = imaged
    twice = [np.concatenate([a, a]) for a in (profile, features, spatial)]
    both = image_evidence(*twice, np.repeat(["a", "b"], len(profile)))
    assert both == pytest.approx(2 * image_evidence(*imaged), rel=0.01)


@pytest.mark.parametrize("n", [12, 24])
def test_depth_noise_is_found(n):
    rng = np.random.default_rng(0)
    spatial = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    smooth = np.exp(0.5 * np.cos(spatial[:, 0] / 4) + 0.5 * np.sin(spatial[:, 1] / 4))
    technical = np.exp(0.4 * rng.normal(size=n * n))
    level = rng.uniform(50, 200, 30)
    assert library_size_noise(rng.poisson(np.outer(smooth, level)), spatial) == 0.01
    found = library_size_noise(rng.poisson(np.outer(smooth * technical, level)), spatial)
    assert found == pytest.approx(np.log(technical).var(), rel=0.3)


def test_empty_spots_and_shared_positions_are_no_noise(imaged):
    profile, features, spatial = imaged
    counts = np.random.default_rng(0).poisson(np.full((144, 30), 20.0))
    counts[::20] = 0
    assert library_size_noise(counts, spatial) == 0.01
    assert library_size_noise(counts, np.repeat(spatial[::2], 2, axis=0)) == 0.01
    assert np.isfinite(image_evidence(profile, features, np.repeat(spatial[::2], 2, axis=0)))
    assert np.isfinite(image_evidence(profile, features, np.zeros((144, 2))))


def test_depth_noise_of_next_to_nothing():
    assert library_size_noise(np.ones((3, 4)), np.arange(6).reshape(3, 2)) == 0.01
    assert library_size_noise(np.ones((20, 4)), np.arange(40).reshape(20, 2)) == 0.01
