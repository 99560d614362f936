"""Which share of the spots' variation is smooth in space, follows the image, or is noise of the single spot.

Two decisions are made from it before the training: whether the image tells anything of the profiles, and how much of
a spot's depth is technical.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from soscope_scverse._arrays import Matrix, dense, spread
from soscope_scverse.model._tiles import contiguous_groups
from soscope_scverse.pp._graphs import nearest_distance

_N_COMPONENTS = 2
_BLOCK_SPOTS = 200
_MAX_BLOCKS = 4
_MIN_SPOTS = 8
_MOST_COMPARED = 5_000
_LEAST_NOISE = 0.01  # a tenth more or less: no two spots are captured equally well
_ROUGH, _SMOOTH = 1.0, 1.9  # powers of the distance: exponential covariance, and nearly Gaussian
# log of: variance and length (in spot distances) of the part that is smooth in space, with covariance
# exp(-(distance / length) ** power); variance of the noise; variance of the part linear in the image features.
# The data have variance 1.
_START = np.array([-0.7, 1.0, -0.7, -3.0])
_BOUNDS = ((-8.0, 4.0), (-0.7, 4.0), (-8.0, 1.0), (-12.0, 4.0))


class _Fit(NamedTuple):
    """Most likely Gaussian process."""

    log_likelihood: float
    theta: np.ndarray
    """Log parameters, as `_START`."""


class _Block(NamedTuple):
    """Covariances of a contiguous group of spots; groups are taken to be independent."""

    rows: np.ndarray
    distance: np.ndarray
    image: np.ndarray | None


def image_evidence(
    profile: np.ndarray, features: np.ndarray, spatial: np.ndarray, sections: np.ndarray | None = None
) -> float:
    """Log likelihood ratio of an image that tells of the profiles to one that does not.

    The first two principal components of the profiles are modelled as smooth in space plus noise, without and with a
    part that is linear in the image features. A feature that is merely smooth gains little, as the smooth part, rough
    or very smooth, explains it too. With the images of six real sections permuted, the ratio exceeded 4 once in 268
    times.

    Parameters
    ----------
    profile
        n_spots x n_features, on the scale on which effects add up (log for counts).
    features
        n_spots x n_image_features mean image features of the spots.
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section.

    Returns
    -------
    The ratio, at least 0; 0 where there are fewer than eight spots.
    """
    profile, features = _standardised(profile), _standardised(features)
    if len(profile) < _MIN_SPOTS or not features.any():
        return 0.0
    blocks = _blocks(spatial, sections, features)
    components, size, _ = np.linalg.svd(profile, full_matrices=False)
    n_components = min(_N_COMPONENTS, int((size > 1e-6 * len(profile) ** 0.5).sum()))
    ratio = 0.0
    for values in _standardised(components[:, :n_components]).T:
        fits = [_with_and_without(blocks, values, power) for power in (_ROUGH, _SMOOTH)]
        ratio += max(0.0, np.max(fits, axis=0) @ [1, -1])
    return ratio


def _with_and_without(blocks: Sequence[_Block], y: np.ndarray, power: float) -> tuple[float, float]:
    """Log likelihoods with and without a part that is linear in the image features."""
    without = _fit([block._replace(image=None) for block in blocks], y, power, [_START])
    seen = _fit(blocks, y, power, [np.r_[without.theta[:3], image] for image in (-3.0, -0.5)])
    return seen.log_likelihood, without.log_likelihood


def library_size_noise(
    x: Matrix, spatial: np.ndarray, sections: np.ndarray | None = None, size: np.ndarray | float = 1.0
) -> float:
    """Variance of the log depth that belongs to the single spot instead of being smooth in space.

    The depth is that of a spot of mean size. Spots without counts are left out.

    Parameters
    ----------
    x
        n_spots x n_features counts.
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section.
    size
        Sizes of the spots.

    Returns
    -------
    The variance, at least 0.01; 0.01 where there are fewer than eight spots.
    """
    total = np.asarray(x.sum(axis=1), dtype=float).ravel()
    seen = np.flatnonzero(total > 0)
    depth = np.log((total / np.ravel(size))[seen])
    if sections is not None:
        depth = within_sections(depth, sections[seen])
    if len(depth) < _MIN_SPOTS or depth.std() < 1e-6:
        return _LEAST_NOISE
    blocks = _blocks(spatial[seen], None if sections is None else sections[seen], None)
    noise = np.exp(_fit(blocks, _standardised(depth), _ROUGH, [_START]).theta[2]) * depth.var()
    return max(_LEAST_NOISE, float(noise - (1 / total[seen]).mean()))  # less the noise of counting


def within_sections(values: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Values, n_spots or n_spots x n_features, less the mean of their section; a single section is left as it is.

    What sections differ by, in stain or in depth, tells nothing of what lies inside them.
    """
    names, number = np.unique(sections, return_inverse=True)
    if len(names) < 2:
        return values
    return values - np.stack([values[number == i].mean(axis=0) for i in range(len(names))])[number]


def local_noise(x: Matrix, graph: csr_matrix) -> np.ndarray:
    """Variance of every feature that a spot does not share with its neighbours.

    It is that of the difference to the mean of the neighbours, freed of the noise of this mean; where a feature varies
    linearly around a spot, nothing of the variation is taken for noise (Gasser, Sroka & Jennen-Steinmetz, Residual
    variance and residual pattern in nonlinear regression, Biometrika 73, 625, 1986).

    Parameters
    ----------
    x
        n_spots x n_features.
    graph
        n_spots x n_spots; which spots are neighbours.

    Returns
    -------
    n_features variances; those of the features where no spot has a neighbour.
    """
    n_neighbors = np.diff(graph.indptr)
    rows = np.flatnonzero(n_neighbors)
    rows = rows[spread(len(rows), _MOST_COMPARED)]
    if len(rows) == 0:
        return dense(x).var(axis=0)
    n = n_neighbors[rows, None]
    joined = csr_matrix((np.ones(len(graph.indices)), graph.indices, graph.indptr), graph.shape)[rows]
    residual = dense(x[rows]) - dense(joined @ x) / n
    return (residual**2 * n / (n + 1)).mean(axis=0)


def _fit(blocks: Sequence[_Block], y: np.ndarray, power: float, starts: Sequence[np.ndarray]) -> _Fit:
    """Maximise the likelihood of standardised values from several starting points."""
    fits = [minimize(_loss, start, (blocks, y, power), jac=True, method="L-BFGS-B", bounds=_BOUNDS) for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    return _Fit(-best.fun, best.x)


def _loss(theta: np.ndarray, blocks: Sequence[_Block], y: np.ndarray, power: float) -> tuple[float, np.ndarray]:
    """Negative log likelihood without its constant, and its gradient, at log parameters."""
    loss, gradient = 0.0, np.zeros(4)
    smooth, length, noise, strength = np.exp(theta)
    for rows, distance, image in blocks:
        decay = (distance / length) ** power
        space = smooth * np.exp(-decay)
        by_length = space * power * decay
        seen = np.zeros_like(space) if image is None else strength * image
        try:
            factor = cho_factor(space + seen + noise * np.eye(len(rows)), lower=True)
        except LinAlgError:
            return 1e25, np.zeros(4)
        inverse = cho_solve(factor, np.eye(len(rows)))
        weights = inverse @ y[rows]
        loss += 0.5 * y[rows] @ weights + np.log(np.diag(factor[0])).sum()
        slope = 0.5 * (inverse - np.outer(weights, weights))
        gradient += [
            (slope * space).sum(),
            (slope * by_length).sum(),
            noise * np.trace(slope),
            (slope * seen).sum(),
        ]
    return loss, gradient


def sample_blocks(spatial: np.ndarray, sections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A few contiguous groups of spots, so that the cost of what is told from them does not grow with the section.

    Returns
    -------
    Rows of the chosen spots and the numbers of their groups.
    """
    groups = contiguous_groups(spatial, sections, _BLOCK_SPOTS)
    chosen = [groups[i] for i in spread(len(groups), _MAX_BLOCKS)]
    return np.concatenate(chosen), np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])


def _blocks(spatial: np.ndarray, sections: np.ndarray | None, features: np.ndarray | None) -> list[_Block]:
    """Covariances of sampled groups."""
    sampled, number = sample_blocks(spatial, np.zeros(len(spatial)) if sections is None else np.asarray(sections))
    blocks = []
    for rows in (sampled[number == i] for i in range(number.max() + 1)):
        pitch = nearest_distance(np.unique(spatial[rows], axis=0))
        image = None if features is None else features[rows] @ features[rows].T / features.shape[1]
        blocks.append(_Block(rows, cdist(spatial[rows], spatial[rows]) / pitch, image))
    return blocks


def _standardised(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=float)
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)
