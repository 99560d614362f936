"""Variances that posterior samples are made with."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from soscope_scverse import datasets
from soscope_scverse.model.estimates.uncertainty import feature_variation


def lattice(n):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2) * 50.0


def field(rng, spatial, length, size):
    covariance = np.exp(-cdist(spatial, spatial) / length)
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(spatial))) @ rng.normal(size=(len(spatial), size))


@pytest.mark.parametrize("library_size_noise", [0.0, 0.1])
def test_variation_of_counts_is_found(library_size_noise):
    rng = np.random.default_rng(0)
    spatial, phi = lattice(20), np.repeat([0.5, 5.0], 20)
    depth = np.sqrt(library_size_noise) * rng.normal(size=(400, 1))
    mean = 60 * np.exp(np.sqrt(0.3) * field(rng, spatial, 3 * 50, 40) + depth)
    x = rng.poisson(rng.gamma(mean / phi, phi))
    found = feature_variation(x, spatial, library_size_noise=library_size_noise)
    assert found.length in (2, 3, 4)
    for value in (0.5, 5.0):
        assert value / 1.7 < np.median(found.dispersion[phi == value]) < 1.7 * value
    # within a spot it is the variance by length that counts
    variance = (found.loadings**2).sum(axis=0)
    assert np.median(variance) / found.length == pytest.approx(0.1, rel=0.3)


def test_variation_of_other_data_is_found():
    rng = np.random.default_rng(0)
    spatial = lattice(20)
    x = 2 * field(rng, spatial, 2 * 50, 40) + 1.5 * rng.normal(size=(400, 40)) + 100
    found = feature_variation(x, spatial, is_counts=False)
    assert np.median(found.dispersion) == pytest.approx(2.25, rel=0.3)
    assert np.median((found.loadings**2).sum(axis=0)) == pytest.approx(4, rel=0.3)


def test_features_that_vary_together_have_loadings_that_do():
    rng = np.random.default_rng(0)
    spatial = lattice(15)
    one, other = field(rng, spatial, 150, 2).T
    x = rng.poisson(200 * np.exp(0.6 * np.stack([one, one, -one, other], axis=1)))
    loadings = feature_variation(x, spatial).loadings
    correlation = np.corrcoef(field(rng, spatial, 1, len(loadings)) @ loadings, rowvar=False)
    assert correlation[0, 1] > 0.9
    assert correlation[0, 2] < -0.9
    assert abs(correlation[0, 3]) < 0.7


def test_variation_does_not_depend_on_units_of_position_and_size():
    section = datasets.synthetic_section(60, n_genes=8).adata
    x, spatial = section.X, section.obsm["spatial"]
    size = np.random.default_rng(0).uniform(0.5, 2, (60, 1))
    expected = feature_variation(x, spatial, size=size)
    moved = feature_variation(x, 7 * spatial[:, ::-1] + 100, size=size)
    np.testing.assert_allclose(moved.dispersion, expected.dispersion)
    np.testing.assert_allclose(moved.loadings**2, expected.loadings**2, atol=1e-10)
    assert not np.allclose(feature_variation(x, spatial).dispersion, expected.dispersion)


@pytest.mark.parametrize("is_counts", [True, False])
def test_variation_of_next_to_nothing(is_counts):
    few = feature_variation(np.ones((3, 4)), lattice(2)[:3], is_counts=is_counts)
    assert not few.loadings.any()
    empty = feature_variation(np.zeros((25, 4)), lattice(5), is_counts=is_counts)
    for found in (few, empty):
        assert np.isfinite(found.dispersion).all()
        assert (found.dispersion > 0).all()
        assert np.isfinite(found.loadings).all()
