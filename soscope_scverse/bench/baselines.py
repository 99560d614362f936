"""Baseline methods for the resolution enhancement of spots.

A baseline takes a low-resolution AnnData with ``obsm["spatial"]``, ``obsm["subspots"]``, ``obsm["subspot_exposure"]``
and, if it uses the image, ``obsm["subspot_features"]``. It returns an n_targets x n_features array in the C order of
the valid subspots. All baselines except :func:`repeat` and the linear interpolations fit a regression of the profiles
of the spots on their positions or mean image features, and predict the profiles of the subspots with it.

Predictions are expected profiles of spots. If ``uns["subspots"]["aggregate"]`` is ``"mean"``, as written by
:func:`~soscope_scverse.bench.simulate_low_resolution`, they are returned unchanged. Otherwise spots are sums of counts:
predictions are clipped at 0 and multiplied by the areas of the subspots, relative to what a spot captured.
If ``obs["relative_cell_number"]`` is present, counts are divided by it before fitting, and areas multiplied by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.sparse import csr_matrix, diags
from scipy.spatial import QhullError
from scipy.spatial.distance import cdist

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._gp import SpectralProcess
from soscope_scverse._validators import check_finite
from soscope_scverse.bench import _kriging as kriging
from soscope_scverse.bench._kriging import SAME_EVIDENCE, SIGNAL_SHARES
from soscope_scverse.pp._graphs import nearest_distance

LENGTH_SCALES = np.geomspace(0.05, 5, 13)
"""In units of the square root of the number of inputs, to which distances of standardised inputs are proportional."""

_MOST_LOG = 500.0  # keeps exponentials and their sums finite


class _Task(NamedTuple):
    """Spots and targets (the valid subspots in C order) as arrays."""

    profiles: np.ndarray
    """n_spots x n_features; counts are divided by the relative cell number."""
    spot: np.ndarray
    """n_targets row numbers of spots."""
    subspot: np.ndarray
    """n_targets numbers of subspots within their spots."""
    exposure: np.ndarray
    """n_targets x 1, multiplied by the relative cell number of counts."""
    area: np.ndarray
    """n_targets x 1 in the same unit; the exposure where spots tile the tissue."""
    is_mean: bool
    """Whether a spot is the mean of its subspots rather than the sum of their counts."""

    def scaled_to_targets(self, levels: np.ndarray) -> np.ndarray:
        """Convert n_targets x n_features expected profiles of spots to profiles of subspots."""
        return levels if self.is_mean else np.clip(levels, 0, None) * self.area


def repeat(adata: AnnData) -> np.ndarray:
    """Repeat the profile of a spot in all its subspots; counts are divided in proportion to the areas.

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
        If a slot is missing or inconsistent with the others.
    """
    task = _task(adata)
    return task.scaled_to_targets(task.profiles[task.spot])


def linear(adata: AnnData) -> np.ndarray:
    """Interpolate linearly between the spot centres, and take the nearest spot outside their convex hull.

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
        If a slot is missing or inconsistent with the others, or the spots lie on one line.
    """
    task = _task(adata)
    return _interpolate(task, *_positions(adata, task))


def linear_conserving(adata: AnnData) -> np.ndarray:
    """Interpolate linearly, then scale (counts) or shift (means) what a spot measured of its subspots to match it.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots.

    Returns
    -------
    np.ndarray
        n_targets x n_features. Counts of a spot are repeated where the interpolation is 0 in all its subspots.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or inconsistent with the others, or the spots lie on one line.
    """
    task = _task(adata)
    return _conserved(task, _interpolate(task, *_positions(adata, task)))


def gaussian_process(adata: AnnData) -> np.ndarray:
    """Gaussian process regression on the positions, its parameters chosen for each gene by marginal likelihood.

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
        If a slot is missing or inconsistent with the others.
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
        If a slot is missing or inconsistent with the others.
    """
    task = _task(adata)
    return _regress(task, *_features(adata, task), _fit_ridge)


def image_gaussian_process(adata: AnnData) -> np.ndarray:
    """Gaussian process regression on the image features, its parameters chosen for each gene by marginal likelihood.

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
        If a slot is missing or inconsistent with the others.
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
        If a slot is missing or inconsistent with the others.
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
        If a slot is missing or inconsistent with the others.
    """
    task = _task(adata)
    pairs = zip(_features(adata, task), _positions(adata, task), strict=True)
    at_spots, at_targets = (np.hstack(pair) for pair in pairs)
    return _regress(task, at_spots, at_targets, _fit_network)


def kriging_image(adata: AnnData, *, library_key: str | None = None) -> np.ndarray:
    """Kriging on the positions and image features together; what a spot measured of its subspots adds up to it.

    Profiles (log1p of counts) are a Gaussian process: a part that is smooth in space, a part that is linear in the
    image features, and noise. All features share the length, the weight of the image, which may be 0, and the share of
    the noise, chosen by marginal likelihood. Without image features the positions alone are used.

    The time grows with the cube of the number of spots, the memory with its square: a few thousand are feasible.

    Parameters
    ----------
    adata
        Low-resolution spots with their subspots, with or without image features.
    library_key
        Column of ``obs`` with the sections. They share the parameters and the effect of the image, but neither their
        mean profiles and image features nor positions. None is one section.

    Returns
    -------
    np.ndarray
        n_targets x n_features. Gaps between spots contain the expected counts of the process.

    Raises
    ------
    TypeError, ValueError
        If a slot is missing or inconsistent with the others, or sections are missing.

    References
    ----------
    Rasmussen, C. E. & Williams, C. K. I. Gaussian Processes for Machine Learning, chapters 2 and 5 (2006).
    """
    task = _task(adata)
    section = read.sections(adata, library_key)
    logs = task.profiles if task.is_mean else np.log1p(np.clip(task.profiles, 0, None))
    mean = _section_means(logs, section)
    deviation = _spread(logs - mean, logs)
    spots, targets = _places(adata, task, section)
    effect = kriging.krige(_divided(logs - mean, deviation), spots, targets)
    levels = mean[task.spot] + deviation * effect
    guess = levels if task.is_mean else np.expm1(np.minimum(levels, _MOST_LOG))
    return _conserved(task, task.scaled_to_targets(guess))


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
        kriging_image,
    )
}
"""All baselines by name."""

Predictor = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Predictor]


def _regress(task: _Task, at_spots: np.ndarray, at_targets: np.ndarray, fit: Fit) -> np.ndarray:
    """Fit the profiles of the spots on standardised inputs and predict those of the targets."""
    centre, spread = _moments(at_spots)
    mean, deviation = _moments(task.profiles)
    predict = fit(_divided(at_spots - centre, spread), _divided(task.profiles - mean, deviation))
    levels = predict(_divided(at_targets - centre, spread)).reshape(len(at_targets), -1)
    return task.scaled_to_targets(mean + deviation * levels)


def _interpolate(task: _Task, centres: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Interpolate linearly between the spots, and take the nearest spot outside their convex hull."""
    try:
        levels = LinearNDInterpolator(centres, task.profiles)(targets)
    except QhullError as error:
        msg = f"Expected at least three spots that do not lie on one line, found {len(centres)} that do."
        raise ValueError(msg) from error
    outside = np.isnan(levels).any(axis=1)
    levels[outside] = NearestNDInterpolator(centres, task.profiles)(targets[outside])
    return task.scaled_to_targets(levels)


def _conserved(task: _Task, guess: np.ndarray) -> np.ndarray:
    """Scale (counts) or shift (means) what a spot measured of its subspots to match it; gaps keep the guess."""
    measured = task.exposure / task.area
    if task.is_mean:
        return guess + measured * (task.profiles - _area_mean(task) @ guess)[task.spot]
    members = csr_matrix((np.ones(len(task.spot)), (task.spot, np.arange(len(task.spot)))))
    captured = guess * measured
    total = (members @ captured)[task.spot]
    size = (members @ task.exposure)[task.spot]
    even = np.broadcast_to(task.exposure / size, guess.shape).copy()
    shares = np.divide(captured, total, out=even, where=total > 0)
    return shares * size * task.profiles[task.spot] + (guess - captured)


def _fit_gaussian_process(inputs: np.ndarray, values: np.ndarray) -> Predictor:
    """Fit a Gaussian process per column with covariance c (s RBF(l) + (1 - s) I) by marginal likelihood.

    All combinations of the length scales l and signal shares s are evaluated, each at its most likely variance c, so
    the result is no local optimum.
    """
    n_spots, n_features = values.shape
    best, chosen_length = np.full(n_features, -np.inf), np.zeros(n_features)
    weights = np.zeros_like(values)  # of the RBF of every spot
    for length in LENGTH_SCALES * np.sqrt(inputs.shape[1]):
        process = SpectralProcess([_rbf(inputs, inputs, length)], [np.arange(n_spots)], values)
        evidence = process.log_likelihood(SIGNAL_SHARES)[0]
        highest = evidence.max(axis=0)
        better = highest > best + SAME_EVIDENCE
        # the smallest of equal shares: for a very short length, signal and noise have the same covariance
        share = SIGNAL_SHARES[(evidence >= highest - SAME_EVIDENCE).argmax(axis=0)]
        best[better], chosen_length[better] = highest[better], length
        weights[:, better] = (share * process.weights(share, 1 - share))[:, better]

    def predict(new: np.ndarray) -> np.ndarray:
        result = np.empty((len(new), n_features))
        for length in np.unique(chosen_length):
            features = chosen_length == length
            result[:, features] = _rbf(new, inputs, length) @ weights[:, features]
        return result

    return predict


def _rbf(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
    return np.exp(-0.5 * cdist(a, b, "sqeuclidean") / length**2)


def _fit_ridge(inputs: np.ndarray, values: np.ndarray) -> Predictor:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(alphas=np.geomspace(1e-1, 1e5, 13), alpha_per_target=True).fit(inputs, values).predict


def _fit_network(inputs: np.ndarray, values: np.ndarray) -> Predictor:
    """Fit a neural network until its loss converges.

    With some tens of spots, no validation set is held out: strong weight decay scored better than early stopping on
    the real sections.
    """
    from sklearn.neural_network import MLPRegressor

    network = MLPRegressor(hidden_layer_sizes=(128, 32), alpha=10, max_iter=5000, random_state=0)
    return network.fit(inputs, values.ravel() if values.shape[1] == 1 else values).predict


def _task(adata: AnnData) -> _Task:
    """Read the spots and their valid subspots, the targets."""
    exposure = read.exposures(read.read_anndata(adata))
    area = read.areas(adata, exposure)
    spot, subspot = np.nonzero(area > 0)
    x = read.matrix(adata, None)
    check_finite(x)
    profiles = dense(x).astype(float)
    is_mean = adata.uns.get(keys.SUBSPOTS, {}).get("aggregate") == "mean"
    if keys.RELATIVE_CELL_NUMBER in adata.obs and not is_mean:
        size = adata.obs[keys.RELATIVE_CELL_NUMBER].to_numpy(float)[:, None]
        profiles, exposure, area = profiles / size, exposure * size, area * size
    exposure, area = (values[spot, subspot][:, None] for values in (exposure, area))
    return _Task(profiles, spot, subspot, exposure, area, is_mean)


def _positions(adata: AnnData, task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of spots and targets, n_spots x 2 and n_targets x 2."""
    return read.positions(adata), _of_targets(adata, keys.SUBSPOTS, task)


def _features(adata: AnnData, task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the image features of spots (area means) and targets, n_spots x L and n_targets x L."""
    features = _of_targets(adata, keys.FEATURES, task)
    return _area_mean(task) @ features, features


def _places(adata: AnnData, task: _Task, section: np.ndarray) -> tuple[kriging.Places, kriging.Places]:
    """Return spots and targets for kriging, with the image features if there are any."""
    xy = _positions(adata, task)
    pitch = nearest_distance(np.unique(xy[0], axis=0))
    sections = section, section[task.spot]
    features = [np.zeros((len(places), 0)) for places in xy]
    if keys.FEATURES in adata.obsm:
        at_spots, at_targets = _features(adata, task)
        mean = _section_means(at_spots, section)
        spread = _spread(at_targets - mean[task.spot], at_targets)
        at_spots, at_targets = (_divided(x, spread) for x in (at_spots - mean, at_targets - mean[task.spot]))
        size = np.sqrt((at_spots**2).sum(axis=1).mean()) or 1.0
        features = [at_spots / size, at_targets / size]
    spots, targets = (kriging.Places(*place) for place in zip([x / pitch for x in xy], sections, features, strict=True))
    return spots, targets


def _section_means(values: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Mean over the spots of its section for every spot, in the shape of the values."""
    _, number, counts = np.unique(section, return_inverse=True, return_counts=True)
    members = csr_matrix((np.ones(len(number)), (number, np.arange(len(number)))))
    return (diags(1 / counts) @ members @ values)[number]


def _area_mean(task: _Task) -> csr_matrix:
    """Matrix of n_spots x n_targets that averages values of the targets over what the spots captured."""
    shape = len(task.profiles), len(task.spot)
    exposure = csr_matrix((task.exposure.ravel(), (task.spot, np.arange(len(task.spot)))), shape=shape)
    return diags(1 / np.asarray(exposure.sum(axis=1)).ravel()) @ exposure


def _of_targets(adata: AnnData, slot: str, task: _Task) -> np.ndarray:
    """Return the entries of the valid subspots in a slot of n_spots x n_subspots x any shape."""
    values = _slot(adata, slot)
    n_subspots = adata.obsm[keys.EXPOSURE].shape[1]
    if values.shape[1] != n_subspots:
        msg = (
            f"Expected `adata.obsm['{slot}']` to hold {n_subspots} subspots per spot, like `{keys.EXPOSURE}`, "
            f"found {values.shape[1]}. Compute both from the same subspots."
        )
        raise ValueError(msg)
    entries = np.asarray(values[task.spot, task.subspot], dtype=float)
    if not np.isfinite(entries).all():
        msg = f"Expected finite `adata.obsm['{slot}']` of all subspots, found NaN or infinite values."
        raise ValueError(msg)
    return entries


def _slot(adata: AnnData, slot: str) -> np.ndarray:
    if slot not in adata.obsm:
        msg = (
            f"Expected `adata.obsm['{slot}']`, found only {sorted(adata.obsm)}. "
            "`bench.simulate_low_resolution` and `pp.subspots` write the subspots, `im.features` the image features."
        )
        raise ValueError(msg)
    values = read.numbers(f"`adata.obsm[{slot!r}]`", adata.obsm[slot])
    if values.ndim != 3 or not values.size:
        msg = f"Expected `adata.obsm['{slot}']` to have 3 dimensions, found shape {values.shape}."
        raise ValueError(msg)
    return values


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns; deviations within rounding error are 0."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(deviation > 1e-9 * np.abs(mean), deviation, 0)


def _spread(centred: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Root mean square of centred columns; within the rounding error of the values before centring it is 0."""
    deviation = np.sqrt((centred**2).mean(axis=0))
    return np.where(deviation > 1e-9 * np.abs(values).max(axis=0), deviation, 0)


def _divided(values: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Divide columns by their standard deviations; constant columns become 0."""
    return values * np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
