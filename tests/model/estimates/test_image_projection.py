"""Wide image features are reduced once, to what their principal components span."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from soscope_scverse.model.estimates.image_projection import fit_projection, levelling_rotation


@pytest.fixture(scope="module")
def wide():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(40, 6, 5)) * [5, 3, 2, 1, 1]
    features = factors @ rng.normal(size=(5, 60)) + 0.1 * rng.normal(size=(40, 6, 60)) + 100
    features[:, :, 7] *= 1000
    features[:, :, 8] = 3
    return features


ALL = np.arange(40)
VALID = np.ones((40, 6), bool)


def test_narrow_features_are_standardised(wide):
    projected = fit_projection(wide, VALID, 60, ALL)(wide, ALL)
    assert projected.dtype == np.float32
    flat = wide.reshape(240, 60)
    constant = flat.std(axis=0) == 0
    expected = (flat - flat.mean(axis=0)) / np.where(constant, 1, flat.std(axis=0))
    np.testing.assert_allclose(projected.reshape(240, 60), expected, atol=1e-3)


def test_wide_features_keep_the_distances_of_their_principal_components(wide):
    projected = fit_projection(wide, VALID, 4, ALL)(wide, ALL).reshape(240, 4)
    flat = wide.reshape(240, 60)
    standard = (flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-6)
    components = PCA(4, svd_solver="full").fit_transform(standard)
    components /= np.sqrt(components.var(axis=0).mean())
    np.testing.assert_allclose(projected @ projected.T, components @ components.T, atol=0.02)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(projected.var(axis=0), 1, rtol=1e-3)


def test_padding_is_not_looked_at_and_rows_are_chosen(wide):
    valid = VALID.copy()
    valid[::2, 3:] = False
    broken = wide.copy()
    broken[~valid] = 1e6
    a, b = (fit_projection(x, valid, 4, ALL) for x in (wide, broken))
    np.testing.assert_array_equal(a.matrix, b.matrix)
    rows = np.array([5, 2, 39])
    np.testing.assert_allclose(a(wide, rows), a(wide, ALL)[rows], rtol=1e-6)


def test_half_precision_on_disk_is_enough(wide):
    usual = wide / np.array([1000 if i == 7 else 1 for i in range(60)])
    a, b = (fit_projection(x, VALID, 4, ALL)(x, ALL) for x in (usual, usual.astype(np.float16)))
    np.testing.assert_allclose(a @ a.transpose(0, 2, 1), b @ b.transpose(0, 2, 1), atol=0.1)


@pytest.mark.parametrize("n", [1, 2, 3, 128])
def test_levelling(n):
    variance = 10.0 ** -np.arange(n)
    rotation = levelling_rotation(variance)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(np.diag(rotation.T @ np.diag(variance) @ rotation), variance.mean(), rtol=1e-9)
    np.testing.assert_array_equal(levelling_rotation(np.ones(n)), np.eye(n))
