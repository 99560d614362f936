"""How much of each feature the image explains."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from soscope_scverse import _read as read
from soscope_scverse._validators import POSITIVE_INTEGER, SEED, Number, Rules, check_arguments, check_finite
from soscope_scverse.metrics._agreement import Matrix, n_rows, per_feature

N_COMPONENTS = 50
"""Principal components of the image features in the paper."""

_RULES: Rules = {
    "n_components": POSITIVE_INTEGER,
    "n_folds": Number(2, integer=True).or_(None),
    "seed": SEED,
}


def image_r2(
    values: Matrix,
    image_features: ArrayLike,
    *,
    n_components: int = N_COMPONENTS,
    n_folds: int | None = 5,
    seed: int = 0,
) -> np.ndarray:
    """Share of the variance of each feature that a linear regression on principal components of the image explains.

    Parameters
    ----------
    values
        n_targets x n_features profiles, of spots or subspots.
    image_features
        n_targets x n_image_features, e.g. ``enhanced.obsm["image_features"]``.
    n_components
        Principal components of the standardised image features, fewer if there are not as many.
    n_folds
        Targets are predicted from a regression on the other folds, so that R2 does not grow with the number of
        components. None: the R2 of one regression on all targets, 0.1 on average for noise and 50 components of 500
        targets.
    seed
        Seed of the folds.

    Returns
    -------
    np.ndarray
        n_features values, 1 if the image determines the feature; with folds 0 or slightly below if it does not. NaN
        for constant features.

    Raises
    ------
    TypeError, ValueError
        If values or image features are not finite real numbers, their numbers of targets differ, or there are too few
        targets for the components.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    check_arguments(locals(), _RULES)
    features = read.numbers("`image_features`", image_features)
    check_finite(values)
    _check_targets(features, n_rows(values))
    n_targets = len(features)
    n_used = min(n_components, features.shape[1])
    n_fitted = n_targets if n_folds is None else n_targets - -(-n_targets // n_folds)
    if n_fitted <= n_used + 1:
        msg = (
            f"Expected more targets than the {n_used} components + 1 in every regression, found {n_fitted} of "
            f"{n_targets}. Choose a smaller `n_components`."
        )
        raise ValueError(msg)
    model = make_pipeline(StandardScaler(), PCA(n_used, svd_solver="full"), LinearRegression())

    def r2(x: np.ndarray) -> np.ndarray:
        if n_folds is None:
            fitted = model.fit(features, x).predict(features)
        else:
            folds = KFold(n_folds, shuffle=True, random_state=seed)
            fitted = cross_val_predict(model, features, x, cv=folds)
        total = ((x - x.mean(axis=0)) ** 2).sum(axis=0)
        flat = np.ptp(x, axis=0) == 0
        return np.where(flat, np.nan, 1 - ((x - fitted.reshape(x.shape)) ** 2).sum(axis=0) / np.where(flat, 1, total))

    return per_feature(r2, values)


def _check_targets(features: np.ndarray, n_targets: int) -> None:
    if features.ndim != 2 or len(features) != n_targets or not features.size or not np.isfinite(features).all():
        msg = (
            f"Expected finite `image_features`, n_targets x n_image_features for {n_targets} targets, found shape "
            f"{features.shape}, {(~np.isfinite(features)).sum()} not finite."
        )
        raise ValueError(msg)
