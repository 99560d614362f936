"""Heat maps of correlations between genes."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from soscope_scverse import metrics
from soscope_scverse.pl._figures import panels, save_figure


def feature_correlations(
    truth: Any,
    predictions: Mapping[str, Any],
    *,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot the correlations between genes in the truth and in predictions, with their agreement.

    Genes are ordered by hierarchical clustering (Ward) of the truth, with 1 - abs(r) as distance, as in the paper; all
    panels have this order. Titles have :func:`~soscope_scverse.metrics.correlation_agreement`.

    Parameters
    ----------
    truth
        n_targets x n_features matrix.
    predictions
        Such matrices by method.
    ax
        Axes to draw on, one for the truth and one per method.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        One for the truth and one per method.

    Raises
    ------
    TypeError, ValueError
        If `predictions` is no dict, values are not finite, shapes differ, or there are less than two genes.
    """
    if not isinstance(predictions, Mapping) or not predictions:
        msg = f"Expected `predictions` to be a dict of matrices by method, found {type(predictions).__name__}."
        raise TypeError(msg)
    known = metrics.feature_correlations(truth)
    if len(known) < 2:
        msg = f"Expected at least two features, found {len(known)}."
        raise ValueError(msg)
    agreement = {name: metrics.correlation_agreement(values, truth) for name, values in predictions.items()}
    order = _order(known)
    axes = panels(ax, (1 + len(predictions),), (3.2, 3.4), "one for the truth and one per method")
    titles = ["truth", *(f"{name}\nr {found.r:.2f}, MSE {found.mse:.3f}" for name, found in agreement.items())]
    maps = [known, *(metrics.feature_correlations(values) for values in predictions.values())]
    for panel, title, matrix in zip(axes, titles, maps, strict=True):
        drawn = panel.imshow(matrix[np.ix_(order, order)], cmap="coolwarm", vmin=-1, vmax=1, interpolation="nearest")
        panel.set_title(title, fontsize=9)
        panel.set(xticks=[], yticks=[])
    axes[-1].figure.colorbar(drawn, ax=axes[-1], label="Pearson's r", shrink=0.7)
    save_figure(axes[0], save)
    return axes


def _order(correlations: np.ndarray) -> np.ndarray:
    """Order of the leaves of the clustering; constant features have the largest distance."""
    distance = 1 - np.abs(np.nan_to_num(correlations))
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), method="ward"))
