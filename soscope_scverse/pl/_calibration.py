"""Calibration of draws."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import numpy as np
from matplotlib.axes import Axes

from soscope_scverse import _validation as check
from soscope_scverse.pl._figures import panels, save_figure

_LEVELS = np.linspace(0, 1, 101)


def calibration(
    pit: np.ndarray | Mapping[str, np.ndarray], *, ax: Axes | None = None, save: str | PathLike | None = None
) -> Axes:
    """Draw how much of the truth the central intervals of the draws hold, at every nominal level.

    A calibrated curve follows the diagonal; below it the intervals are too narrow, above it too wide.

    Parameters
    ----------
    pit
        Values of :func:`~soscope_scverse.metrics.pit`, of any shape, or several of them by name, a curve each. NaN are
        left out.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        With one curve for each entry of `pit`.

    Raises
    ------
    TypeError, ValueError
        If `pit` or `ax` are of another kind, values do not lie in [0, 1] or there are none.
    """
    curves = {name: _observed(values) for name, values in (pit if isinstance(pit, Mapping) else {"": pit}).items()}
    ax = panels(ax, (1,), (4.5, 4.5), "one")[0]
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    for name, observed in curves.items():
        ax.plot(_LEVELS, observed, linewidth=1.2, label=name)
    ax.set(xlabel="nominal central interval", ylabel="truth inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    if isinstance(pit, Mapping):
        ax.legend(frameon=False, fontsize=8)
    save_figure(ax, save)
    return ax


def _observed(pit: np.ndarray) -> np.ndarray:
    """Share of the values in the central interval of every level."""
    values = check.numbers("`pit`", pit).ravel()
    values = values[~np.isnan(values)]
    if not len(values) or values.min() < 0 or values.max() > 1:
        found = f"{values.min()} to {values.max()}" if len(values) else "none"
        msg = f"Expected values of `metrics.pit` in [0, 1], found {found}."
        raise ValueError(msg)
    width = np.sort(2 * np.abs(values - 0.5))  # the level of the narrowest interval that holds it
    return np.searchsorted(width, _LEVELS, side="right") / len(width)
