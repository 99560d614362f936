import anndata as ad
import numpy as np
import pytest
import torch

from helpers import QUIET, seeded, train
from soscope_scverse import SoScope, pp


def test_enhanced_has_the_slots_that_are_documented(trained, enhanced):
    adata = trained.adata
    assert enhanced.shape == (420, 8)
    assert enhanced.X.dtype == np.float32
    assert list(enhanced.obs["spot"]) == list(np.repeat(adata.obs_names, 7))
    assert list(enhanced.obs["subspot"]) == list(range(7)) * 60
    assert enhanced.obs_names.is_unique
    np.testing.assert_array_equal(enhanced.obsm["spatial"], adata.obsm["subspots"].reshape(-1, 2))
    np.testing.assert_array_equal(enhanced.obsm["image_features"], adata.obsm["subspot_features"].reshape(420, -1))
    assert len(enhanced.obs[["array_col", "array_row"]].drop_duplicates()) == 420
    assert list(enhanced.var_names) == list(adata.var_names)
    diameter = enhanced.uns["spatial"]["synthetic"]["scalefactors"]["spot_diameter_fullres"]
    assert diameter == pytest.approx(36 / 7**0.5)


def test_decoded_expectation_is_smooth_and_close_to_the_spots(trained):
    prior = trained.get_enhanced(expectation="decoded").X.reshape(60, 7, 8).sum(axis=1)
    observed = trained.adata.X.toarray()
    assert np.corrcoef(prior.ravel(), observed.ravel())[0, 1] > 0.8
    assert not np.allclose(prior, observed, rtol=0.01)


def test_several_expectations_are_those_of_one_each_in_one_pass(trained, monkeypatch):
    one_each = {name: trained.get_enhanced(expectation=name) for name in ("conditional", "denoised", "decoded")}
    assert all(set(result.layers) - {None} == set() for result in one_each.values())
    decode, calls = trained.module.generative, []
    monkeypatch.setattr(trained.module, "generative", lambda *args: calls.append(args) or decode(*args))
    enhanced = trained.get_enhanced(expectation=["decoded", "denoised", "conditional"])
    assert len(calls) == 1
    np.testing.assert_array_equal(enhanced.X, one_each["decoded"].X)
    assert set(enhanced.layers) - {None} == {"denoised", "conditional"}
    for name in ("denoised", "conditional"):
        np.testing.assert_array_equal(enhanced.layers[name], one_each[name].X)
    default = trained.get_enhanced()
    np.testing.assert_array_equal(default.X, one_each["conditional"].X)
    np.testing.assert_array_equal(default.layers["denoised"], one_each["denoised"].X)


def test_draws_give_their_spread(trained):
    enhanced = seeded(trained.get_enhanced, n_samples=60)
    layers = enhanced.layers
    assert set(layers) - {None} == {"denoised", "std", "q05", "q95", "sampled_counts"}
    assert (layers["q05"] <= layers["q95"]).all()
    assert (layers["std"] >= 0).all()
    inside = (enhanced.X >= layers["q05"] - 1) & (enhanced.X <= layers["q95"] + 1)
    assert inside.mean() > 0.9
    # a subspot varies at least as much as a multinomial share of its spot's count
    share = np.clip(enhanced.X / np.maximum(np.repeat(trained.adata.X.toarray(), 7, axis=0), 1), 0, 1)
    assert np.median(layers["std"] ** 2 / np.maximum(enhanced.X * (1 - share), 1e-3)) > 1


def test_latent_representation(trained):
    z = trained.get_latent_representation()
    assert z.shape == (60, 32)
    assert np.isfinite(z).all()


def test_history_has_both_phases(trained):
    history = trained.history
    assert len(history["train_loss"]) == 60
    assert len(history["pretrain_train_loss"]) == 10
    for name in ("reconstruction_loss_train", "kl_local_train", "image_loss_train", "pretrain_graph_loss_train"):
        assert np.isfinite(history[name].to_numpy(float)).all()
    loss = history["train_loss"].to_numpy(float).ravel()
    assert loss[-5:].mean() < loss[:5].mean()


def test_one_seed_gives_the_same_bits(prepared):
    a, b = (train(prepared.copy()).get_enhanced().X for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, train(prepared.copy(), seed=1).get_enhanced().X)


def test_permuting_the_spots_permutes_the_result(prepared):
    rows = np.random.default_rng(0).permutation(prepared.n_obs)
    # few steps: rounding of the graph grows with every one
    plain, moved = train(prepared.copy(), 8), train(prepared[rows].copy(), 8)
    expected = plain.get_enhanced().X.reshape(60, 7, 8)[rows].reshape(420, 8)
    np.testing.assert_allclose(moved.get_enhanced().X, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        moved.get_latent_representation(), plain.get_latent_representation()[rows], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("angle", "shift"), [(0, 5000), (30, 0), (110, -300)])
def test_moving_the_coordinates_changes_nothing(section, prepared, angle, shift):
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    moved = section.adata.copy()
    moved.obsm["spatial"] = moved.obsm["spatial"] @ np.array([[cos, sin], [-sin, cos]]) + shift
    pp.subspots(moved)
    pp.spot_graph(moved)
    moved.obsm["subspot_features"] = prepared.obsm["subspot_features"]  # the image moves along
    # few steps: what turned coordinates are rounded to grows with each
    expected = train(prepared.copy(), max_epochs=5).get_enhanced().X
    np.testing.assert_allclose(train(moved, max_epochs=5).get_enhanced().X, expected, rtol=1e-4, atol=1e-4)


def test_padding_makes_no_subspots(section):
    adata = section.adata
    positions = section.truth.obsm["spatial"].reshape(60, 7, 2).copy()
    positions[::3, 4:] = np.nan
    pp.subspots(adata, positions=positions)
    pp.spot_graph(adata)
    enhanced = train(adata, max_epochs=5).get_enhanced(n_samples=3)
    counts = enhanced.obs["spot"].value_counts().loc[adata.obs_names].to_numpy()
    assert counts.tolist() == [4 if n % 3 == 0 else 7 for n in range(60)]
    total = np.add.reduceat(enhanced.X, np.r_[0, counts.cumsum()[:-1]])
    np.testing.assert_allclose(total, adata.X.toarray(), rtol=1e-4)
    assert np.isfinite(enhanced.obsm["spatial"]).all()


def shuffled(adata):
    """A copy whose subspots have each other's image features."""
    adata = adata.copy()
    features = adata.obsm["subspot_features"]
    flat = np.random.default_rng(0).permutation(features.reshape(-1, features.shape[2]))
    adata.obsm["subspot_features"] = flat.reshape(features.shape)
    return adata


def without_image(adata):
    adata = adata.copy()
    del adata.obsm["subspot_features"]
    return adata


def test_an_uninformative_image_changes_next_to_nothing(prepared, tmp_path):
    with pytest.warns(UserWarning, match="practically no effect"):
        model = train(shuffled(prepared), image_strength="auto")
    assert model.module.image_strength < 0.1
    enhanced, untested = model.get_enhanced().X, train(shuffled(prepared)).get_enhanced().X
    without = train(without_image(prepared)).get_enhanced().X
    change, change_untested = (np.abs(x - without).mean() for x in (enhanced, untested))
    assert change < 0.1 * change_untested
    model.save(tmp_path / "model", save_anndata=True)
    np.testing.assert_array_equal(SoScope.load(tmp_path / "model", accelerator="cpu").get_enhanced().X, enhanced)


def test_an_image_without_content_is_not_informative(prepared):
    adata = prepared.copy()
    adata.obsm["subspot_features"] = np.full_like(adata.obsm["subspot_features"], 0.3)
    with pytest.warns(UserWarning, match="practically no effect"):
        model = train(adata, 3, image_strength="auto")
    assert model.module.image_strength == 0
    np.testing.assert_allclose(model.get_enhanced().X, train(without_image(prepared), 3).get_enhanced().X, rtol=0.01)


@pytest.mark.parametrize("decoder", ["shift", "joint"])
def test_networks_trained_with_an_image_of_no_strength_are_those_without_one(prepared, decoder):
    image, none = (
        train(adata, 5, kriging=False, image_strength=0, decoder=decoder)
        for adata in (prepared, without_image(prepared))
    )
    if decoder == "shift":  # the first layer of the other one is wider with an image
        np.testing.assert_array_equal(image.get_enhanced().X, none.get_enhanced().X)
    assert "image_loss_train" not in image.history


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_the_result_is_continuous_in_the_strength_of_the_image(prepared, strength):
    """Where training steps begin to use the image, and from where all of them do."""
    below, above = (train(prepared, 5, image_strength=strength + step).get_enhanced().X for step in (-1e-4, 1e-4))
    np.testing.assert_allclose(below, above, rtol=0.02, atol=1e-3)


def test_an_untested_image_is_used(prepared):
    a, b = (train(adata).get_enhanced().X for adata in (prepared.copy(), shuffled(prepared)))
    assert not np.allclose(a, b, rtol=0.01)


def test_library_size_noise_keeps_the_library_size_of_a_spot_from_its_neighbours(prepared):
    """A spot of ten times the depth must not make the near sides of its neighbours deeper."""
    deep = prepared.copy()
    del deep.obsm["subspot_features"]
    spot = int(np.argmin(np.linalg.norm(deep.obsm["spatial"] - deep.obsm["spatial"].mean(0), axis=1)))
    x = deep.X.toarray()
    x[spot] *= 10
    deep.X = x
    neighbours = deep.obsp["spot_graph"][spot].indices
    towards = deep.obsm["spatial"][spot] - deep.obsm["spatial"][neighbours]
    offset = deep.obsm["subspots"][neighbours] - deep.obsm["spatial"][neighbours][:, None]
    near = np.einsum("nkd,nd->nk", offset, towards)

    def slope(seed, noise):
        """Correlation of library sizes with the direction of the deep spot, of the networks."""
        model = train(deep.copy(), 100, seed, kriging=False, library_size_noise=noise)
        total = model.get_enhanced().X.sum(1).reshape(60, 7)[neighbours]
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(near, total, strict=True)])

    without, absorbed = (np.mean([slope(seed, noise) for seed in range(3)]) for noise in (0.0, 1.0))
    assert absorbed < without - 0.2


def test_held_out_molecules_are_scored(prepared):
    model = train(prepared, max_epochs=40, train_options={"train_size": 0.8})
    history = model.history
    assert len(history["reconstruction_loss_validation"]) == 4
    assert np.isfinite(history["reconstruction_loss_validation"].to_numpy(float)).all()
    prior = model.get_enhanced(expectation="decoded").X
    assert prior.sum() / prepared.X.sum() == pytest.approx(1, abs=0.1)  # back at the full depth


def test_early_stopping(prepared):
    options = {"train_size": 0.5, "early_stopping": True, "early_stopping_min_delta": 5.0}
    model = train(prepared, max_epochs=400, train_options=options)
    assert len(model.history["train_loss"]) < 400
    assert np.isfinite(model.get_enhanced().X).all()
    with pytest.raises(ValueError, match="train_size"):
        model.train(2, early_stopping=True, **QUIET)
    with pytest.raises(ValueError, match="train_size"):
        model.train(2, train_size=1.5, **QUIET)


def test_training_can_go_on(prepared):
    model = train(prepared, max_epochs=10)
    before = model.get_enhanced(expectation="decoded").X
    model.train(5, **QUIET)
    assert "pretrain_train_loss" in model.history
    assert len(model.history["train_loss"]) == 5
    assert not np.array_equal(before, model.get_enhanced(expectation="decoded").X)


def test_a_model_without_image_ignores_it(prepared):
    del prepared.obsm["subspot_features"]
    model = train(prepared, max_epochs=4)
    assert "image_features" not in model.get_enhanced().obsm
    assert "image_loss_train" not in model.history


def test_divergence_is_reported(prepared):
    with pytest.raises(FloatingPointError, match=r"diverged at epoch .* learning rate"):
        train(prepared, max_epochs=50, train_options={"lr": 1e30})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likelihood": "zinb"}, "likelihood"),
        ({"decoder": "mlp"}, "decoder"),
        ({"interpolation": "linear"}, "interpolation"),
        ({"observation": "exact"}, "observation"),
        ({"dispersion": "gene"}, "dispersion"),
        ({"likelihood": "nb", "aggregate": "mean"}, "add up"),
    ],
)
def test_wrong_arguments(prepared, options, message):
    SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match=message):
        SoScope(prepared, **options)


@pytest.mark.parametrize("slot", ["subspots", "subspot_exposure"])
def test_missing_slots_name_the_call_that_makes_them(prepared, slot):
    del prepared.obsm[slot]
    with pytest.raises(ValueError, match=r"pp\.subspots"):
        SoScope.setup_anndata(prepared)


def test_missing_graph_names_the_call_that_makes_it(prepared):
    del prepared.obsp["spot_graph"]
    with pytest.raises(ValueError, match=r"pp\.spot_graph"):
        SoScope.setup_anndata(prepared)


def test_slots_that_do_not_fit(prepared):
    other = prepared.copy()
    other.obsm["subspot_exposure"] = other.obsm["subspot_exposure"] * 2
    with pytest.raises(ValueError, match="sum to 1"):
        SoScope.setup_anndata(other)
    other = prepared.copy()
    other.obsm["subspot_features"] = other.obsm["subspot_features"][:, :3]
    with pytest.raises(ValueError, match=r"im\.features"):
        SoScope.setup_anndata(other)


@pytest.mark.parametrize(
    "options", [{"image_shrinkage": -1}, {"library_size_noise": "much"}, {"library_size_noise": -0.1}], ids=str
)
def test_numbers_out_of_range_are_refused(prepared, options):
    SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match=next(iter(options))):
        SoScope(prepared, **options)


def test_tiles_train_as_the_whole_does(prepared):
    SoScope.setup_anndata(prepared)
    with pytest.raises(ValueError, match="batch_size"):
        SoScope(prepared).train(1, batch_size=0, **QUIET)
    whole = train(prepared.copy(), max_epochs=100)
    tiled = train(prepared.copy(), max_epochs=40, train_options={"batch_size": 20, "train_size": 0.9})
    assert len(tiled.history["train_loss"]) == 40
    assert np.isfinite(tiled.history["reconstruction_loss_validation"].to_numpy(float)).all()
    a, b = (model.get_enhanced().X for model in (whole, tiled))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_a_model_of_wide_features(prepared, tmp_path):
    narrow = prepared.obsm["subspot_features"]
    mixed = narrow @ np.random.default_rng(0).normal(size=(narrow.shape[2], 300))
    prepared.obsm["subspot_features"] = mixed.astype(np.float32)
    model = train(prepared, max_epochs=10, n_image_components=16)
    assert model.module.decoder.shift.shape == (32, 16)
    enhanced = model.get_enhanced()
    assert enhanced.obsm["image_features"].shape == (420, 300)
    assert np.isfinite(enhanced.X).all()
    model.save(tmp_path / "model", save_anndata=True)
    again = SoScope.load(tmp_path / "model", accelerator="cpu").get_enhanced()
    np.testing.assert_array_equal(again.X, enhanced.X)


def test_a_fixed_number_of_steps(prepared):
    model = train(prepared, max_epochs=None, train_options={"max_steps": 9})
    assert len(model.history["train_loss"]) == 9
    assert len(model.history["pretrain_train_loss"]) == 1
    with pytest.raises(ValueError, match="max_steps"):
        model.train(3, max_steps=3, **QUIET)


def test_small_tiles_are_accumulated(prepared):
    """A step takes the whole section, however it is cut; what is left is the noise of the latent states."""
    options = {"masked": 0.0, "image_shrinkage": 0.0, "image_weight": 0.0}
    runs = {size: {"pretrain_epochs": 0, "kl_weight": 0.0, "batch_size": size} for size in (60, 15)}
    losses = [
        train(prepared.copy(), max_epochs=20, train_options=run, **options).history["train_loss"].to_numpy(float)
        for run in runs.values()
    ]
    assert len(losses[0]) == len(losses[1]) == 20
    np.testing.assert_allclose(*losses, rtol=0.05)


def test_mixed_precision(prepared):
    expected = train(prepared.copy(), max_epochs=60).get_enhanced()
    mixed = train(prepared, max_epochs=60, train_options={"precision": "bf16-mixed"})
    assert {p.dtype for p in mixed.module.parameters()} == {torch.float32}
    enhanced = mixed.get_enhanced()
    assert np.isfinite(enhanced.X).all()
    assert np.corrcoef(enhanced.X.ravel(), expected.X.ravel())[0, 1] > 0.98


def test_a_file_backed_matrix(prepared, tmp_path):
    prepared.write_h5ad(tmp_path / "spots.h5ad")
    backed = train(ad.read_h5ad(tmp_path / "spots.h5ad", backed="r"), max_epochs=3)
    np.testing.assert_array_equal(backed.get_enhanced().X, train(prepared, max_epochs=3).get_enhanced().X)
