"""How features vary from spot to spot: smoothly in space, or spot by spot.

It is read off the spots, not off what a training leaves unexplained. The smooth part is taken to go on at distances
below that of the spots in the same way as above it, which gives what the spots do not tell of their subspots; the rest
is the dispersion.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gammaln, logsumexp

from soscope_scverse._arrays import Matrix, dense
from soscope_scverse.model.estimates.image_evidence import sample_blocks, within_sections
from soscope_scverse.module.vae import N_RESIDUALS
from soscope_scverse.pp._graphs import nearest_distance

_MIN_SPOTS = 8
_LENGTHS = np.array([0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 20])  # in distances of neighbouring spots
_SHARES = 1 / (1 + np.exp(-np.linspace(-5, 5, 21)))  # of the variance that is smooth in space
_LOG_DISPERSIONS = np.linspace(-4, 4, 17)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_TINY = 1e-12
_CHUNK_FEATURES = 256


class Variation(NamedTuple):
    """Variation of the features around what the model predicts of them."""

    dispersion: np.ndarray
    """n_features: phi of counts, variance of a spot's noise of other data."""
    loadings: np.ndarray
    """N_RESIDUALS x n_features: the smooth part of the features is these patterns, each a Gaussian process of variance
    1 with covariance exp(-distance / length), on the log scale of counts."""
    length: float
    """In distances of neighbouring spots."""


class _Block(NamedTuple):
    """A contiguous group of spots; groups are taken to be independent."""

    rows: np.ndarray
    distance: np.ndarray


class _Smooth(NamedTuple):
    """Gaussian processes of the features, all of one length."""

    smooth: np.ndarray
    noise: np.ndarray
    length: float


def feature_variation(
    x: Matrix,
    spatial: np.ndarray,
    sections: np.ndarray | None = None,
    size: np.ndarray | float = 1.0,
    *,
    is_counts: bool = True,
    library_size_noise: float = 0.0,
) -> Variation:
    """Variances of every feature: smooth in space, and noise of the single spot beyond that of counting.

    A feature (counts: its logarithm) is a Gaussian process with an exponential covariance plus noise. One length for
    all features and the variances of each are set by their likelihood. The dispersion of counts is then the one under
    which the counts of a spot are most likely given what the other spots say of them.

    Parameters
    ----------
    x
        n_spots x n_features.
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section.
    size
        Sizes of the spots, n_spots x 1.
    is_counts
        Whether features are counts.
    library_size_noise
        Variance of the log depth of the single spot, which is not dispersion.

    Returns
    -------
    The variation; without a smooth part, and with dispersion 1 of counts, where there are fewer than eight spots.
    """
    sections = np.zeros(len(spatial)) if sections is None else np.asarray(sections)
    sampled, number = sample_blocks(spatial, sections)
    x, size = np.asarray(dense(x[sampled]), dtype=float), np.broadcast_to(size, (len(spatial), 1))[sampled]
    y = np.log((x + 0.5) / size) if is_counts else x
    deviation = within_sections(y - y.mean(axis=0), sections[sampled])
    if len(x) < _MIN_SPOTS:
        dispersion = np.ones(x.shape[1]) if is_counts else np.maximum(0.5 * deviation.var(axis=0), _TINY)
        return Variation(dispersion, np.zeros((N_RESIDUALS, x.shape[1])), 1.0)
    blocks = [_block(np.flatnonzero(number == i), spatial[sampled]) for i in range(number.max() + 1)]
    fit = _fit(blocks, deviation)
    fitted, others, variance = _predictions(blocks, deviation, fit)
    dispersion = np.maximum(fit.noise, _TINY)
    if is_counts:
        typical, log_variance = size * np.exp(y - deviation + others), variance + library_size_noise
        parts = [slice(start, start + _CHUNK_FEATURES) for start in range(0, x.shape[1], _CHUNK_FEATURES)]
        dispersion = np.concatenate([_dispersion(x[:, p], typical[:, p], log_variance[:, p]) for p in parts])
    return Variation(dispersion, _loadings(fitted) * fit.smooth**0.5, fit.length)


def _block(rows: np.ndarray, spatial: np.ndarray) -> _Block:
    own = spatial[rows]
    return _Block(rows, cdist(own, own) / nearest_distance(np.unique(own, axis=0)))


def _fit(blocks: list[_Block], y: np.ndarray) -> _Smooth:
    """The length that is most likely for all features together, and at this length the expected variances of each."""
    square = np.zeros((len(_LENGTHS), len(_SHARES), y.shape[1]))
    volume = np.zeros((len(_LENGTHS), len(_SHARES), 1))
    for rows, distance in blocks:
        for i, length in enumerate(_LENGTHS):
            values, vectors = np.linalg.eigh(np.exp(-distance / length))
            spectrum = np.outer(_SHARES, values) + (1 - _SHARES)[:, None]
            square[i] += (1 / spectrum) @ (vectors.T @ y[rows]) ** 2
            volume[i] += np.log(spectrum).sum(axis=1, keepdims=True)
    n = len(y)
    total = np.maximum(square / n, _TINY)  # the most likely variance for each length and share
    log_likelihood = -0.5 * (n * np.log(total) + volume)
    best = int(logsumexp(log_likelihood, axis=1).sum(axis=1).argmax())
    weight = np.exp(log_likelihood[best] - logsumexp(log_likelihood[best], axis=0))
    smooth, noise = (weight * total[best] * share[:, None] for share in (_SHARES, 1 - _SHARES))
    return _Smooth(smooth.sum(axis=0), noise.sum(axis=0), float(_LENGTHS[best]))


def _predictions(blocks: list[_Block], y: np.ndarray, fit: _Smooth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The smooth part at every spot given all spots, and its mean and variance given all others."""
    fitted, others, variance = np.empty_like(y), np.empty_like(y), np.empty_like(y)
    for rows, distance in blocks:
        values, vectors = np.linalg.eigh(np.exp(-distance / fit.length))
        inverse = 1 / (np.outer(values, fit.smooth) + fit.noise)
        precision = vectors**2 @ inverse
        weighted = vectors @ (inverse * (vectors.T @ y[rows]))
        fitted[rows] = y[rows] - fit.noise * weighted
        others[rows] = y[rows] - weighted / precision
        variance[rows] = np.maximum(1 / precision - fit.noise, _TINY)
    return fitted, others, variance


def _dispersion(x: np.ndarray, typical: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Expected phi of counts whose means are log-normal around `typical` times a factor.

    A priori log phi is N(0, 1).
    """
    mean = typical * np.exp(log_variance / 2)
    typical = (
        typical * np.maximum(x.mean(axis=0), _TINY) / mean.mean(axis=0)
    )  # the log of a count is not that of its mean
    scores = np.stack([_score(x, typical, log_variance, log_phi) for log_phi in _LOG_DISPERSIONS])
    log_posterior = scores - 0.5 * _LOG_DISPERSIONS[:, None] ** 2
    weight = np.exp(log_posterior - logsumexp(log_posterior, axis=0))
    return np.exp(_LOG_DISPERSIONS) @ weight


def _score(x: np.ndarray, typical: np.ndarray, log_variance: np.ndarray, log_phi: float) -> np.ndarray:
    """Log likelihood of every feature for one dispersion, the log mean integrated out by quadrature.

    The nodes lie around what prior and count together tell of the log mean, as many molecules tell it precisely.
    """
    phi, prior = np.exp(log_phi), np.log(typical)
    variance = 1 / (1 / log_variance + (x + 1) / (1 + phi))
    centre = prior + variance * (np.log(x + 0.5) - prior) * (x + 1) / (1 + phi)
    at_nodes = []
    for node in _NODES:
        log_mean = centre + np.sqrt(variance) * node
        shape = np.maximum(np.exp(log_mean) / phi, _TINY)
        counts = gammaln(x + shape) - gammaln(shape) - shape * np.log1p(phi)
        at_nodes.append(counts - 0.5 * (log_mean - prior) ** 2 / log_variance + 0.5 * node**2)
    weight = (_WEIGHTS / _WEIGHTS.sum())[:, None, None]
    integral = logsumexp(at_nodes, axis=0, b=weight) + 0.5 * np.log(variance / log_variance)
    return (integral + x * (log_phi - np.log1p(phi)) - gammaln(x + 1)).sum(axis=0)


def _loadings(fitted: np.ndarray) -> np.ndarray:
    """Patterns whose random sums correlate as the smooth parts of the features do, with variance 1 for each."""
    scale = fitted.std(axis=0)
    standard = (fitted - fitted.mean(axis=0)) / np.where(scale > 0, scale, 1)
    _, size, patterns = np.linalg.svd(standard, full_matrices=False)
    n = min(N_RESIDUALS, len(size))
    loadings = np.zeros((N_RESIDUALS, fitted.shape[1]))
    loadings[:n] = size[:n, None] * patterns[:n]
    return loadings / np.maximum(np.sqrt((loadings**2).sum(axis=0)), _TINY)
