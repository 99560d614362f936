"""Calibration of posterior samples."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

import numpy as np
from matplotlib.axes import Axes

from soscope_scverse import _read as read
from soscope_scverse.pl._figures import panels, save_figure

_LEVELS = np.linspace(0, 1, 101)


def calibration(
    pit: np.ndarray | Mapping[str, np.ndarray], *, ax: Axes | None = None, save: str | PathLike | None = None
) -> Axes:
    """Plot the observed against the nominal coverage of the central intervals of the posterior samples.

    The curve of calibrated samples follows the diagonal. Below the diagonal the intervals are too narrow, above it too
    wide.

    Parameters
    ----------
    pit
        Values returned by :func:`~soscope_scverse.metrics.pit`, of any shape, or a dict of several such arrays, one
        curve each. NaN are ignored.
    ax
        Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    Axes
        Contains one curve per entry of `pit`.

    Raises
    ------
    TypeError, ValueError
        If `pit` or `ax` are of a wrong type, or `pit` is empty or contains values outside [0, 1].
    """
    curves = {name: _observed(values) for name, values in (pit if isinstance(pit, Mapping) else {"": pit}).items()}
    ax = panels(ax, (1,), (4.5, 4.5), "one")[0]
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    for name, observed in curves.items():
        ax.plot(_LEVELS, observed, linewidth=1.2, label=name)
    ax.set(xlabel="nominal coverage", ylabel="observed coverage", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    if isinstance(pit, Mapping):
        ax.legend(frameon=False, fontsize=8)
    save_figure(ax, save)
    return ax


def _observed(pit: np.ndarray) -> np.ndarray:
    """Return the fraction of the values within the central interval of every level."""
    values = read.numbers("`pit`", pit).ravel()
    values = values[~np.isnan(values)]
    if not len(values) or values.min() < 0 or values.max() > 1:
        found = f"{values.min()} to {values.max()}" if len(values) else "none"
        msg = f"Expected values returned by `metrics.pit`, in [0, 1], found {found}."
        raise ValueError(msg)
    width = np.sort(2 * np.abs(values - 0.5))  # level of the narrowest interval that contains the value
    return np.searchsorted(width, _LEVELS, side="right") / len(width)
