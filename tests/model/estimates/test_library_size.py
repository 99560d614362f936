"""How even the library sizes are."""

import numpy as np
import pytest

from soscope_scverse.model.estimates.library_size import library_size_noise


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


def test_empty_spots_and_shared_positions_are_no_noise():
    spatial = np.stack(np.meshgrid(np.arange(12), np.arange(12)), axis=-1).reshape(-1, 2).astype(float)
    counts = np.random.default_rng(0).poisson(np.full((144, 30), 20.0))
    counts[::20] = 0
    assert library_size_noise(counts, spatial) == 0.01
    assert library_size_noise(counts, np.repeat(spatial[::2], 2, axis=0)) == 0.01


def test_depth_noise_of_next_to_nothing():
    assert library_size_noise(np.ones((3, 4)), np.arange(6).reshape(3, 2)) == 0.01
    assert library_size_noise(np.ones((20, 4)), np.arange(40).reshape(20, 2)) == 0.01
