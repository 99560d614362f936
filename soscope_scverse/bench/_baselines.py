"""The simple answers that every claim of quality has to beat.

A baseline takes a low-resolution AnnData with ``obsm["spatial"]``, ``obsm["subspots"]``, ``obsm["subspot_exposure"]``
and, if it uses the image, ``obsm["subspot_features"]``. It returns an n_targets x n_features array, in the C order of
the valid subspots. All but :func:`repeat` learn the profile of a spot from its position or from the mean image feature
of its subspots and apply that to the subspots.

Where ``uns["subspots"]["aggregate"]`` is ``"mean"``, as :func:`~soscope_scverse.bench.simulate_low_resolution` writes
it, that is the prediction. Otherwise spots are sums of counts: it is clipped at 0 and multiplied by the share of the
spot that a subspot covers.
``obs["relative_cell_number"]``, if there, tells how much tissue is in a spot: counts are learnt per mean spot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.linalg import eigh
from scipy.sparse import csr_matrix, diags
from scipy.spatial import QhullError
from scipy.spatial.distance import cdist

from soscope_scverse import _keys as keys
from soscope_scverse import _validation
from soscope_scverse._arrays import dense

TINY = np.finfo(float).tiny
SIGNAL_SHARES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
SAME_EVIDENCE = 1e-6
"""Difference of log evidences that is rounding, so that it must not decide."""
LENGTH_SCALES = np.geomspace(0.05, 5, 13)  # times the square root of the number of inputs: the scale of their distances


class _Task(NamedTuple):
    """The arrays of a baseline: spots and targets (the valid subspots in C order)."""

    profiles: np.ndarray  # n_spots x n_features, counts as of spots of mean size
    spot: np.ndarray  # n_targets numbers of spots
    subspot: np.ndarray  # n_targets numbers of subspots in their spot
    exposure: np.ndarray  # n_targets x 1 shares of the spot, times its size
    is_mean: bool  # whether a spot is the mean of its subspots, instead of the sum of their counts

    def of_targets(self, levels: np.ndarray) -> np.ndarray:
        """Bring n_targets x n_features values on the scale of spots to that of subspots."""
        return levels if self.is_mean else np.clip(levels, 0, None) * self.exposure


def repeat(adata: AnnData) -> np.ndarray:
    """Give every subspot the profile of its spot, of counts its share by exposure, as if the spot were uniform.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit.
    """
    task = _task(adata)
    return task.of_targets(task.profiles[task.spot])


def linear(adata: AnnData) -> np.ndarray:
    """Interpolate linearly between the spot centres; outside of their hull take the nearest spot.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit, or the spots lie on one line.
    """
    task = _task(adata)
    centres, targets = _positions(adata, task)
    try:
        rates = LinearNDInterpolator(centres, task.profiles)(targets)
    except QhullError as error:
        msg = f"Expected at least three spots that do not lie on one line, found {len(centres)} that do."
        raise ValueError(msg) from error
    outside = np.isnan(rates).any(axis=1)
    rates[outside] = NearestNDInterpolator(centres, task.profiles)(targets[outside])
    return task.of_targets(rates)


def linear_conserving(adata: AnnData) -> np.ndarray:
    """Interpolate linearly, then rescale (counts) or shift (means) each spot so that its subspots make it up.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots.

    Returns
    -------
    np.ndarray
        n_targets x n_features. A spot of counts whose interpolation is 0 throughout is repeated.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit, or the spots lie on one line.
    """
    task = _task(adata)
    guess = linear(adata)
    if task.is_mean:
        return guess + (task.profiles - _area(task) @ guess)[task.spot]
    members = csr_matrix((np.ones(len(task.spot)), (task.spot, np.arange(len(task.spot)))))
    total = (members @ guess)[task.spot]
    size = (members @ task.exposure)[task.spot]
    even = np.broadcast_to(task.exposure / size, guess.shape).copy()
    return np.divide(guess, total, out=even, where=total > 0) * size * task.profiles[task.spot]


def gaussian_process(adata: AnnData) -> np.ndarray:
    """Gaussian process on the positions, tuned for each gene by marginal likelihood.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit.
    """
    task = _task(adata)
    return _regress(task, *_positions(adata, task), _fit_gaussian_process)


def image_linear(adata: AnnData) -> np.ndarray:
    """Ridge regression on the image features, its penalty chosen for each gene by leave-one-out error.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots and image features.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit.
    """
    task = _task(adata)
    return _regress(task, *_features(adata, task), _fit_ridge)


def image_gaussian_process(adata: AnnData) -> np.ndarray:
    """Gaussian process on the image features, tuned for each gene by marginal likelihood.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots and image features.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit.
    """
    task = _task(adata)
    return _regress(task, *_features(adata, task), _fit_gaussian_process)


def image_mlp(adata: AnnData) -> np.ndarray:
    """Neural network with 128 and 32 hidden units on the image features.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots and image features.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit.
    """
    task = _task(adata)
    return _regress(task, *_features(adata, task), _fit_network)


def joint_mlp(adata: AnnData) -> np.ndarray:
    """Neural network with 128 and 32 hidden units on image features and positions.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots and image features.

    Returns
    -------
    np.ndarray
        n_targets x n_features.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or does not fit.
    """
    task = _task(adata)
    pairs = zip(_features(adata, task), _positions(adata, task), strict=True)
    at_spots, at_targets = (np.hstack(pair) for pair in pairs)
    return _regress(task, at_spots, at_targets, _fit_network)


BASELINES: dict[str, Callable[[AnnData], np.ndarray]] = {
    function.__name__: function
    for function in (
        repeat,
        linear,
        linear_conserving,
        gaussian_process,
        image_linear,
        image_gaussian_process,
        image_mlp,
        joint_mlp,
    )
}
"""Every baseline by its name."""

Predictor = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predictor]


def _regress(task: _Task, at_spots: np.ndarray, at_targets: np.ndarray, fit: Fit) -> np.ndarray:
    """Learn the spots' profiles from standardised inputs and predict those of the targets."""
    centre, spread = _moments(at_spots)
    mean, deviation = _moments(task.profiles)
    predict = fit(_divided(at_spots - centre, spread), _divided(task.profiles - mean, deviation))
    levels = predict(_divided(at_targets - centre, spread)).reshape(len(at_targets), -1)
    return task.of_targets(mean + deviation * levels)


def _fit_gaussian_process(inputs: np.ndarray, values: np.ndarray) -> Predictor:
    r"""Fit one Gaussian process per column, with covariance c (s RBF(l) + (1 - s) I), by its evidence.

    With the eigenvectors Q and eigenvalues :math:`\lambda_i` of the RBF matrix of n spots, and the best c put in, it is

    .. math:: \log p(y) = -\frac12 \left[n \log \frac1n \sum_i \frac{(Q^T y)_i^2}{v_i} + \sum_i \log v_i\right]
        + \text{const}, \qquad v_i = s \lambda_i + 1 - s

    so that one decomposition per length scale l serves all genes and all s: a grid of both costs less than a search per
    gene and has no local optimum (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, chapter 5).
    """
    shares = SIGNAL_SHARES[:, None]
    best, chosen = np.full(values.shape[1], -np.inf), np.zeros(values.shape[1])
    weights = np.zeros_like(values)  # of the RBF around each spot
    for length in LENGTH_SCALES * np.sqrt(inputs.shape[1]):
        eigenvalues, vectors = eigh(_rbf(inputs, inputs, length))
        variances = shares * np.clip(eigenvalues, 0, None) + 1 - shares
        rotated = vectors.T @ values
        scale = (1 / variances) @ rotated**2 / len(inputs)
        evidence = -0.5 * (len(inputs) * np.log(scale + TINY) + np.log(variances).sum(axis=1, keepdims=True))
        highest = evidence.max(axis=0)
        better = highest > best + SAME_EVIDENCE
        # where the length is so short that signal and noise are one, all is noise
        share = (evidence >= highest - SAME_EVIDENCE).argmax(axis=0)[better]
        best[better], chosen[better] = highest[better], length
        weights[:, better] = vectors @ (SIGNAL_SHARES[share] * rotated[:, better] / variances[share].T)

    def predict(new: np.ndarray) -> np.ndarray:
        result = np.empty((len(new), values.shape[1]))
        for length in np.unique(chosen):
            genes = chosen == length
            result[:, genes] = _rbf(new, inputs, length) @ weights[:, genes]
        return result

    return predict


def _rbf(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    return np.exp(-0.5 * cdist(a, b, "sqeuclidean") / length**2)


def _fit_ridge(inputs: np.ndarray, values: np.ndarray) -> Predictor:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(alphas=np.geomspace(1e-1, 1e5, 13), alpha_per_target=True).fit(inputs, values).predict


def _fit_network(inputs: np.ndarray, values: np.ndarray) -> Predictor:
    """Fit a network until its loss stands still.

    Some tens of spots are too few to set any aside: strong weight decay beat early stopping on the real sections.
    """
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(hidden_layer_sizes=(128, 32), alpha=10, max_iter=5000, random_state=0)
    return network.fit(inputs, values.ravel() if values.shape[1] == 1 else values).predict


def _task(adata: AnnData) -> _Task:
    """Read the spots and their valid subspots, which are the targets."""
    _validation.anndata(adata)
    exposure = _validation.division(adata)
    spot, subspot = np.nonzero(exposure > 0)
    x = _validation.matrix(adata, None)
    _validation.finite(x)
    profiles = dense(x).astype(float)
    is_mean = adata.uns.get(keys.SUBSPOTS, {}).get("aggregate") == "mean"
    if keys.RELATIVE_CELL_NUMBER in adata.obs and not is_mean:
        size = adata.obs[keys.RELATIVE_CELL_NUMBER].to_numpy(float)[:, None]
        profiles, exposure = profiles / size, exposure * size
    return _Task(profiles, spot, subspot, exposure[spot, subspot][:, None], is_mean)


def _positions(adata: AnnData, task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of spots and targets, n_spots x 2 and n_targets x 2."""
    return _validation.positions(adata), _of_targets(adata, keys.SUBSPOTS, task)


def _features(adata: AnnData, task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the image features of spots (mean over their area) and targets, n_spots x L and n_targets x L."""
    features = _of_targets(adata, keys.FEATURES, task)
    return _area(task) @ features, features


def _area(task: _Task) -> csr_matrix:
    """Shares of the subspots in their spots, n_spots x n_targets: averages over the area of every spot."""
    shape = len(task.profiles), len(task.spot)
    exposure = csr_matrix((task.exposure.ravel(), (task.spot, np.arange(len(task.spot)))), shape=shape)
    return diags(1 / np.asarray(exposure.sum(axis=1)).ravel()) @ exposure


def _of_targets(adata: AnnData, slot: str, task: _Task) -> np.ndarray:
    """Return the entries of the valid subspots of an n_spots x n_subspots x any slot."""
    values = _slot(adata, slot)
    n_subspots = adata.obsm[keys.EXPOSURE].shape[1]
    if values.shape[1] != n_subspots:
        msg = (
            f"Expected `adata.obsm['{slot}']` to hold {n_subspots} subspots a spot, like `{keys.EXPOSURE}`, "
            f"found {values.shape[1]}. Make both from one division of the spots."
        )
        raise ValueError(msg)
    entries = np.asarray(values[task.spot, task.subspot], dtype=float)
    if not np.isfinite(entries).all():
        msg = f"Expected finite `adata.obsm['{slot}']` where the exposure is above 0, found NaN or infinite values."
        raise ValueError(msg)
    return entries


def _slot(adata: AnnData, slot: str) -> np.ndarray:
    if slot not in adata.obsm:
        msg = (
            f"Expected `adata.obsm['{slot}']`, found only {sorted(adata.obsm)}. "
            "`bench.simulate_low_resolution` and `pp.subspots` divide the spots, `im.features` adds the image features."
        )
        raise ValueError(msg)
    values = _validation.numbers(f"`adata.obsm[{slot!r}]`", adata.obsm[slot])
    if values.ndim != 3 or not values.size:
        msg = f"Expected `adata.obsm['{slot}']` to have 3 dimensions, found shape {values.shape}."
        raise ValueError(msg)
    return values


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns; 0 for what varies by rounding only."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(deviation > 1e-9 * np.abs(mean), deviation, 0)


def _divided(values: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Divide each column by its standard deviation; a constant column becomes 0."""
    return values * np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
