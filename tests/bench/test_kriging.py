"""Kriging of all features at once against dense matrices, and what it must not depend on."""

import anndata as ad
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import multivariate_normal

from lattices import PITCH, hexagonal, spots
from merging import cells, square
from soscope_scverse import bench, im, metrics, pp
from soscope_scverse.bench import _kriging as kriging
from soscope_scverse.bench.baselines import kriging_image

FEATURES = "subspot_features"


def problem(n_spots=30, n_targets=12, weight=1.0, seed=3):
    """Values of two sections that follow an image of two features, and the places of spots and targets."""
    rng = np.random.default_rng(seed)
    n = n_spots + n_targets
    features = rng.normal(size=(n, 2))
    features -= features[:n_spots].mean(axis=0)
    features /= np.sqrt((features[:n_spots] ** 2).sum(axis=1).mean())
    places = kriging.Places(rng.uniform(0, 5, (n, 2)), np.array(["a", "b"])[rng.integers(0, 2, n)], features)
    values = np.sin(places.xy[:n_spots]) + weight * features[:n_spots] + rng.normal(0, 0.3, (n_spots, 2))
    values = np.column_stack([values - values.mean(axis=0), np.zeros(n_spots)])
    return values, places.block(slice(n_spots)), places.block(slice(n_spots, None))


def dense_correlation(a, b, length, weight):
    near = np.exp(-(((a.xy[:, None] - b.xy) / length) ** 2).sum(axis=-1) / 2)
    return np.where(a.section[:, None] == b.section, near, 0) + weight * np.einsum("if,jf", a.features, b.features)


def dense_evidence(values, correlation, share):
    """Sum over features of the log density at the most likely variance."""
    covariance = share * correlation + (1 - share) * np.eye(len(values))
    total = 0
    for y in values.T[values.any(axis=0)]:
        variance = y @ np.linalg.solve(covariance, y) / len(y)
        total += multivariate_normal.logpdf(y, np.zeros(len(y)), variance * covariance)
    return total


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_chosen_parameters_have_the_highest_density_and_predict_the_posterior_mean(weight):
    values, spots, targets = problem(weight=weight)
    length, chosen, share = kriging.fit(values, spots).parameters
    correlation = dense_correlation(spots, spots, length, chosen)
    best = dense_evidence(values, correlation, share)
    others = [(le, w) for le in kriging.LENGTHS for w in (0, *kriging.WEIGHTS)]
    others += [(length, 0.9 * chosen), (length, 1.1 * chosen)]  # between the weights of the grid, too
    for other in others:
        other = dense_correlation(spots, spots, *other)
        assert best >= max(dense_evidence(values, other, s) for s in kriging.SIGNAL_SHARES) - 1e-6
    covariance = share * correlation + (1 - share) * np.eye(len(values))
    across = share * dense_correlation(targets, spots, length, chosen)
    expected = across @ np.linalg.solve(covariance, values)
    np.testing.assert_allclose(kriging.krige(values, spots, targets), expected, atol=1e-10)


def test_the_image_weighs_nothing_where_it_explains_nothing_and_much_where_it_explains_all():
    rng = np.random.default_rng(0)
    xy = np.mgrid[:8, :8].reshape(2, -1).T.astype(float)
    features = rng.normal(size=(64, 3))
    features = (features - features.mean(axis=0)) / 3**0.5
    spots = kriging.Places(xy, np.zeros(64), features)
    smooth = np.sin(xy / 2)
    assert kriging.fit(smooth - smooth.mean(axis=0), spots).parameters.weight < 0.01
    assert kriging.fit(features + rng.normal(0, 0.01, (64, 3)), spots).parameters.weight > 10


def test_blocks_of_targets_do_not_matter(monkeypatch):
    expected = kriging.krige(*problem())
    monkeypatch.setattr(kriging, "_BLOCK", 5)
    np.testing.assert_allclose(kriging.krige(*problem()), expected, atol=1e-12)


@pytest.fixture
def low() -> ad.AnnData:
    """Spots of cells, with counts that follow an image."""
    spots = bench.simulate_low_resolution(cells(200), 10, cells=True).adata
    rng = np.random.default_rng(1)
    features = rng.normal(size=(*spots.obsm["subspots"].shape[:2], 3)) + 5
    spots.obsm[FEATURES] = features
    rates = np.exp(1 + 0.5 * np.nan_to_num(features - 5).sum(axis=1))
    spots.X = rng.poisson(rates * spots.obs["relative_cell_number"].to_numpy()[:, None]).astype(float)
    return spots


@pytest.mark.parametrize("with_image", [True, False])
def test_rates_that_are_smooth_on_the_log_scale_are_recovered(with_image):
    section = square(16, 16)
    x, y = section.obsm["spatial"].T / 50
    section.X = csr_matrix(np.exp(3 + np.column_stack([x, y, y - x])))
    merged, truth = bench.simulate_low_resolution(section)
    if with_image:
        merged.obsm[FEATURES] = merged.obsm["subspots"] @ np.array([[1.0, 1, 0], [1, -1, 0]])
    predicted = kriging_image(merged)
    assert metrics.within_r(predicted, truth.X, truth.obs["spot"]).min() > 0.98
    np.testing.assert_allclose(predicted, truth.X.toarray(), rtol=0.1)


def test_without_an_image_positions_alone_are_used(low):
    constant, absent = low.copy(), low.copy()
    constant.obsm[FEATURES] = np.full_like(low.obsm[FEATURES], 3.0)
    del absent.obsm[FEATURES]
    np.testing.assert_array_equal(kriging_image(constant), kriging_image(absent))
    assert np.abs(kriging_image(low) - kriging_image(absent)).max() > 0.1


@pytest.mark.parametrize("kind", ["moved, turned and enlarged", "other units of the image", "another order"])
def test_the_frame_of_the_data_does_not_matter(low, kind):
    expected, other = kriging_image(low), low.copy()
    rows = np.arange(low.n_obs)
    if kind == "another order":
        rows = np.random.default_rng(0).permutation(low.n_obs)
        other = low[rows].copy()
    elif kind == "other units of the image":
        other.obsm[FEATURES] = low.obsm[FEATURES] @ np.diag([1e3, -1, 1e-3]) + [1, 2, 3]
    else:
        turn = 30 * np.array([[0.6, 0.8], [-0.8, 0.6]])
        for slot in ("spatial", "subspots"):
            other.obsm[slot] = low.obsm[slot] @ turn + [1e4, -1e4]
    valid = low.obsm["subspot_exposure"] > 0
    placed = np.zeros((*valid.shape, low.n_vars))
    placed[valid] = expected
    np.testing.assert_allclose(kriging_image(other), placed[rows][valid[rows]], rtol=1e-6)


def test_sections_share_no_position_and_no_mean():
    """Without an image, two copies at the same positions are as each alone, however deep one of them is sequenced."""
    alone = bench.simulate_low_resolution(cells(200), 10, cells=True).adata
    both = ad.concat({"a": alone, "b": alone}, label="section", index_unique="-")
    expected = kriging_image(alone)
    np.testing.assert_allclose(kriging_image(both, library_key="section"), np.vstack([expected] * 2), rtol=1e-6)
    assert not np.allclose(kriging_image(both), np.vstack([expected] * 2), rtol=0.01)


def test_another_stain_of_a_section_does_not_matter(low):
    both = ad.concat({"a": low, "b": low}, label="section", index_unique="-")
    expected = kriging_image(both, library_key="section")
    both.obsm[FEATURES][low.n_obs :] += 7
    np.testing.assert_allclose(kriging_image(both, library_key="section"), expected, rtol=1e-6)


def test_an_unknown_library_key_is_named(low):
    with pytest.raises(ValueError, match=r"`library_key` to be a column of `adata.obs`, found 'slide'"):
        kriging_image(low, library_key="slide")


def test_what_a_spot_captured_adds_up_and_gaps_are_predicted():
    xy, array = hexagonal()
    counts = np.random.default_rng(0).poisson(20, (len(xy), 3)) * [1, 1, 0] + [0, 0, 12]
    adata = spots(xy, array, counts.astype(float))
    pp.subspots(adata, 7, capture=0.55 * PITCH)
    exposure, measured = adata.obsm["subspot_exposure"], adata.obsm["subspot_measured"]
    predicted = kriging_image(adata).reshape(*exposure.shape, 3)
    assert (measured < 0.5).any()
    area = exposure / measured
    np.testing.assert_allclose(predicted[..., 2], 12 * area)  # uniform: by area
    in_gaps = predicted.sum(axis=1) - counts
    assert in_gaps.min() > 0
    np.testing.assert_allclose(
        in_gaps.mean(axis=0), [20 * (area[0].sum() - 1)] * 2 + [12 * (area[0].sum() - 1)], rtol=0.1
    )


FIGURES = {  # Pearson and within_r of 60 genes, seed-free, measured on 30 November 2026
    "her2st/C2": (0.806, 0.433),
    "her2st/C3": (0.828, 0.500),
    "her2st/C4": (0.807, 0.368),
    "mouse_ob/MOB1": (0.803, 0.397),
    "mouse_ob/MOB2": (0.828, 0.476),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_real_sections(data_dir, name):
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(data_dir / f"{name}.h5ad"))
    genes = pp.spatial_genes(truth, 60)
    low, truth = low[:, genes].copy(), truth[:, genes]
    im.features(low, data_dir / f"{name}_HE.jpg")
    predicted = kriging_image(low)
    found = (
        np.median(metrics.pearson(predicted, truth.X)),
        np.median(metrics.within_r(predicted, truth.X, truth.obs["spot"])),
    )
    np.testing.assert_allclose(found, FIGURES[name], atol=0.01)
