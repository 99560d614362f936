"""What the average over a spot leaves of a process."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from soscope_scverse.model.inference.sampler import residual_roots


def field(rng, spatial, length, size):
    covariance = np.exp(-cdist(spatial, spatial) / length)
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(spatial))) @ rng.normal(size=(len(spatial), size))


def divided(n_side, n_spots=2):
    """Spots of n_side x n_side subspots, in distances of the spots."""
    offset = (np.arange(n_side) + 0.5) / n_side
    square = np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
    return np.tile(square, (n_spots, 1, 1)), np.full((n_spots, n_side**2), n_side**-2.0)


def test_residuals_average_to_nothing_over_a_spot():
    positions, exposure = divided(3)
    exposure[1] = np.r_[0.5, np.full(6, 0.5 / 6), 0, 0]
    root = residual_roots(np.where(exposure[..., None] > 0, positions, np.nan), exposure)
    np.testing.assert_allclose(np.einsum("nk,nkj->nj", exposure, root), 0, atol=1e-7)
    assert np.sqrt((root**2).sum(axis=2))[exposure > 0].min() > 0.2


def test_residuals_are_what_the_average_does_not_tell():
    """Against draws of the process: what is left of it after regression on its average over the spot."""
    positions, exposure = divided(2)
    draws = field(np.random.default_rng(0), positions[0], 1, 50_000)
    average = draws.mean(axis=0)
    left = draws - np.outer(draws @ average / (average @ average), average)
    root = residual_roots(positions, exposure)[0]
    np.testing.assert_allclose(root @ root.T, left @ left.T / 50_000, atol=0.01)


def test_residuals_of_long_fields_fine_divisions_and_whole_spots():
    def variance(n_side, length):
        positions, exposure = divided(n_side)
        return (residual_roots(positions / length, exposure)[0] ** 2).sum() / n_side**2

    assert variance(2, 10) < 0.2 * variance(2, 1)
    assert variance(2, 2) < variance(6, 2) < 2 * variance(2, 2)
    assert variance(1, 2) == pytest.approx(0, abs=1e-12)
