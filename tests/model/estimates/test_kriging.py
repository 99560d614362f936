"""The kriged field: evidence and predictions against dense formulas, and what they must be invariant to."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from soscope_scverse.model import _kriging
from soscope_scverse.model._kriging import Averages, Krige, distances
from soscope_scverse.model.estimates.kriging import (
    SETTINGS,
    expected_settings,
    image_effect,
    image_probability,
    log_evidence,
    signal,
)
from soscope_scverse.module.kriged_field import KrigedField


def grid(n):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)


def spots_of(xy, features, extent=0.1):
    features = features - features.mean(axis=0)
    norm = np.sqrt((features**2).sum(axis=1).mean())
    return Averages(xy, np.full(len(xy), extent), features / (norm if norm > 0 else 1))


@pytest.fixture(scope="module")
def imaged():
    """Components that are smooth in space and follow an image, in equal parts."""
    rng = np.random.default_rng(0)
    xy, features = grid(9), rng.normal(size=(81, 6))
    smooth = np.cos(xy @ rng.normal(size=(2, 4)) / 3)
    values = features @ rng.normal(size=(6, 4)) / 6**0.5 + smooth + 0.3 * rng.normal(size=(81, 4))
    return spots_of(xy, features), values - values.mean(axis=0)


def evidence_of(spots, values):
    return log_evidence([spots], [values])


def strength(spots, values):
    evidence = evidence_of(spots, values)
    return image_probability(evidence, signal(values.var(axis=0), expected_settings(evidence, evidence.mean(axis=1))))


def test_evidence_is_a_gaussian_density_at_its_most_likely_variance(imaged):
    spots, values = imaged
    evidence = evidence_of(spots, values)
    distance = distances(spots.xy, spots.xy, spots.extent, spots.extent)
    for setting in (3, 100, 200):
        length, image, noise = SETTINGS[setting]
        shape = np.exp(-distance / length) + image * spots.features @ spots.features.T + noise * np.eye(81)
        variance = values[:, 0] @ np.linalg.solve(shape, values[:, 0]) / 81
        density = multivariate_normal.logpdf(values[:, 0], cov=variance * shape)
        assert evidence[setting, 0] - evidence[0, 0] == pytest.approx(
            density - _density(values[:, 0], distance, spots, SETTINGS[0]), abs=1e-6
        )


def _density(values, distance, spots, setting):
    length, image, noise = setting
    shape = np.exp(-distance / length) + image * spots.features @ spots.features.T + noise * np.eye(len(values))
    variance = values @ np.linalg.solve(shape, values) / len(values)
    return multivariate_normal.logpdf(values, cov=variance * shape)


def test_the_field_is_the_mean_of_the_gaussian_process(imaged):
    """Effect of the image and residual together are the posterior mean under the sum of all covariances."""
    spots, values = imaged
    field = KrigedField(4, 6)
    settings = np.array([1.0, 2, 4, 8]), np.array([0.0, 0.3, 1, 10]), np.array([0.1, 0.3, 1, 3])
    effect = image_effect(spots, values, [np.arange(81)], settings)
    for name, value in zip(("length", "noise", "image_effect"), (settings[0], settings[2], effect), strict=True):
        getattr(field, name).copy_(torch.as_tensor(value))
    rng = np.random.default_rng(1)
    xy, features = rng.uniform(0, 8, (20, 2)), rng.normal(size=(20, 6))
    found = Krige(field, spots, values).at(xy, features, np.arange(81))
    across = distances(xy, spots.xy, 0.0, spots.extent)
    among = distances(spots.xy, spots.xy, spots.extent, spots.extent)
    for i, (length, image, noise) in enumerate(zip(*settings, strict=True)):
        covariance = np.exp(-among / length) + image * spots.features @ spots.features.T + noise * np.eye(81)
        cross = np.exp(-across / length) + image * features @ spots.features.T
        np.testing.assert_allclose(found[:, i], cross @ np.linalg.solve(covariance, values[:, i]), atol=1e-4)


def test_distances_of_averages_are_root_mean_squares():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 2)), rng.normal([3, 1], 0.5, size=(400, 2))
    means = (a.mean(axis=0), b.mean(axis=0))
    extents = (((a - means[0]) ** 2).sum(axis=1).mean(), ((b - means[1]) ** 2).sum(axis=1).mean())
    expected = np.sqrt(((a[:, None] - b) ** 2).sum(axis=2).mean())
    found = distances(means[0][None], means[1][None], np.array([extents[0]]), np.array([extents[1]]))
    np.testing.assert_allclose(found, [[expected]])


def test_an_informative_image_is_certain_and_a_permuted_one_is_not(imaged):
    spots, values = imaged
    assert strength(spots, values) > 0.999
    permuted = [spots.features[np.random.default_rng(seed).permutation(81)] for seed in range(20)]
    found = [strength(spots._replace(features=features), values) for features in permuted]
    assert np.median(found) < 0.2
    assert max(found) < 0.5


def test_a_smooth_image_is_little_evidence():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(10):
        distance = distances(grid(12), grid(12), 0.0, np.zeros(144))
        fields = np.linalg.cholesky(np.exp(-distance / 3) + 1e-9 * np.eye(144)) @ rng.normal(size=(144, 14))
        values = fields[:, :4] + 0.3 * rng.normal(size=(144, 4))
        found.append(strength(spots_of(grid(12), fields[:, 4:]), values - values.mean(axis=0)))
    assert np.median(found) < 0.3


def test_the_strength_is_continuous(imaged):
    """From no effect to a certain one in small steps: no step of the image changes much."""
    spots, values = imaged
    rng = np.random.default_rng(3)
    noise = rng.normal(size=spots.features.shape)
    mixtures = [spots_of(spots.xy, share * spots.features + (1 - share) * noise) for share in np.linspace(0, 1, 101)]
    found = np.array([strength(mixture, values) for mixture in mixtures])
    assert found[0] < 0.2
    assert found[-1] > 0.999
    assert np.abs(np.diff(found)).max() < 0.25


def test_evidence_is_invariant_to_pose_scale_and_order(imaged):
    spots, values = imaged
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    rows = np.random.default_rng(0).permutation(81)
    moved = Averages(spots.xy[rows] @ turn - 7, spots.extent[rows], spots.features[rows])
    np.testing.assert_allclose(
        np.diff(evidence_of(moved, 3 * values[rows]), axis=0), np.diff(evidence_of(spots, values), axis=0), atol=1e-6
    )


def test_evidence_of_groups_adds_up(imaged):
    spots, values = imaged
    both = log_evidence([spots, spots], [values, values])
    np.testing.assert_allclose(np.diff(both, axis=0), 2 * np.diff(evidence_of(spots, values), axis=0), atol=1e-6)


def test_settings_of_data_with_known_ones():
    rng = np.random.default_rng(0)
    spots = spots_of(grid(16), rng.normal(size=(256, 5)), extent=0.0)
    distance = distances(spots.xy, spots.xy, 0.0, spots.extent)
    for length, image, noise in ((2.0, 1.0, 0.1), (4.0, 0.0, 1.0)):
        covariance = np.exp(-distance / length) + image * spots.features @ spots.features.T + noise * np.eye(256)
        values = np.linalg.cholesky(covariance) @ rng.normal(size=(256, 12))
        evidence = evidence_of(spots, values - values.mean(axis=0))
        found = expected_settings(evidence, evidence.mean(axis=1))
        assert np.median(np.abs(np.log(found[0] / length))) < np.log(2)
        assert np.median(np.abs(np.log(found[2] / noise))) < np.log(2)
        assert (np.median(found[1]) > 0.3) if image else (found[1].max() < 0.1)


def test_constant_values_and_features_are_no_evidence():
    flat = spots_of(grid(4), np.ones((16, 3)))
    assert strength(flat, np.random.default_rng(0).normal(size=(16, 3))) == pytest.approx(0.5)
    assert np.isfinite(evidence_of(flat, np.zeros((16, 3)))).all()


def fitted(spots, values, length=2.0, noise=0.3):
    field = KrigedField(values.shape[1], spots.features.shape[1])
    field.length.fill_(length)
    field.noise.fill_(noise)
    settings = tuple(np.full(values.shape[1], number) for number in (length, 1.0, noise))
    centred = values - values.mean(axis=0)
    field.image_effect.copy_(torch.as_tensor(image_effect(spots, centred, [np.arange(len(values))], settings)))
    return Krige(field, spots, values)


def test_a_large_section_is_kriged_group_by_group(imaged, monkeypatch):
    """From the spots around a group, which decide on it: close to the whole section's, without borders of groups."""
    spots, values = imaged
    krige = fitted(spots, values)
    xy = np.random.default_rng(0).uniform(0, 8, (400, 2))
    near = np.linalg.norm(xy[:, None] - spots.xy, axis=2).argmin(axis=1)
    features = spots.features[near]
    exact = krige.everywhere(xy, features, near)
    monkeypatch.setattr(_kriging, "_EXACT_SPOTS", 50)
    monkeypatch.setattr(_kriging, "_GROUP_SPOTS", 20)
    grouped = krige.everywhere(xy, features, near)
    assert np.abs(grouped - exact).max() < 0.1 * exact.std()


def test_the_field_is_linear_in_the_values_and_invariant_to_their_level(imaged):
    spots, values = imaged
    place = np.array([[2.2, 3.1]]), spots.features[:1]
    once, twice = (
        fitted(spots, factor * values + level).at(*place, np.arange(81)) for factor, level in ((1, 0), (2, 5))
    )
    np.testing.assert_allclose(twice, 2 * once + 5, atol=1e-4)
