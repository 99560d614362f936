"""Enhancement of spots that measured a part of the tissue."""

import anndata as ad
import numpy as np
import pytest

from helpers import QUICK, seeded, train
from soscope_scverse import SoScope, bench, datasets, im, pp, tl

DIAMETER = 19.8  # 55 % of the pitch of synthetic sections


@pytest.fixture(scope="module")
def section():
    return datasets.synthetic_section(60, n_genes=8, capture=DIAMETER)


@pytest.fixture(scope="module")
def model(section):
    adata = section.adata.copy()
    pp.subspots(adata, 19)
    pp.spot_graph(adata)
    im.features(adata, section.image)
    return train(adata, 30)


@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_a_synthetic_capture_area_is_recognised_and_recorded(section):
    enhanced = tl.enhance(section.adata, image=section.image, **QUICK)
    np.testing.assert_allclose(enhanced.obs["measured"], section.truth.obs["measured"], atol=1e-9)
    assert enhanced.uns["soscope"]["geometry"]["capture"] == pytest.approx(DIAMETER)
    assert list(enhanced.obs_names) == list(section.truth.obs_names)


def test_what_was_captured_adds_up_to_the_spots(model):
    enhanced, decoded = model.get_enhanced(), model.get_enhanced(expectation="decoded")
    measured = enhanced.obs["measured"].to_numpy()[:, None]
    captured = (enhanced.X - (1 - measured) * decoded.X).reshape(60, 19, -1).sum(axis=1)
    np.testing.assert_allclose(captured, model.adata.X.toarray(), rtol=1e-4, atol=1e-4)
    assert (measured == 0).sum() == 6 * 60  # corners of the flower: in the gap, and predicted
    assert (enhanced.X[measured.ravel() == 0] > 0).all()


def test_what_was_not_captured_has_the_same_rate_with_and_without_the_noise_of_the_spot(model):
    expectations = ("denoised", "conditional", "decoded")
    denoised, conditional, decoded = (model.get_enhanced(expectation=name) for name in expectations)
    measured = denoised.obs["measured"].to_numpy()[:, None]
    in_gap = measured.ravel() == 0
    np.testing.assert_array_equal(denoised.X[in_gap], decoded.X[in_gap])
    phi = model.module.log_dispersion.detach().exp().numpy()
    rest = (1 - measured) * decoded.X
    expected = rest + (measured * decoded.X + phi * (conditional.X - rest)) / (1 + phi)
    np.testing.assert_allclose(denoised.X, expected, rtol=1e-4, atol=1e-5)


def test_posterior_samples_average_to_the_result(model):
    """Up to the curvature of the decoder over the posterior of the latent states, some per cent."""
    enhanced, samples = model.get_enhanced(), seeded(model.sample_enhanced, 2000)
    in_gap = enhanced.obs["measured"].to_numpy() < 0.5
    for part in (in_gap, ~in_gap):
        total = samples[:, part].mean(axis=0).sum(axis=0)
        np.testing.assert_allclose(total, enhanced.X[part].sum(axis=0), rtol=0.06)


def test_a_spot_changes_its_gap_through_the_latent_states_alone(model):
    """With latent states fixed, other counts of a spot change what was captured and leave the gap as it was."""
    posterior = model._posterior(None)
    sampler = posterior.sampler("conditional", 0)
    spots = np.arange(3)
    before = sampler.means(spots)[0].numpy()
    x = sampler.tiles.section.x
    sampler.tiles.section = sampler.tiles.section._replace(x=x * 5)
    after = sampler.means(spots)[0].numpy()
    in_gap = sampler.tiles.section.exposure[0] == 0
    np.testing.assert_array_equal(after[:, in_gap], before[:, in_gap])
    counted = sampler._observed(spots).numpy() > 0
    assert (after[:, ~in_gap].sum(axis=1) > before[:, ~in_gap].sum(axis=1))[counted].all()


def test_predictions_at_positions_stand_for_the_mean_subspot(model):
    decoded = model.get_enhanced(expectation="decoded")
    features = decoded.obsm["image_features"]
    predicted = model.predict(decoded.obsm["spatial"], features)
    np.testing.assert_allclose(predicted.X, decoded.X, rtol=1e-4)


def test_a_model_with_a_capture_area_is_saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    again = SoScope.load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(again.get_enhanced().X, model.get_enhanced().X)


def test_subspots_that_are_there_have_their_capture_area(section):
    adata = section.adata.copy()
    pp.subspots(adata)
    with pytest.raises(ValueError, match=r"Asked for capture=12"):
        tl.enhance(adata, image=section.image, capture=12.0, **QUICK)


@pytest.mark.filterwarnings("ignore:The image has practically no effect")
def test_a_capture_area_that_is_there_may_be_asked_for_again(section):
    adata = section.adata.copy()
    pp.subspots(adata, capture=DIAMETER)
    asked = tl.enhance(adata, image=section.image, capture=DIAMETER, **QUICK)
    np.testing.assert_array_equal(asked.X, tl.enhance(adata, image=section.image, **QUICK).X)
    for options in ({"capture": None}, {"capture": DIAMETER, "capture_shape": "square"}):
        with pytest.raises(ValueError, match=r"Asked for capture.*capture=19\.8"):
            tl.enhance(adata, image=section.image, **options, **QUICK)


def test_a_capture_area_needs_its_measured_shares(section):
    adata = section.adata.copy()
    pp.subspots(adata)
    del adata.obsm["subspot_measured"]
    with pytest.raises(ValueError, match=r"subspot_measured.*pp\.subspots"):
        tl.enhance(adata, image=section.image, **QUICK)


def test_a_capture_area_in_another_unit_is_noticed(section):
    with pytest.warns(UserWarning, match=r"Check the unit of `capture`; that of Visium is 19\.8"):
        pp.subspots(section.adata, capture=0.055, copy=True)


def test_a_sliver_of_a_spot_on_tissue_does_not_stand_for_its_gap(section):
    """Glass over the middle of every spot: what is left of the capture area would be scaled 300-fold."""
    adata, image = section.adata.copy(), np.full_like(section.image, 250)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.min([np.hypot(x - a, y - b) for a, b in adata.obsm["spatial"]], axis=0)
    image[distance > 12] = section.image[distance > 12] // 2
    pp.subspots(adata, 19)
    with pytest.warns(UserWarning, match="have no subspot on tissue"):
        im.mask_subspots(adata, image)
    np.testing.assert_allclose(adata.obsm["subspot_exposure"].max(axis=1), 0.19, atol=0.01)


@pytest.mark.parametrize(
    "broken", [lambda m: m[:, :3], lambda m: -m, lambda m: 2 * m, lambda m: 0 * m], ids=["shape", "sign", "2", "0"]
)
def test_measured_shares_have_to_fit(section, broken):
    adata = section.adata.copy()
    pp.subspots(adata)
    adata.obsm["subspot_measured"] = broken(adata.obsm["subspot_measured"])
    with pytest.raises(ValueError, match=r"subspot_measured.*pp\.subspots"):
        tl.enhance(adata, image=section.image, **QUICK)


def test_cells_counted_in_discs():
    rng = np.random.default_rng(0)
    cells = ad.AnnData(rng.poisson(5, (3000, 4)).astype(np.float32))
    cells.obsm["spatial"] = rng.uniform(0, 1000, (3000, 2))
    low, truth = bench.simulate_spots(cells, pitch=100, diameter=55)
    assert low.X.sum() / truth.X.sum() == pytest.approx(0.274, abs=0.02)  # the share of the tissue in the discs
    inside = np.linalg.norm(cells.obsm["spatial"] - low.obsm["spatial"][0], axis=1) <= 27.5
    np.testing.assert_allclose(low.X[0].toarray().ravel(), cells.X[inside].sum(axis=0))
    middle = truth[f"{low.obs_names[0]}_3"]
    assert middle.obs["measured"].item() == 1
    assert middle.obs["n_cells"].item() <= inside.sum()
    enhanced = tl.enhance(low, genes=list(low.var_names), **QUICK)
    assert list(enhanced.obs_names) == list(truth.obs_names)
    table = bench.compare(low, truth, methods=["repeat", "linear"], progress=False)
    assert {"pearson_measured", "within_r_unmeasured"} <= set(table["metric"])


def test_merged_cells_keep_their_names():
    rng = np.random.default_rng(0)
    cells = ad.AnnData(rng.poisson(5, (300, 4)).astype(np.float32))
    cells.obs_names = [f"cell_{i}" for i in range(300)]
    cells.obsm["spatial"] = rng.uniform(0, 1000, (300, 2))
    low, truth = bench.simulate_low_resolution(cells, 200, cells=True)
    enhanced = tl.enhance(low, genes=list(low.var_names), **QUICK)
    np.testing.assert_allclose(truth[enhanced.obs_names].obsm["spatial"], enhanced.obsm["spatial"])
