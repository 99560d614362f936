"""Draws of the subspots."""

import numpy as np
import pytest
import torch
import zarr
from mudata import MuData

from helpers import QUIET, seeded, train
from soscope_scverse import SoScope, metrics


def totals(model, draws):
    """Sums over the subspots of every spot."""
    count = (np.asarray(model.adata.obsm["subspot_exposure"]) > 0).sum(axis=1)
    return np.add.reduceat(draws, np.r_[0, count.cumsum()[:-1]], axis=-2)


@pytest.fixture
def bare(trained):
    """The model without uncertainty of latent states and residuals: what is left is the exact conditional."""
    module = trained.module
    names = ("residual_loadings", "residual_length", "library_size_noise", "encoder.scale.weight", "encoder.scale.bias")
    state = module.state_dict()
    kept = {name: state[name].clone() for name in names}
    with torch.no_grad():
        module.residual_loadings.zero_()
        module.library_size_noise.zero_()
        module.encoder.scale.weight.zero_()
        module.encoder.scale.bias.fill_(-30)
    yield trained
    module.load_state_dict(kept, strict=False)


def test_every_draw_adds_up_to_the_spots(trained, padded):
    for model in (trained, padded):
        draws = seeded(model.sample_enhanced, 5)
        assert draws.dtype == np.float32
        assert (draws == draws.round()).all()
        assert (draws >= 0).all()
        np.testing.assert_array_equal(totals(model, draws), np.broadcast_to(model.adata.X.toarray(), (5, 60, 8)))


@pytest.mark.parametrize("expectation", ["conditional", "denoised", "decoded"])
@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_draws_do_not_depend_on_the_blocks(padded, expectation, batch_size):
    expected = seeded(padded.sample_enhanced, 3, expectation=expectation)
    draws = seeded(padded.sample_enhanced, 3, expectation=expectation, batch_size=batch_size)
    np.testing.assert_allclose(draws, expected, atol=1e-4)


def test_draws_do_not_depend_on_the_order_of_the_spots(trained):
    rows = np.random.default_rng(0).permutation(60)
    moved = trained.adata[rows].copy()
    SoScope.setup_anndata(moved)
    draws = seeded(trained.sample_enhanced, 4, moved).reshape(4, 60, 7, 8)
    expected = seeded(trained.sample_enhanced, 4).reshape(4, 60, 7, 8)
    assert (draws == expected[:, rows]).mean() > 0.99  # sums in another order may round a share over the edge


def test_the_seed_decides(trained):
    a, b = (seeded(trained.sample_enhanced, 2, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(seeded(trained.sample_enhanced, 2), a)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a[0], a[1])
    with torch.random.fork_rng():  # the global generator moves on by one number, however much is drawn
        torch.manual_seed(0)
        trained.sample_enhanced(2)
        state = torch.get_rng_state()
        torch.manual_seed(0)
        torch.randint(2**62, (1,))
        assert torch.equal(torch.get_rng_state(), state)


def test_what_is_written_is_what_is_returned(padded, tmp_path):
    expected = seeded(padded.sample_enhanced, 3)
    written = seeded(padded.sample_enhanced, 3, out=tmp_path / "draws.zarr", batch_size=7)
    assert isinstance(written, zarr.Array)
    assert [path.name for path in tmp_path.iterdir()] == ["draws.zarr"]
    np.testing.assert_allclose(written[:], expected, atol=1e-4)
    with pytest.raises(ValueError, match="overwrite"):
        padded.sample_enhanced(3, out=tmp_path / "draws.zarr")


def test_layers_are_of_the_same_draws(padded):
    draws = seeded(padded.sample_enhanced, 20)
    enhanced = seeded(padded.get_enhanced, n_samples=20)
    assert set(enhanced.layers) - {None} == {"denoised", "std", "q05", "q95", "sampled_counts"}
    np.testing.assert_array_equal(enhanced.layers["sampled_counts"], draws[0])
    np.testing.assert_allclose(enhanced.layers["std"], draws.std(axis=0), atol=1e-4)
    for name, q in (("q05", 0.05), ("q95", 0.95)):
        np.testing.assert_allclose(enhanced.layers[name], np.quantile(draws, q, axis=0), atol=1e-4)
    np.testing.assert_array_equal(enhanced.X, padded.get_enhanced().X)
    prior = padded.get_enhanced(expectation="decoded", n_samples=2)
    assert set(prior.layers) - {None} == {"std", "q05", "q95"}


def test_draws_have_the_moments_of_the_exact_conditional(bare):
    """Dirichlet-multinomial with concentrations mean / phi."""
    draws = seeded(bare.sample_enhanced, 2000)
    x = np.repeat(bare.adata.X.toarray(), 7, axis=0)
    mean = bare.get_enhanced(expectation="decoded").X
    concentration = mean / bare.module.log_dispersion.detach().exp().numpy()
    total = np.repeat(totals(bare, concentration), 7, axis=0)
    p = concentration / total
    variance = x * p * (1 - p) * (x + total) / (1 + total)
    error = (draws.mean(axis=0) - x * p) / np.sqrt(np.maximum(variance, 1e-9) / 2000)
    assert np.abs(error[x > 0]).max() < 6
    assert np.mean(error[x > 0] ** 2) == pytest.approx(1, abs=0.1)
    large = variance > 1
    np.testing.assert_allclose(draws.var(axis=0)[large], variance[large], rtol=0.35)
    assert (draws.var(axis=0)[large] / variance[large]).mean() == pytest.approx(1, abs=0.01)


def test_sampled_rates_average_to_the_denoised_profiles(bare):
    """With the variance of a gamma distribution for the rate of every spot."""
    rates = seeded(bare.sample_enhanced, 2000, expectation="denoised")
    expected = bare.get_enhanced(expectation="denoised").X
    error = (rates.mean(axis=0) - expected) / np.maximum(rates.std(axis=0), 1e-6) * 2000**0.5
    assert np.mean(error**2) == pytest.approx(1, abs=0.15)
    phi = bare.module.log_dispersion.detach().exp().numpy()
    decoded = totals(bare, bare.get_enhanced(expectation="decoded").X)
    variance = (decoded / phi + bare.adata.X.toarray()) * (phi / (1 + phi)) ** 2
    assert (totals(bare, rates).var(axis=0) / variance).mean() == pytest.approx(1, abs=0.02)


def test_samples_of_rates_are_no_counts(padded):
    enhanced = seeded(padded.get_enhanced, n_samples=3, expectation="denoised")
    assert set(enhanced.layers) - {None} == {"std", "q05", "q95"}


def test_prior_draws_have_the_depth_of_the_spots(bare):
    """Variance of the total of a spot: counting, and that of log-normal depths of the spot and of its subspots."""
    bare.module.library_size_noise.fill_(0.1)
    draws = totals(bare, seeded(bare.sample_enhanced, 2000, expectation="decoded"))
    subspots = bare.get_enhanced(expectation="decoded").X
    mean, square = totals(bare, subspots), totals(bare, subspots**2)
    phi = bare.module.log_dispersion.detach().exp().numpy()
    first, second = np.exp(0.05), np.exp(0.2)  # moments of one depth
    np.testing.assert_allclose(draws.mean(axis=0), mean * first**2, rtol=0.1)
    between = second * ((mean**2 - square) * first**2 + square * second) - (mean * first**2) ** 2
    expected = (1 + phi) * mean * first**2 + between
    assert (draws.var(axis=0) / expected).mean() == pytest.approx(1, abs=0.02)


def test_residuals_spread_the_draws_and_keep_their_mean(bare):
    narrow = seeded(bare.sample_enhanced, 800)
    bare.module.residual_loadings[0] = 1.0
    bare.module.residual_length.fill_(1.0)
    wide = seeded(bare.sample_enhanced, 800)
    assert np.median(wide.var(axis=0) / np.maximum(narrow.var(axis=0), 1e-3)) > 1.1
    scale = np.maximum(narrow.std(axis=0), 0.3)
    assert np.abs((wide.mean(axis=0) - narrow.mean(axis=0)) / scale).mean() < 0.1
    # the pattern is one number of the subspot, shared by all features
    totals_of_subspots = [draws.sum(axis=2).var(axis=0).mean() for draws in (narrow, wide)]
    assert totals_of_subspots[1] > 1.5 * totals_of_subspots[0]


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_gaussian_draws_aggregate_to_the_spots(prepared, aggregate):
    x = prepared.X.toarray()
    prepared.X = (x - x.mean(0)) / x.std(0)
    model = train(prepared, max_epochs=4, likelihood="gaussian", aggregate=aggregate)
    draws = totals(model, model.sample_enhanced(3)) / (7 if aggregate == "mean" else 1)
    np.testing.assert_allclose(draws, np.broadcast_to(prepared.X, draws.shape), atol=1e-3)
    assert "sampled_counts" not in model.get_enhanced(n_samples=2).layers
    assert np.isfinite(model.sample_enhanced(2, expectation="decoded")).all()


def test_modalities_stand_side_by_side(prepared):
    one, other = prepared[:, :5].copy(), prepared[:, 5:].copy()
    mdata = MuData({"rna": one, "prot": other})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SoScope.setup_mudata(mdata, {"rna": "nb", "prot": "poisson"})
        model = SoScope(mdata, image_strength=1)
        model.train(3, **QUIET)
    draws = seeded(model.sample_enhanced, 2)
    total = draws.reshape(2, 60, 7, 8).sum(axis=2)[0]
    np.testing.assert_array_equal(total, prepared.X.toarray())
    enhanced = seeded(model.get_enhanced, n_samples=2)
    np.testing.assert_array_equal(enhanced["prot"].layers["sampled_counts"], draws[0][:, 5:])
    denoised = model.get_enhanced(expectation="denoised")
    np.testing.assert_array_equal(denoised["prot"].X, model.get_enhanced(expectation="decoded")["prot"].X)
    found, conditional = (result["rna"].X.reshape(60, 7, 5).sum(axis=1) for result in (denoised, enhanced))
    assert not np.allclose(found, conditional, rtol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_samples": 2, "batch_size": 0}, "batch_size"),
        ({"n_samples": 2, "expectation": "posterior"}, "expectation"),
        ({"n_samples": 2, "out": "draws.h5ad"}, r"\.zarr"),
    ],
)
def test_wrong_arguments(trained, options, message):
    with pytest.raises(ValueError, match=message):
        trained.sample_enhanced(**options)


def test_draws_are_calibrated_on_a_synthetic_section(section, prepared):
    model = train(prepared, max_epochs=100)
    pit = metrics.pit(section.truth.X, seeded(model.sample_enhanced, 100))
    assert 0.86 < metrics.central_coverage(pit).mean() < 0.94
