"""Width of the posterior intervals: residual variation between and inside spots, and dispersion.

It is estimated from the spots, not from the residuals of the training. The part of a feature that is smooth in space is
extrapolated to distances below that of the spots, which gives the variation of the subspots that the spots do not
determine; the rest is the dispersion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaln, logsumexp

from soscope_scverse._arrays import Matrix, dense
from soscope_scverse._gp import TINY, SpectralProcess
from soscope_scverse.model._section import Section, within_sections
from soscope_scverse.model.estimates.gp import (
    MIN_SPOTS,
    Group,
    correlation,
    groups_of,
    sample_groups,
)
from soscope_scverse.module.vae import N_RESIDUALS, SoScopeVAE

_LENGTHS = np.array([0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 20])  # in centre-to-centre distances of the spots
_SHARES = 1 / (1 + np.exp(-np.linspace(-5, 5, 21)))  # of the variance that is smooth in space
_LOG_DISPERSIONS = np.linspace(-4, 4, 17)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_CHUNK_FEATURES = 256


class Variation(NamedTuple):
    """Variation of the features around the predictions of the model."""

    dispersion: np.ndarray
    """n_features: phi of counts, variance of a spot's noise of other data."""
    loadings: np.ndarray
    """N_RESIDUALS x n_features: the smooth part of the features is these patterns, each a Gaussian process of variance
    1 with covariance exp(-distance / length), on the log scale of counts."""
    length: float
    """In centre-to-centre distances of the spots."""


class _Smooth(NamedTuple):
    """Gaussian processes of the features, all of one length."""

    process: SpectralProcess
    """At this length."""
    length: float
    """In centre-to-centre distances of the spots."""
    smooth: np.ndarray
    """n_features variances of the smooth part."""
    noise: np.ndarray
    """n_features variances of the noise of the single spot."""


def section_variation(module: SoScopeVAE, section: Section) -> list[Variation]:
    """Variation of the features of every modality.

    Spots that capture a part of the tissue hold few cells, which differ in number and kind from those around them. This
    variation falls with the area as the dispersion does: all that the other spots do not predict is dispersion there.

    Parameters
    ----------
    module
        Its library-size noise has been set.
    section
        The spots that it is trained on.
    """
    return [
        feature_variation(
            section.x[:, features],
            section.spatial,
            section.sections,
            section.size,
            is_counts=part.is_counts,
            library_size_noise=None if section.has_gaps else module.library_size_noise[i].item(),
        )
        for i, (part, features) in enumerate(zip(module.likelihood.parts, module.features, strict=True))
    ]


@torch.no_grad()
def set_variation(module: SoScopeVAE, variations: Sequence[Variation]) -> None:
    """Set the dispersions, and the residual variation of the posterior samples.

    The training itself changes dispersions little.

    Parameters
    ----------
    module
        The module.
    variations
        Those of its modalities.
    """
    for i, (variation, part, features) in enumerate(
        zip(variations, module.likelihood.parts, module.features, strict=True)
    ):
        if part.is_counts and not module.per_subspot_dispersion:
            module.log_dispersion[features] = torch.as_tensor(variation.dispersion).log().to(module.log_dispersion)
        module.residual_loadings[:, features] = torch.as_tensor(variation.loadings).to(module.residual_loadings)
        module.residual_length[i] = variation.length


def feature_variation(
    x: Matrix,
    spatial: np.ndarray,
    sections: np.ndarray | None = None,
    size: np.ndarray | float = 1.0,
    *,
    is_counts: bool = True,
    library_size_noise: float | None = 0.0,
    length: float | None = None,
) -> Variation:
    """Variances of every feature: smooth in space, and noise of the single spot beyond that of counting.

    A feature (counts: its logarithm) is a Gaussian process with an exponential covariance plus noise. One length for
    all features and the variances of each are set by their likelihood. The dispersion of counts is then the one under
    which the counts of a spot are most likely given their expectation from the other spots.

    Parameters
    ----------
    x
        n_spots x n_features.
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section.
    size
        Relative sizes of the spots, n_spots x 1.
    is_counts
        Whether features are counts.
    library_size_noise
        Variance of the log library size of the single spot, which is not dispersion; None counts this and the
        uncertainty of the smooth part as dispersion.
    length
        Of the processes, in centre-to-centre distances of the spots; None estimates it.

    Returns
    -------
    The variation; with fewer than eight spots it has no smooth part, and dispersion 1 for counts.
    """
    sections = np.zeros(len(spatial)) if sections is None else np.asarray(sections)
    sampled, number = sample_groups(spatial, sections)
    x, size = np.asarray(dense(x[sampled]), dtype=float), np.broadcast_to(size, (len(spatial), 1))[sampled]
    y = np.log((x + 0.5) / size) if is_counts else x
    deviation = within_sections(y - y.mean(axis=0), sections[sampled])
    if len(x) < MIN_SPOTS:
        dispersion = np.ones(x.shape[1]) if is_counts else np.maximum(0.5 * deviation.var(axis=0), TINY)
        return Variation(dispersion, np.zeros((N_RESIDUALS, x.shape[1])), 1.0)
    fit = _fit(groups_of(spatial[sampled], number), deviation, _LENGTHS if length is None else np.array([length]))
    others, variance = fit.process.left_out(fit.smooth, fit.noise)
    dispersion = np.maximum(fit.noise, TINY)
    if is_counts:
        typical = size * np.exp(y - deviation + others)
        log_variance = np.full_like(variance, TINY) if library_size_noise is None else variance + library_size_noise
        parts = [slice(start, start + _CHUNK_FEATURES) for start in range(0, x.shape[1], _CHUNK_FEATURES)]
        dispersion = np.concatenate([_dispersion(x[:, p], typical[:, p], log_variance[:, p]) for p in parts])
    fitted = fit.process.fitted(fit.smooth, fit.noise)
    return Variation(dispersion, _loadings(fitted) * fit.smooth**0.5, fit.length)


def _fit(groups: list[Group], y: np.ndarray, lengths: np.ndarray) -> _Smooth:
    """The most likely of the lengths for all features together, and the expected variances of each at this length."""

    def process_of(length: float) -> SpectralProcess:
        correlations = [correlation(group.distance, length) for group in groups]
        return SpectralProcess(correlations, [group.rows for group in groups], y)

    grid = [process_of(length).log_likelihood(_SHARES) for length in lengths]
    log_likelihood, total = (np.stack(values) for values in zip(*grid, strict=True))
    best = int(logsumexp(log_likelihood, axis=1).sum(axis=1).argmax())
    weight = np.exp(log_likelihood[best] - logsumexp(log_likelihood[best], axis=0))
    smooth, noise = ((weight * total[best] * share[:, None]).sum(axis=0) for share in (_SHARES, 1 - _SHARES))
    length = float(lengths[best])
    return _Smooth(process_of(length), length, smooth, noise)


def _dispersion(x: np.ndarray, typical: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Expected phi, n_features, of counts whose means are log-normal around `typical` times a factor.

    The prior of log phi is N(0, 1).
    """
    mean = typical * np.exp(log_variance / 2)
    # the expected log of a count is not the log of its mean
    typical = typical * np.maximum(x.mean(axis=0), TINY) / mean.mean(axis=0)
    scores = np.stack([_score(x, typical, log_variance, log_phi) for log_phi in _LOG_DISPERSIONS])
    log_posterior = scores - 0.5 * _LOG_DISPERSIONS[:, None] ** 2
    weight = np.exp(log_posterior - logsumexp(log_posterior, axis=0))
    return np.exp(_LOG_DISPERSIONS) @ weight


def _score(x: np.ndarray, typical: np.ndarray, log_variance: np.ndarray, log_phi: float) -> np.ndarray:
    """Log likelihood of every feature for one dispersion, the log mean integrated out by quadrature.

    The nodes are centred on the approximate posterior of the log mean, which is narrow where counts are large.
    """
    phi, prior = np.exp(log_phi), np.log(typical)
    variance = 1 / (1 / log_variance + (x + 1) / (1 + phi))
    centre = prior + variance * (np.log(x + 0.5) - prior) * (x + 1) / (1 + phi)
    at_nodes, counted = [], x > 0
    for node in _NODES:
        log_mean = centre + np.sqrt(variance) * node
        shape = np.maximum(np.exp(log_mean) / phi, TINY)
        counts = -shape * np.log1p(phi)
        counts[counted] += gammaln(x[counted] + shape[counted]) - gammaln(shape[counted])  # 0 elsewhere
        at_nodes.append(counts - 0.5 * (log_mean - prior) ** 2 / log_variance + 0.5 * node**2)
    weight = (_WEIGHTS / _WEIGHTS.sum())[:, None, None]
    integral = logsumexp(at_nodes, axis=0, b=weight) + 0.5 * np.log(variance / log_variance)
    return (integral + x * (log_phi - np.log1p(phi)) - gammaln(x + 1)).sum(axis=0)


def _loadings(fitted: np.ndarray) -> np.ndarray:
    """Patterns, N_RESIDUALS x n_features, whose random sums correlate as the smooth parts do, of variance 1 each."""
    scale = fitted.std(axis=0)
    standard = (fitted - fitted.mean(axis=0)) / np.where(scale > 0, scale, 1)
    _, size, patterns = np.linalg.svd(standard, full_matrices=False)
    n = min(N_RESIDUALS, len(size))
    loadings = np.zeros((N_RESIDUALS, fitted.shape[1]))
    loadings[:n] = size[:n, None] * patterns[:n]
    return loadings / np.maximum(np.sqrt((loadings**2).sum(axis=0)), TINY)
