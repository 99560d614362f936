"""Fit of the kriged field: its components, and their covariance by the evidence of the spots.

Length, noise and strength of the image are averaged over a grid in proportion to their evidence. So they change
continuously with the data, down to no effect of an image that is not informative.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logsumexp, softmax

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import Matrix, dense, spread
from soscope_scverse._gp import TINY, log_likelihood
from soscope_scverse.model._kriging import (
    Averages,
    averages,
    components,
    distances,
    kriged_subspots,
    transformed_profiles,
)
from soscope_scverse.model._section import Section, within_sections
from soscope_scverse.model._tiles import contiguous_groups
from soscope_scverse.model.estimates.gp import MIN_SPOTS, sample_groups
from soscope_scverse.model.estimates.initialise import dense_profiles
from soscope_scverse.module.likelihoods import Likelihood
from soscope_scverse.module.vae import SoScopeVAE

_LENGTHS = (1.0, 2.0, 4.0, 8.0)  # of the smooth part, in centre-to-centre distances of the spots
_IMAGES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # variances relative to the smooth part, as are the noises
_NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SETTINGS = np.array(list(product(_LENGTHS, _IMAGES, _NOISES)))
"""Length, variance of the image part and noise of every setting, n_settings x 3."""

_OFFSET = 0.3  # of the mean of a feature: counts are kriged as log(1 + x / offset)
_MOST_SAMPLED = 1_000  # spots for means and principal components
_MOST_FEATURES = 500  # for the evidence of a typical feature
_GROUP_SPOTS = 400
_CONSTANT = 1e-5  # root mean square of image features without content, which are not scaled up
_MOST_GROUPS = 16  # groups of spots for the effect of the image


def set_kriging(module: SoScopeVAE, section: Section, image_strength: float | Literal["auto"], *, used: bool) -> None:
    """Set the strength of the image, and fit the kriged field.

    Parameters
    ----------
    module
        Its scales have been set.
    section
        The spots that it is trained on; fewer than eight have no field, and use the image in full.
    image_strength
        See :class:`~soscope_scverse.model.SoScope`; ``"auto"`` is the probability that the image is informative.
    used
        Whether predictions are to have a part of the field.

    Warns
    -----
    UserWarning
        If the image has practically no effect.
    """
    if section.features is not None and image_strength != "auto":
        module.image_strength.fill_(image_strength)
    if len(section.spatial) < MIN_SPOTS:
        return
    _set_components(module, section)
    spots = averages(section)
    values = within_sections(components(module, section), section.sections)
    features = within_sections(spots.features, section.sections)
    features = features - features.mean(axis=0)
    unit = np.sqrt((features**2).sum(axis=1).mean())
    varies = unit > _CONSTANT
    unit = unit if varies else 1.0
    spots = spots._replace(features=features / unit * varies)
    sampled = _sampled(section)
    evidence = log_evidence([spots.some(rows) for rows in sampled], [values[rows] for rows in sampled])
    settings = expected_settings(evidence, _typical_evidence(module, section, spots, sampled))
    uncertain = section.features is not None and image_strength == "auto"
    if uncertain:
        probability = image_probability(evidence, signal(values.var(axis=0), settings))
        module.image_strength.fill_(probability if varies else 0.0)
    effect = module.image_share * image_effect(spots, values, _covering(section), settings)
    field = module.kriged
    field.length.copy_(torch.as_tensor(settings[0]))
    field.noise.copy_(torch.as_tensor(settings[2]))
    field.image_effect.copy_(torch.as_tensor(effect / unit))
    _set_levels(module, section.some(np.concatenate(sampled)))
    field.is_set.fill_(used)
    if uncertain:
        _warn_weak(module.image_strength.item())


def _set_components(module: SoScopeVAE, section: Section) -> None:
    """Set the transformation of the profiles and their principal components; modalities have equal weight."""
    field, rows = module.kriged, spread(len(section.spatial), _MOST_SAMPLED)
    field.unit.copy_(_OFFSET * module.unit)
    profiles = transformed_profiles(module, section, rows)
    mean = profiles.mean(axis=0)
    profiles = within_sections(profiles, section.sections[rows])
    profiles = profiles - profiles.mean(axis=0)
    deviation = profiles.std(axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1) / module.feature_weight().numpy() ** 0.5
    _, size, patterns = np.linalg.svd(profiles / scale, full_matrices=False)
    patterns = patterns[: len(field.patterns)] * (size[: len(field.patterns), None] > 1e-6 * size[0])
    field.mean.copy_(torch.as_tensor(mean))
    field.scale.copy_(torch.as_tensor(scale))
    field.patterns[: len(patterns)] = torch.as_tensor(patterns)


def _typical_evidence(
    module: SoScopeVAE, section: Section, spots: Averages, groups: Sequence[np.ndarray]
) -> np.ndarray:
    """Mean log marginal likelihood of up to 500 features at each of :data:`SETTINGS`, n_settings."""
    rows, some = np.concatenate(groups), spread(len(module.kriged.mean), _MOST_FEATURES)
    profiles = within_sections(transformed_profiles(module, section, rows)[:, some], section.sections[rows])
    profiles = profiles.astype(np.float32, order="C")
    profiles = profiles - profiles.mean(axis=0)
    values = np.split(profiles, np.cumsum([len(group) for group in groups])[:-1])
    return log_evidence([spots.some(group) for group in groups], values).mean(axis=1)


def log_evidence(groups: Sequence[Averages], values: Sequence[np.ndarray]) -> np.ndarray:
    """Log marginal likelihood of every component at each of :data:`SETTINGS`, at its most likely variance.

    Parameters
    ----------
    groups
        Groups of spots, which are independent of each other, with image features of mean squared norm 1.
    values
        n_group x n_components of every group, of mean 0 over all.

    Returns
    -------
    n_settings x n_components, without a constant.
    """
    noises = np.array(_NOISES)
    square = np.zeros((len(_LENGTHS) * len(_IMAGES), len(noises), values[0].shape[1]))
    determinant = np.zeros((*square.shape[:2], 1))
    for own, value in zip(groups, values, strict=True):
        distance = distances(own.xy, own.xy, own.extent, own.extent)
        linear = own.features @ own.features.T
        for i, (length, image) in enumerate(product(_LENGTHS, _IMAGES)):
            roots, vectors = np.linalg.eigh(np.exp(-distance / length) + image * linear)
            variance = np.maximum(roots, 0) + noises[:, None]
            square[i] += (1 / variance) @ (vectors.T @ value) ** 2
            determinant[i] += np.log(variance).sum(axis=1, keepdims=True)
    n_spots = sum(map(len, values))
    likelihood = log_likelihood(n_spots * np.log(np.maximum(square, TINY) / n_spots), determinant)
    return likelihood.reshape(len(SETTINGS), -1)


def expected_settings(evidence: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior means of length, image variance and noise of every component, n_components each.

    The prior gives no image and an image of any strength equal odds. Components share the evidence of a typical
    feature, `shared`, n_settings, which decides for those that are mostly noise.
    """
    length, image, noise = SETTINGS.T
    weight = softmax(evidence + shared[:, None] + _log_prior()[:, None], axis=0)
    smallest = _IMAGES[1]
    return (
        np.exp(np.log(length) @ weight),
        smallest * np.expm1(np.log1p(image / smallest) @ weight),
        np.exp(np.log(noise) @ weight),
    )


def signal(variance: np.ndarray, settings: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Variances of the components without their noise."""
    _, image, noise = settings
    return variance * (1 + image) / (1 + image + noise)


def image_probability(evidence: np.ndarray, signal: np.ndarray) -> float:
    """Probability that the image is informative, at even prior odds.

    The log odds of the components add up, each weighted by its share of the signal; the sum of these weights is the
    effective number of components, 1 / sum(share^2).
    """
    log_joint, used = evidence + _log_prior()[:, None], SETTINGS[:, 1] > 0
    log_odds = logsumexp(log_joint[used], axis=0) - logsumexp(log_joint[~used], axis=0)
    share = signal / max(signal.sum(), TINY)
    return float(expit(share @ log_odds / max(share @ share, TINY)))


def _log_prior() -> np.ndarray:
    """Log prior of the settings, without a constant: equal odds for no image and for one."""
    return np.where(SETTINGS[:, 1] == 0, np.log(len(_IMAGES) - 1), 0.0)


def image_effect(
    spots: Averages,
    values: np.ndarray,
    groups: Sequence[np.ndarray],
    settings: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Posterior mean of the linear effect of the image features on every component, n_image_features x n_components.

    Parameters
    ----------
    spots
        With image features of mean squared norm 1.
    values
        n_spots x n_components of mean 0.
    groups
        Rows of groups of spots, which are independent of each other.
    settings
        Length, image variance and noise of every component.
    """
    effect = np.zeros((spots.features.shape[1], values.shape[1]))
    parts = [spots.some(rows) for rows in groups]
    apart = [distances(own.xy, own.xy, own.extent, own.extent) for own in parts]
    for i, (length, image, noise) in enumerate(zip(*settings, strict=True)):
        precision, right = np.eye(len(effect)), np.zeros(len(effect))
        for rows, own, distance in zip(groups, parts, apart, strict=True):
            factor = cho_factor(np.exp(-distance / length) + noise * np.eye(len(rows)))
            whitened = cho_solve(factor, own.features)
            precision += image * own.features.T @ whitened
            right += image * whitened.T @ values[rows, i]
        effect[:, i] = np.linalg.solve(precision, right)
    return effect


def _sampled(section: Section) -> list[np.ndarray]:
    """Rows of the groups of spots that settings are compared on."""
    rows, number = sample_groups(section.spatial, section.sections)
    return [rows[number == i] for i in range(number.max() + 1)]


def _covering(section: Section) -> list[np.ndarray]:
    """Rows of groups of spots spread over the section."""
    groups = contiguous_groups(section.spatial, section.sections, _GROUP_SPOTS)
    return [groups[i] for i in spread(len(groups), _MOST_GROUPS)]


@torch.no_grad()
def _set_levels(module: SoScopeVAE, part: Section) -> None:
    """Set the share of every feature that the image explains, and the level at which the field adds up to the spots."""
    field = module.kriged
    kriged = kriged_subspots(module, part)
    gains = image_gains(field.patterns.numpy(), *_covariances(module, part, kriged))
    field.image_gain.copy_(torch.as_tensor(gains))
    x, size = dense_profiles(part, np.arange(len(part.spatial)))
    start = module.feature_parameters()
    likelihood, effect = module.likelihood, module.kriged_effect(torch.as_tensor(kriged), start)
    expected = likelihood.aggregate(likelihood.parameters(effect, start, torch.as_tensor(part.exposure))).mean
    observed, found = (likelihood.offset(likelihood.at_mean_size(values, size), start) for values in (x, expected))
    field.level.copy_(observed - found)


def _covariances(module: SoScopeVAE, part: Section, kriged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances over the subspots, n_components x n_components: of what is linear in the image, and of the rest."""
    valid, linear = part.is_subspot, np.zeros(kriged.shape)
    if part.features is not None:
        linear = part.features @ module.kriged.image_effect.cpu().numpy()
    by_image, smooth = (np.cov(x[valid].T).reshape(2 * [kriged.shape[2]]) for x in (linear, kriged - linear))
    return by_image, smooth


def image_gains(patterns: np.ndarray, by_image: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Shares of the variance of features that are linear in the image.

    Parameters
    ----------
    patterns
        n_components x n_features.
    by_image, smooth
        Covariances of the components, n_components x n_components.
    """
    image, rest = (np.einsum("pg,pq,qg->g", patterns, covariance, patterns) for covariance in (by_image, smooth))
    return image / np.maximum(image + rest, TINY)


class FurtherGains:
    """Shares of the variance that are linear in the image, of features that the field was not fitted to.

    Their patterns are regressions on the components of the spots, as those of the features of the field are.

    Parameters
    ----------
    module
        Trained module.
    section
        Spots whose profiles of the further features are known.
    """

    def __init__(self, module: SoScopeVAE, section: Section) -> None:
        self.rows = spread(len(section.spatial), _MOST_SAMPLED)
        part = section.some(self.rows)
        self.sections, self.size = part.sections, dense_profiles(part, np.arange(len(self.rows)))[1]
        self.inverse = np.linalg.pinv(self._centred(components(module, part)))
        self.covariances = _covariances(module, part, kriged_subspots(module, part))

    def _centred(self, values: np.ndarray) -> np.ndarray:
        values = within_sections(values, self.sections)
        return values - values.mean(axis=0)

    def of(self, likelihood: Likelihood, x: Matrix, unit: torch.Tensor) -> np.ndarray:
        """Shares of some features of one likelihood, from n_spots x n_features profiles and their units."""
        own = torch.as_tensor(dense(x[self.rows]), dtype=torch.float32)
        transformed = likelihood.transform(likelihood.at_mean_size(own, self.size), _OFFSET * unit.cpu())
        return image_gains(self.inverse @ self._centred(transformed.numpy().astype(float)), *self.covariances)


def _warn_weak(strength: float) -> None:
    if strength < keys.WEAK_IMAGE:
        msg = (
            f"The image has practically no effect: the probability that it is informative about the profiles beyond "
            f"their positions is {strength:.2g}. Check that it is the image of this section and that positions fit it "
            "(`im.check_alignment`); `image_strength=1` uses it nevertheless."
        )
        warnings.warn(msg, UserWarning, stacklevel=6)  # the caller of `SoScope.train`
