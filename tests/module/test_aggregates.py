"""Data that add up and data that average, from merged sections through the model; the likelihood that the docs add."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_matrix

from soscope_scverse import bench, datasets, im, pp, tl
from soscope_scverse.model import SoScope
from soscope_scverse.model.estimates.initialise import local_noise
from soscope_scverse.module import likelihoods
from soscope_scverse.module.likelihoods import Start, get_likelihood, joint_likelihood

FAST = {"accelerator": "cpu", "train_kwargs": {"max_steps": 2, "enable_progress_bar": False}}
N_DRAWS = 100_000


# ------------------------------------------------------------------------------------------------- data that average


@pytest.fixture(scope="module")
def beads():
    """Slide-DNA-seq-like: two principal components of fine beads."""
    return datasets.synthetic_components(900)


@pytest.mark.parametrize("factor", range(2, 7))
@pytest.mark.filterwarnings("ignore:The image is ignored")
def test_components_run_and_their_subspots_average_to_the_spots(beads, factor):
    low, truth = bench.simulate_low_resolution(beads.adata, factor, aggregate="mean")
    assert low.obsm["subspots"].shape[1] == factor**2
    np.testing.assert_allclose(low.X, truth.X.reshape(low.n_obs, factor**2, 2).mean(axis=1), atol=1e-6)
    enhanced = tl.enhance(low, image=beads.image, likelihood="gaussian", n_samples=2, **FAST)
    assert enhanced.shape == truth.shape
    np.testing.assert_allclose(enhanced.obsm["spatial"], truth.obsm["spatial"])
    np.testing.assert_allclose(enhanced.X.reshape(low.n_obs, factor**2, 2).mean(axis=1), low.X, atol=1e-4)
    assert enhanced.X.min() < 0
    assert (enhanced.layers["std"] > 0).all()


def test_cells_of_a_bin_are_averaged_whatever_their_number():
    adata = datasets.synthetic_components(100).adata
    adata.obsm["spatial"] = np.random.default_rng(0).random((100, 2)) * 100
    low, truth = bench.simulate_low_resolution(adata, 25, cells=True, aggregate="mean")
    assert len(np.unique((low.obsm["subspot_exposure"] > 0).sum(axis=1))) > 1
    means = truth.to_df().groupby(truth.obs["spot"].to_numpy()).mean().loc[low.obs_names]
    np.testing.assert_allclose(low.X, means, atol=1e-6)


def test_comparisons_take_gaussian_data(beads):
    low, truth = bench.simulate_low_resolution(beads.adata, 6, aggregate="mean")
    kwargs = {"likelihood": "gaussian", **FAST}
    df = bench.compare(low, truth, beads.image, seeds=[0], progress=False, enhance_kwargs=kwargs)
    assert set(df["method"]) == {*bench.BASELINES, "soscope"}
    assert df["value"].notna().all()
    repeat = df[(df["method"] == "repeat") & (df["metric"] == "within_r")]
    np.testing.assert_array_equal(repeat["value"], 0)


@pytest.mark.parametrize("name", bench.BASELINES)
def test_baselines_of_means_know_no_zero_and_no_exposure(beads, name):
    """They follow a shift of the data, which those of counts cannot."""
    low, _ = bench.simulate_low_resolution(beads.adata, 6, aggregate="mean")
    im.features(low, beads.image)
    prediction = bench.BASELINES[name](low)
    assert prediction.min() < 0
    assert np.abs(prediction.mean(axis=0) - low.X.mean(axis=0)).max() < 0.3
    low.X = low.X - 100
    np.testing.assert_allclose(bench.BASELINES[name](low), prediction - 100, atol=1e-4)


@pytest.mark.parametrize("name", ["repeat", "linear_conserving"])
def test_conserving_baselines_average_to_the_spots(beads, name):
    low, _ = bench.simulate_low_resolution(beads.adata, 3, aggregate="mean")
    prediction = bench.BASELINES[name](low).reshape(low.n_obs, 9, 2)
    np.testing.assert_allclose(prediction.mean(axis=1), low.X, atol=1e-9)


def test_a_shift_keeps_what_is_inside_the_spots(beads):
    low, _ = bench.simulate_low_resolution(beads.adata, 3, aggregate="mean")
    plain, conserving = (bench.BASELINES[name](low).reshape(-1, 9, 2) for name in ("linear", "linear_conserving"))
    centred = [values - values.mean(axis=1, keepdims=True) for values in (plain, conserving)]
    np.testing.assert_allclose(*centred, atol=1e-9)


def test_an_unknown_aggregate_is_named(beads):
    with pytest.raises(ValueError, match=r"\['sum', 'mean'\], found 'median'"):
        bench.simulate_low_resolution(beads.adata, 2, aggregate="median")
    with pytest.raises(ValueError, match="found 'median'"):
        get_likelihood("gaussian", aggregate="median")


# --------------------------------------------------------------------------------------------------- data that add up


def test_peaks_run_and_add_up():
    """Spatial-CUT&Tag-like: a thinned section is shallow, and nearly Poisson whatever its overdispersion was."""
    low, image, truth = datasets.synthetic_section(49, lattice="square", n_subspots=4, n_genes=60)
    kept = np.random.default_rng(0).binomial(truth.X.toarray(), 0.02)
    low.X = csr_matrix(kept.reshape(low.n_obs, 4, -1).sum(axis=1))
    assert (kept == 0).mean() > 0.8
    with pytest.warns(UserWarning, match="image is ignored"):
        enhanced = tl.enhance(low, image=image, n_subspots=4, likelihood="poisson", n_samples=2, **FAST)
    np.testing.assert_allclose(enhanced.X.reshape(low.n_obs, 4, -1).sum(axis=1), low.X.toarray(), atol=1e-4)
    assert enhanced.X.min() >= 0


# ------------------------------------------------------------------------------------------ the likelihood of the docs


@pytest.fixture
def gamma(monkeypatch):
    """The class on the page, registered by the page's own line."""
    page = (Path(__file__).parents[1] / "docs" / "likelihoods.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class " in block]
    assert 10 < len(code[code.index("class ") :].splitlines()) < 40
    monkeypatch.setitem(likelihoods.LIKELIHOODS, "gamma", None)  # taken out again after the test
    exec(compile(code, "docs/likelihoods.md", "exec"), {"__name__": "docs"})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield get_likelihood("gamma")


def gamma_subspots(gamma, n_spots=1):
    """Three subspots and one that is padding, two features."""
    effect = torch.tensor([[0.5, -0.3], [-1.0, 0.2], [0.1, 0.8], [2.0, 2.0]], dtype=torch.float64)
    exposure = 1.7 * torch.tensor([0.2, 0.5, 0.3, 0.0], dtype=torch.float64)  # of a large spot
    start = Start(*torch.tensor([[1.0, 0.0], [-0.5, -1.0], [1.0, 1.0]], dtype=torch.float64))
    return gamma.parameters(effect.expand(n_spots, 4, 2), start, exposure.expand(n_spots, 4))


def test_gamma_log_prob_is_that_of_scipy(gamma):
    spots = gamma.aggregate(gamma_subspots(gamma))
    x = torch.tensor([[3.0, 0.4]], dtype=torch.float64)
    scale = spots.dispersion.numpy()
    expected = stats.gamma.logpdf(x.numpy(), spots.mean.numpy() / scale, scale=scale)
    np.testing.assert_allclose(gamma.log_prob(x, spots).numpy(), expected)


def test_averaged_gamma_draws_have_the_law_of_the_spot(gamma):
    subspots = gamma_subspots(gamma, N_DRAWS)
    mean = (gamma.share(subspots) * gamma.sample(subspots)).sum(dim=1)
    spots = gamma.aggregate(gamma_subspots(gamma))
    for feature in range(2):
        m, scale = spots.mean[0, feature].item(), spots.dispersion[feature].item()
        assert stats.kstest(mean[:, feature].numpy(), "gamma", (m / scale, 0, scale)).pvalue > 0.01


def test_gamma_given_the_spot_averages_to_it_with_the_right_moments(gamma):
    one, subspots = gamma_subspots(gamma), gamma_subspots(gamma, N_DRAWS)
    x = torch.tensor([[4.0, 0.7]], dtype=torch.float64)
    expected, draws = gamma.condition(x, one), gamma.sample(subspots, x.expand(N_DRAWS, 2))
    torch.testing.assert_close((gamma.share(one) * expected).sum(dim=1), x)
    torch.testing.assert_close((gamma.share(subspots) * draws).sum(dim=1), x.expand(N_DRAWS, 2))
    torch.testing.assert_close(draws.mean(dim=0)[:3], expected[0, :3], rtol=0.02, atol=0.01)
    # shares are Dirichlet distributed
    concentration = (gamma.share(one) * one.mean / one.dispersion)[0]
    total = concentration.sum(dim=0)
    share = concentration / total
    variance = (x / gamma.share(one)[0]) ** 2 * share * (1 - share) / (total + 1)
    torch.testing.assert_close(draws.var(dim=0)[:3], variance[:3], rtol=0.05, atol=0.01)


def test_prior_gamma_draws_whose_mean_is_that_of_the_spot_are_the_conditional_ones(gamma):
    """No scaling here: draws that happen to average to x."""
    subspots, one = gamma_subspots(gamma, 4 * N_DRAWS), gamma_subspots(gamma)
    draws = gamma.sample(subspots)
    x = gamma.aggregate(one).mean * 1.2
    hit = ((gamma.share(subspots) * draws).sum(dim=1) - x).abs()[:, 0] < 0.05
    assert hit.sum() > 2000
    torch.testing.assert_close(
        draws[hit][:, :3, 0].mean(dim=0), gamma.condition(x, one)[0, :3, 0], rtol=0.05, atol=0.02
    )


@pytest.mark.usefixtures("gamma")
def test_the_model_takes_the_likelihood_of_the_docs():
    adata = datasets.synthetic_components(144).adata
    adata.X = np.exp(0.5 * adata.X)
    low = bench.simulate_low_resolution(adata, 2, aggregate="mean").adata
    enhanced = tl.enhance(low, likelihood="gamma", n_samples=2, **FAST)
    assert enhanced.X.min() > 0
    np.testing.assert_allclose(enhanced.X.reshape(low.n_obs, 4, 2).mean(axis=1), low.X, rtol=1e-4)
    with pytest.raises(ValueError, match=r"\['mean'\], found 'sum'"):
        tl.enhance(low, likelihood="gamma", model_kwargs={"aggregate": "sum"})


# ------------------------------------------------------------------------------------------------ noise of the features


def lattice(n=30):
    rows, cols = np.divmod(np.arange(n * n), n)
    touching = np.abs(rows[:, None] - rows) + np.abs(cols[:, None] - cols) == 1
    return np.column_stack([rows, cols]).astype(float), csr_matrix(touching * 0.3)


@pytest.mark.parametrize("container", [np.asarray, csr_matrix])
def test_local_noise_is_that_of_the_spots_without_their_plane(container):
    xy, graph = lattice()
    noise = np.random.default_rng(0).normal(0, [0.5, 2.0], (900, 2))
    plane = 0.02 * xy @ np.array([[1.0, 3.0], [2.0, -1.0]])
    np.testing.assert_allclose(local_noise(container(plane + noise), graph), [0.25, 4.0], rtol=0.1)
    assert (local_noise(container(plane), graph) < 0.001 * plane.var(axis=0)).all()


def test_without_neighbours_all_variance_is_noise():
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(local_noise(x, csr_matrix((20, 20))), x.var(axis=0))


def test_gaussian_data_start_at_their_noise_and_counts_where_they_did():
    x, noise = torch.randn(50, 3) * torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 100.0, 0.0])
    gaussian = get_likelihood("gaussian")
    start = gaussian.start(x)
    found = gaussian.with_noise(start, noise)
    variance = x.var(dim=0, correction=0)
    torch.testing.assert_close(found.log_dispersion.exp(), torch.stack([noise[0], variance[1], 1e-3 * variance[2]]))
    torch.testing.assert_close(found.baseline, start.baseline)
    joint = joint_likelihood([("poisson", 1), ("gaussian", 2)])
    of_counts = joint.with_noise(joint.start(x.abs()), noise)
    assert of_counts.log_dispersion[0] == 0
    assert of_counts.log_dispersion[1].exp() == pytest.approx(x.abs()[:, 1].var(correction=0).item())


@pytest.mark.parametrize(("likelihood", "dropout"), [("gaussian", 160 / 260), ("poisson", 40 / 140)])
def test_the_image_of_data_without_counts_is_held_back_by_subspots(likelihood, dropout):
    adata, image, _ = datasets.synthetic_section(100, lattice="square", n_subspots=4, n_genes=3)
    pp.subspots(adata, 4)
    pp.spot_graph(adata)
    im.features(adata, image, encoder=lambda tiles: tiles.mean(axis=(1, 2)))
    SoScope.setup_anndata(adata)
    assert SoScope(adata, likelihood=likelihood).module.decoder.dropout.p == pytest.approx(dropout)
