"""Whether an image is informative about the profiles, and how even the library sizes are."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from soscope_scverse.model.estimates.image_evidence import image_evidence
from soscope_scverse.model.estimates.library_size import library_size_noise


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module")
def imaged():
    """Spots on a grid whose profiles are smooth in space and follow an image, in equal parts."""
    rng = np.random.default_rng(0)
    n = 12
    spatial = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    features = rng.normal(size=(n * n, 6))
    smooth = np.cos(spatial @ rng.normal(size=(2, 20)) / 3)
    profile = features @ rng.normal(size=(6, 20)) / 6**0.5 + smooth + 0.3 * rng.normal(size=(n * n, 20))
    return profile, features, spatial


def test_evidence_tells_a_image_from_a_shuffled_one(imaged):
    profile, features, spatial = imaged
    assert image_evidence(profile, features, spatial) > 30
    shuffled = [features[np.random.default_rng(seed).permutation(len(features))] for seed in range(10)]
    evidence = [image_evidence(profile, image, spatial) for image in shuffled]
    assert min(evidence) >= 0
    assert max(evidence) < 4


def test_a_image_that_is_merely_smooth_is_little_evidence(imaged):
    rng = np.random.default_rng(0)
    fields = gaussian_filter(rng.normal(size=(30, 30, 30)), (1.5, 1.5, 0))[9:21, 9:21].reshape(144, 30)
    fields /= fields.std(axis=0)
    profile, features = fields[:, :20] + 0.3 * rng.normal(size=(144, 20)), fields[:, 20:]
    assert image_evidence(profile, features, imaged[2]) < 4
    assert image_evidence(profile + features @ rng.normal(size=(10, 20)) / 10**0.5, features, imaged[2]) > 20


def test_evidence_does_not_depend_on_pose_scale_or_order(imaged):
    profile, features, spatial = imaged
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    rows = np.random.default_rng(0).permutation(len(profile))
    moved = image_evidence(3 * profile[rows] + 1, 5 * features[rows], 40 * spatial[rows] @ turn - 7)
    assert moved == pytest.approx(image_evidence(profile, features, spatial), rel=1e-3)


def test_no_evidence_where_nothing_can_be_learnt(imaged):
    profile, features, spatial = imaged
    assert image_evidence(profile[:5], features[:5], spatial[:5]) == 0
    assert image_evidence(profile, np.ones_like(features), spatial) == 0
    assert image_evidence(np.ones_like(profile), features, spatial) == 0


def test_evidence_of_sections_adds_up(imaged):
    profile, features, spatial = imaged
    twice = [np.concatenate([a, a]) for a in (profile, features, spatial)]
    both = image_evidence(*twice, np.repeat(["a", "b"], len(profile)))
    assert both == pytest.approx(2 * image_evidence(*imaged), rel=0.01)


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


def test_empty_spots_and_shared_positions_are_no_noise(imaged):
    profile, features, spatial = imaged
    counts = np.random.default_rng(0).poisson(np.full((144, 30), 20.0))
    counts[::20] = 0
    assert library_size_noise(counts, spatial) == 0.01
    assert library_size_noise(counts, np.repeat(spatial[::2], 2, axis=0)) == 0.01
    assert np.isfinite(image_evidence(profile, features, np.repeat(spatial[::2], 2, axis=0)))
    assert np.isfinite(image_evidence(profile, features, np.zeros((144, 2))))


def test_depth_noise_of_next_to_nothing():
    assert library_size_noise(np.ones((3, 4)), np.arange(6).reshape(3, 2)) == 0.01
    assert library_size_noise(np.ones((20, 4)), np.arange(40).reshape(20, 2)) == 0.01
