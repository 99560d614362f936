"""Axes to draw on, and the files that figures are saved to."""

from __future__ import annotations

from os import PathLike
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

_DPI = 150


def panels(
    ax: Any, shape: tuple[int, ...], size: tuple[float, float], what: str, *, in_column: bool = False
) -> np.ndarray:
    """Return the Axes passed by the user as an array of this shape, or the Axes of a new figure.

    Parameters
    ----------
    ax
        Axes, an array of Axes or nested lists of Axes; None creates a figure.
    shape
        (n_panels,) or (n_rows, n_columns).
    size
        Width and height of a new panel in inches.
    what
        Meaning of the Axes, for the error message.
    in_column
        Arrange n_panels in a column with a shared x axis instead of in a row.
    """
    if ax is None:
        n_rows, n_columns = (*shape, 1) if in_column else (1, *shape)[-2:]
        size = (size[0] * n_columns, size[1] * n_rows)
        _, ax = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained", sharex=in_column)
        return ax.reshape(shape)
    given = np.asarray(ax, dtype=object)
    if shape == (1,) * len(shape) and given.ndim == 0:
        given = given.reshape(shape)
    if given.shape != shape:
        wanted = " x ".join(map(str, shape))
        msg = f"Expected `ax` to be {wanted} Axes, found shape {given.shape}. Pass {what}, or None for a new figure."
        raise ValueError(msg)
    wrong = [type(one).__name__ for one in given.ravel() if not isinstance(one, Axes)]
    if wrong:
        msg = f"Expected `ax` to be matplotlib Axes, found {wrong[0]}. Pass {what}, or None for a new figure."
        raise TypeError(msg)
    return given


def save_figure(ax: Axes, save: str | PathLike | None) -> None:
    """Save the figure that contains these Axes unless `save` is None."""
    if save is not None:
        ax.figure.figure.savefig(save, dpi=_DPI)  # of a subfigure, the whole figure
