"""Kriging of all features at once, with a covariance over positions and image features."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist

from soscope_scverse._gp import SpectralProcess

SIGNAL_SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
"""Shares of the variance of a feature that its Gaussian process explains."""
SAME_EVIDENCE = 1e-6
"""Log evidences that differ by less are regarded as equal, so that rounding has no effect on the choice."""
LENGTHS = (1.0, 2.0, 4.0, 8.0)
"""Lengths of the spatial part, in centre-to-centre distances of the spots: much below 1, spots have no neighbours."""
WEIGHTS = np.geomspace(0.03, 30, 7)
"""Variances of the image part relative to the spatial part between which the search starts, besides 0."""
_TOLERANCE = 0.01  # of the natural log of the weight
_BLOCK = 2048  # places that are predicted at a time, to bound the memory


class Places(NamedTuple):
    """Where profiles are known or predicted."""

    xy: np.ndarray
    """n_places x 2, in centre-to-centre distances of the spots."""
    section: np.ndarray
    """n_places labels; the spatial part is independent between sections."""
    features: np.ndarray
    """n_places x L image features, centred, of mean squared norm 1 at the spots; L = 0 without an image."""

    def block(self, rows: slice) -> Places:
        """Return some of the places."""
        return Places(self.xy[rows], self.section[rows], self.features[rows])


class Parameters(NamedTuple):
    """Covariance of all features, up to the total variance of each."""

    length: float
    """Of the spatial part, in centre-to-centre distances of the spots."""
    weight: float
    """Variance of the image part relative to the spatial part."""
    share: float
    """Of the two parts in the total variance; the rest is noise."""


class Fit(NamedTuple):
    """Parameters with their evidence and the weights that predict with them."""

    evidence: float
    """Sum of the log marginal likelihoods of the features, without a constant."""
    parameters: Parameters
    weights: np.ndarray
    """n_spots x n_features: covariances with the spots times these are the expected values elsewhere."""


def krige(values: np.ndarray, spots: Places, targets: Places) -> np.ndarray:
    r"""Expected values at the targets given noisy ones at the spots.

    The covariance of a feature g is :math:`\sigma_g^2 (s (R_l + w F F^\top) + (1 - s) I)`: a squared exponential R of
    length l over the positions, a part that is linear in the image features F, and noise. All features share l, w and
    s, which maximise the sum of their log marginal likelihoods, each at its most likely :math:`\sigma_g^2`.

    Parameters
    ----------
    values
        n_spots x n_features of mean 0; features that are 0 at all spots are ignored in the choice of the parameters.
    spots, targets
        Where values are known and predicted.

    Returns
    -------
    n_targets x n_features.
    """
    _, parameters, weights = fit(values, spots)
    blocks = [targets.block(slice(start, start + _BLOCK)) for start in range(0, len(targets.xy), _BLOCK)]
    return np.concatenate([covariance(block, spots, parameters) @ weights for block in blocks])


def fit(values: np.ndarray, spots: Places) -> Fit:
    """Choose the parameters on a grid, then the weight of the image between its neighbours on the grid."""
    weights = [0.0, *WEIGHTS] if spots.features.any() else [0.0]
    best = None
    for length, weight in product(LENGTHS, weights):
        best = _better(best, _fit(values, spots, length, weight))
    assert best is not None
    length, weight, _ = best.parameters
    if weight == 0:
        return best

    def loss(log_weight: float) -> float:
        return -_fit(values, spots, length, np.exp(log_weight)).evidence

    step = np.log(WEIGHTS[1] / WEIGHTS[0])
    bounds = np.log(weight) - step, np.log(weight) + step
    refined = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": _TOLERANCE})
    return _better(best, _fit(values, spots, length, float(np.exp(refined.x))))


def covariance(a: Places, b: Places, parameters: Parameters) -> np.ndarray:
    """Covariance of the two parts without noise, n_a x n_b."""
    return parameters.share * _correlation(a, b, parameters.length, parameters.weight)


def _better(best: Fit | None, found: Fit) -> Fit:
    return found if best is None or found.evidence > best.evidence + SAME_EVIDENCE else best


def _fit(values: np.ndarray, spots: Places, length: float, weight: float) -> Fit:
    """Fit with the most likely share."""
    correlation = _correlation(spots, spots, length, weight)
    process = SpectralProcess([correlation], [np.arange(len(values))], values)
    evidence = process.log_likelihood(SIGNAL_SHARES)[0][:, values.any(axis=0)].sum(axis=1)
    chosen = int((evidence >= evidence.max() - SAME_EVIDENCE).argmax())
    share = float(SIGNAL_SHARES[chosen])
    weights = process.weights(*np.full((2, values.shape[1]), [[share], [1 - share]]))
    return Fit(float(evidence[chosen]), Parameters(length, weight, share), weights)


def _correlation(a: Places, b: Places, length: float, weight: float) -> np.ndarray:
    space = np.exp(-0.5 * cdist(a.xy, b.xy, "sqeuclidean") / length**2)
    return space * (a.section[:, None] == b.section) + weight * (a.features @ b.features.T)
