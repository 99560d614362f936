"""Gaussian processes over spots: covariance, marginal likelihood, maximum-likelihood fits and predictions.

A feature is a smooth process plus noise of the single spot. The spots of a section are represented by a few contiguous
groups, which are taken to be independent, so that the cost does not grow with the section.
:class:`~soscope_scverse._gp.SpectralProcess` evaluates a grid of parameters for all features at once;
:func:`maximise_likelihood` fits one feature by gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from soscope_scverse._arrays import spread
from soscope_scverse._gp import log_likelihood
from soscope_scverse.model._tiles import contiguous_groups
from soscope_scverse.pp._graphs import nearest_distance

MIN_SPOTS = 8
"""Smallest number of spots from which variances are estimated."""

_GROUP_SPOTS = 200
_MAX_GROUPS = 4
# log of: variance and length (in spot distances) of the smooth part; variance of the noise
_BOUNDS = ((-8.0, 4.0), (-0.7, 4.0), (-8.0, 1.0))


class Group(NamedTuple):
    """A contiguous group of spots."""

    rows: np.ndarray
    """n_group rows of the spots."""
    distance: np.ndarray
    """n_group x n_group, in centre-to-centre distances of the spots."""


class Fit(NamedTuple):
    """Maximum-likelihood estimate of one feature."""

    log_likelihood: float
    """Without its constant."""
    log_parameters: np.ndarray
    """Log of the variance and the length of the smooth part, and of the noise variance."""


def sample_groups(spatial: np.ndarray, sections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose a few contiguous groups of spots that represent the sections.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; no group has spots of two sections.

    Returns
    -------
    Rows of the chosen spots and the number of the group of each.
    """
    groups = contiguous_groups(spatial, sections, _GROUP_SPOTS)
    chosen = [groups[i] for i in spread(len(groups), _MAX_GROUPS)]
    return np.concatenate(chosen), np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])


def groups_of(spatial: np.ndarray, sections: np.ndarray | None = None) -> list[Group]:
    """Choose groups as :func:`sample_groups` does and measure the distances in each.

    Parameters
    ----------
    spatial
        n_spots x 2 positions.
    sections
        n_spots labels; None is one section. Labels of groups give these groups again.
    """
    sampled, number = sample_groups(spatial, np.zeros(len(spatial)) if sections is None else np.asarray(sections))
    groups = []
    for rows in (sampled[number == i] for i in range(number.max() + 1)):
        own = spatial[rows]
        groups.append(Group(rows, cdist(own, own) / nearest_distance(np.unique(own, axis=0))))
    return groups


def correlation(distance: np.ndarray, length: float) -> np.ndarray:
    """Correlation exp(-distance / length) of the smooth part."""
    return np.exp(-(distance / length))


def maximise_likelihood(groups: Sequence[Group], values: np.ndarray, start: np.ndarray) -> Fit:
    """Fit the parameters of one feature by gradients.

    Parameters
    ----------
    groups
        The spots.
    values
        n_spots, standardised.
    start
        Log parameters to start from, see :class:`Fit`.
    """
    fit = minimize(_loss, start, (groups, values), jac=True, method="L-BFGS-B", bounds=_BOUNDS)
    return Fit(-fit.fun, fit.x)


def _loss(log_parameters: np.ndarray, groups: Sequence[Group], values: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log likelihood and its gradient."""
    total, gradient = 0.0, np.zeros(3)
    smooth, length, noise = np.exp(log_parameters)
    for rows, distance in groups:
        space = smooth * correlation(distance, length)
        by_length = space * (distance / length)
        try:
            factor = cho_factor(space + noise * np.eye(len(rows)), lower=True)
        except LinAlgError:
            return 1e25, np.zeros(3)
        inverse = cho_solve(factor, np.eye(len(rows)))
        weights = inverse @ values[rows]
        total += float(log_likelihood(values[rows] @ weights, 2 * np.log(np.diag(factor[0])).sum()))
        slope = 0.5 * (inverse - np.outer(weights, weights))
        gradient += [(slope * space).sum(), (slope * by_length).sum(), noise * np.trace(slope)]
    return -total, gradient


def standardised(x: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; constant columns are 0."""
    x = np.asarray(x, dtype=float)
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)
