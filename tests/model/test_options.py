"""What each argument of the model changes, against evaluations of the trained networks by hand."""

import numpy as np
import pytest
import torch

from helpers import by_spot, flat, seeded, train

FEW = 4


def weights(model) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.module.state_dict().items()}


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def network(w, trunk, head, x):
    """One layer, two residual blocks and a head, as the paper has them."""
    x = linear(w, f"decoder.{trunk}.0", x)
    for block in (f"decoder.{trunk}.1", f"decoder.{trunk}.2"):
        inner = np.maximum(linear(w, f"{block}.layers.0", x), 0)
        x = x + np.maximum(linear(w, f"{block}.layers.2", inner), 0)
    return linear(w, f"decoder.{head}", x)


def effects(model, z, y) -> np.ndarray:
    """f([z, y]) of the joint decoder, f(z + B y) of the shifted one."""
    w = weights(model)
    if "decoder.shift" in w:
        return network(w, "effect.0", "effect.1", z + y @ w["decoder.shift"].T)
    return network(w, "trunk", "head", np.concatenate([z, y], axis=1))


def standardised(adata) -> np.ndarray:
    """Image features of the subspots as the networks see them: n_targets x n_image_features."""
    features = flat(adata.obsm["subspot_features"]).astype(float)
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)


def interpolated(model, bandwidth=0.5) -> np.ndarray:
    """Latent states at the subspots: a Gaussian kernel over the nine nearest spots, which ends at the tenth."""
    spots, at = model.adata.obsm["spatial"], flat(model.adata.obsm["subspots"])
    between = np.linalg.norm(spots[:, None] - spots, axis=2)
    width = bandwidth * np.median(np.sort(between, axis=1)[:, 1])
    distance = np.linalg.norm(at[:, None] - spots, axis=2)
    kernel = np.exp(-(distance**2) / (2 * width**2))
    kernel = np.maximum(kernel - np.sort(kernel, axis=1)[:, [-10]], 0)
    return kernel / kernel.sum(axis=1, keepdims=True) @ model.get_latent_representation()


def of_the_spot(model) -> np.ndarray:
    """The latent state of its spot for every subspot."""
    return np.repeat(model.get_latent_representation(), 7, axis=0)


def decoded(model, z, y) -> np.ndarray:
    """Expected counts: exposure times exp(baseline + effect), where the effect is bounded by 8."""
    return np.exp(weights(model)["baseline"] + 8 * np.tanh(effects(model, z, y) / 8)) / 7


@pytest.fixture(scope="module")
def joint(_prepared):
    return train(_prepared.copy(), FEW, decoder="joint", interpolation="none", kriging=False)


def test_counts_add_up_to_the_spots(trained, enhanced):
    """By construction of the conditional expectation, whatever the networks say."""
    np.testing.assert_allclose(by_spot(enhanced.X).sum(axis=1), trained.adata.X.toarray(), rtol=1e-4)
    assert (enhanced.X >= 0).all()


def test_the_image_shifts_interpolated_latent_states(prepared):
    trained = train(prepared, FEW, kriging=False)
    found = trained.get_enhanced(expectation="decoded").X
    np.testing.assert_allclose(found, decoded(trained, interpolated(trained), standardised(trained.adata)), rtol=1e-4)


def test_a_joint_decoder_is_one_network_over_latent_state_and_image(joint):
    z, y = of_the_spot(joint), standardised(joint.adata)
    assert {name for name in weights(joint) if name.startswith("decoder")} == {
        f"decoder.{layer}.{part}"
        for layer in ("trunk.0", *(f"trunk.{i}.layers.{j}" for i in (1, 2) for j in (0, 2)), "head")
        for part in ("weight", "bias")
    }
    found = joint.get_enhanced(expectation="decoded").X
    np.testing.assert_allclose(found, decoded(joint, z, y), rtol=1e-4)
    # of both inputs, and not through a shifted state: the effect of the image depends on the latent state
    step = effects(joint, z, y) - effects(joint, z, 0 * y)
    of_another = effects(joint, 0 * z, y) - effects(joint, 0 * z, 0 * y)
    assert step.std(axis=0).min() > 0
    assert not np.allclose(step, of_another, atol=1e-3 * np.abs(step).max())


def test_without_interpolation_subspots_differ_by_the_image_alone(prepared, joint):
    """All of a spot share one latent state; where they look alike, they are alike."""
    prepared.obsm["subspot_features"] = np.repeat(prepared.obsm["subspot_features"][:, :1], 7, axis=1)
    alike = by_spot(joint.get_enhanced(prepared, expectation="decoded").X)
    np.testing.assert_allclose(alike, alike[:, :1].repeat(7, axis=1), rtol=1e-5)
    del prepared.obsm["subspot_features"]
    alone = by_spot(train(prepared, FEW, interpolation="none", kriging=False).get_enhanced(expectation="decoded").X)
    np.testing.assert_allclose(alone, alone[:, :1].repeat(7, axis=1), rtol=1e-5)
    interpolated = by_spot(train(prepared, FEW, kriging=False).get_enhanced(expectation="decoded").X)
    assert (interpolated.std(axis=1) > 0).all()


def loss(model) -> tuple[torch.Tensor, dict]:
    """Loss and terms on the whole section, in evaluation mode."""
    module = model.module.eval()
    arguments = model.init_params_["non_kwargs"]
    strength = arguments["similarity_strength"] if arguments["image_weight"] else None
    tile = model._tiles(model._section(model._inputs, model._inputs.order()), strength).tile()
    output = module(tile)[2]
    return output, {"x": tile["x"], "subspots": module(tile)[1]["subspots"]}


def test_a_gaussian_observation_has_the_variance_of_sigma_alone(prepared):
    """The sum scored by N(sum, sigma^2): the dispersion of the counts has no part in it and stays where it started."""
    model = train(prepared, FEW, observation="gaussian", sigma=3.0, library_size_noise=0.0)
    output, given = loss(model)
    total = given["subspots"].mean.sum(1)
    expected = -torch.distributions.Normal(total, 3.0).log_prob(given["x"]).sum(1)
    torch.testing.assert_close(output.reconstruction_loss["reconstruction_loss"], expected)
    start = train(prepared.copy(), 1, observation="gaussian", sigma=3.0, library_size_noise=0.0)
    torch.testing.assert_close(model.module.log_dispersion, start.module.log_dispersion)


@pytest.mark.parametrize("dispersion", ["feature", "subspot"])
def test_dispersion_of_features_or_of_every_subspot(prepared, dispersion):
    model = train(prepared, FEW, dispersion=dispersion)
    phi = loss(model)[1]["subspots"].dispersion.detach().numpy()
    of_features = weights(model)["log_dispersion"]
    if dispersion == "feature":
        np.testing.assert_allclose(phi, np.exp(of_features), rtol=1e-5)
        return
    assert phi.shape == (60, 7, 8)
    effect = effects(model, interpolated(model), standardised(prepared))
    assert effect.shape == (420, 16)
    np.testing.assert_allclose(flat(phi), np.exp(np.clip(of_features + effect[:, 8:], -8, 8)), rtol=1e-4)
    assert (flat(phi).std(axis=0) > 0).all()


def test_poisson_counts_have_no_dispersion(prepared):
    model = train(prepared, FEW, likelihood="poisson", library_size_noise=0.0)
    output, given = loss(model)
    expected = -torch.distributions.Poisson(given["subspots"].mean.sum(1)).log_prob(given["x"]).sum(1)
    torch.testing.assert_close(output.reconstruction_loss["reconstruction_loss"], expected)


@pytest.mark.parametrize(("n_graph_samples", "is_exact"), [(None, True), (16, False)])
def test_graph_losses_of_all_nodes_are_no_estimates(prepared, n_graph_samples, is_exact):
    model = train(prepared, 1, n_graph_samples=n_graph_samples)
    a, b = (seeded(loss, model, seed=seed)[0].extra_metrics["image_loss"] for seed in (0, 1))
    assert (a == b) == is_exact
    torch.testing.assert_close(a, b, rtol=0.3, atol=0)


def test_an_image_of_no_weight_is_seen_and_not_scored(prepared):
    model = train(prepared, FEW, image_weight=0.0)
    assert "image_loss_train" not in model.history
    assert "image_loss" not in loss(model)[0].extra_metrics
    changed = prepared.copy()
    changed.obsm["subspot_features"] = prepared.obsm["subspot_features"][::-1].copy()
    assert not np.allclose(model.get_enhanced(changed).X, model.get_enhanced().X, rtol=1e-3)


def test_spots_are_masked_and_image_features_dropped_in_training(prepared):
    """With neither, and no draw of the latent state, two forward passes in training mode agree."""
    quiet = train(prepared.copy(), 1, masked=0.0, image_shrinkage=0.0).module.train()
    usual = train(prepared.copy(), 1).module.train()
    assert quiet.decoder.dropout.p == 0
    assert usual.decoder.dropout.p == 40 / 100
    tile = train(prepared, 1)
    tile = tile._tiles(tile._section(tile._inputs), 2.0).tile()
    for module, repeats in ((quiet, True), (usual, False)):
        means = [module.inference(tile)["qz"].mean for _ in range(2)]
        assert torch.equal(*means) == repeats


def test_no_library_size_noise_takes_every_difference_for_tissue(prepared):
    noise = [
        float(train(prepared.copy(), 1, library_size_noise=value).module.library_size_noise) for value in (0, "auto")
    ]
    assert noise[0] == 0
    assert noise[1] > 0


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_gaussian_data(prepared, aggregate):
    """Means of subspots do not depend on how large these are; of sums each has its share."""
    x = prepared.X.toarray()
    prepared.X = (x - x.mean(0)) / x.std(0)
    model = train(prepared, 10, likelihood="gaussian", aggregate=aggregate, kriging=False)
    enhanced = by_spot(model.get_enhanced().X)
    np.testing.assert_allclose(getattr(enhanced, aggregate)(axis=1), prepared.X, atol=1e-4)
    halves = prepared.copy()
    halves.obsm["subspot_exposure"] = np.tile([0.5, *[0.5 / 6] * 6], (60, 1))
    before, after = (by_spot(model.get_enhanced(a, expectation="decoded").X) for a in (prepared, halves))
    ratio = 1.0 if aggregate == "mean" else np.array([3.5, *[3.5 / 6] * 6])[:, None]
    np.testing.assert_allclose(after, ratio * before, rtol=1e-4, atol=1e-5)
