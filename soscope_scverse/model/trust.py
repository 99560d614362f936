"""How far the picture can be believed, feature by feature."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

_N_FOLDS = 5
_PENALTIES = np.logspace(0, 5, 11)


def picture_trust(profile: np.ndarray, features: np.ndarray, edge_index: np.ndarray, spatial: np.ndarray) -> np.ndarray:
    """Share of the picture's effect that holds on tissue not seen, in [0, 1] for every feature.

    Neighbouring spots differ in profile and in picture. A ridge regression of one difference on the other, fitted
    without a contiguous part of the section, predicts the differences inside that part; trust is the slope of the true
    differences on the predicted ones: 1 where the prediction can be taken as it is, 0 where it is worthless. The slope
    is the posterior mean under a standard normal prior, so that predictions too small to be tested count as worthless.
    As the slope of a single feature is noisy, it is shrunk half-way to the slope of all features together.

    Parameters
    ----------
    profile
        n_spots x n_features, on the scale on which effects add up (log for counts).
    features
        n_spots x n_image_features mean image features of the spots.
    edge_index
        2 x n_edges rows of neighbouring spots, every pair once.
    spatial
        n_spots x 2 positions.

    Returns
    -------
    n_features values in [0, 1].
    """
    profile = _standardised(profile)
    features = _standardised(features)
    fold = _contiguous_folds(spatial)
    i, j = edge_index
    profile_step, image_step = profile[i] - profile[j], features[i] - features[j]
    predicted, observed = [], []
    for held_out in np.unique(fold):
        test = (fold[i] == held_out) & (fold[j] == held_out)
        train = (fold[i] != held_out) & (fold[j] != held_out)
        if test.any() and train.sum() > 2:
            ridge = RidgeCV(_PENALTIES, fit_intercept=False).fit(image_step[train], profile_step[train])
            predicted.append(ridge.predict(image_step[test]).reshape(test.sum(), -1))
            observed.append(profile_step[test])
    if not predicted:
        return np.zeros(profile.shape[1])
    p, o = np.vstack(predicted), np.vstack(observed)
    # every spot takes part in several differences: the evidence is that of about half as many independent ones
    noise = 2 * (o**2).mean(axis=0)
    agreement, size = (p * o).sum(axis=0), (p**2).sum(axis=0) + noise + 1e-12
    return np.clip(0.5 * (agreement / size + agreement.sum() / size.sum()), 0, 1)


def _standardised(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=float)
    scale = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)


def _contiguous_folds(spatial: np.ndarray) -> np.ndarray:
    """Cut the section into contiguous strips of equal size along its longest direction."""
    centred = spatial - spatial.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    rank = np.argsort(np.argsort(centred @ axis, kind="stable"), kind="stable")
    return rank * _N_FOLDS // len(spatial)
