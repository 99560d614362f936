"""Maps of clusters."""

from __future__ import annotations

from os import PathLike
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from soscope_scverse import _read as read
from soscope_scverse._validators import FRACTION, POSITIVE, Rules, check_arguments, check_text
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._sections import (
    IMAGE_ALPHA,
    axis_limits,
    background_image,
    captured_of_section,
    draw_shapes,
    map_alpha,
    panel_size,
    prepare_panel,
    shapes_side_by_side,
)

_ROWS_OF_LEGEND = 18
_COLUMN_OF_LEGEND, _LETTER = 0.55, 0.08
"""Width of a column of the legend without its text, and of a letter, in inches."""
_RULES: Rules = {"image_scale": POSITIVE.or_(None), "image_alpha": FRACTION, "alpha": FRACTION.or_(None)}


def spatial_clusters(
    enhanced: AnnData,
    key: str = "leiden",
    *,
    spots: AnnData | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    image: Any = None,
    image_scale: float | None = None,
    image_alpha: float = IMAGE_ALPHA,
    alpha: float | None = None,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot clusters of subspots in their true shape, beside the clusters of the spots if `spots` is given.

    Parameters
    ----------
    enhanced
        Subspots with categories in ``obs[key]``; subspots with NaN are not drawn. Colours are those in
        ``uns[f"{key}_colors"]`` if present, otherwise those of matplotlib's property cycle, of the colour map ``tab20``
        for more categories than that has, or of ``turbo`` for more than 20.
    key
        Column of ``obs``.
    spots
        Spots with the same column. Categories of the same name have the same colour.
    library_key, library_id, image, image_scale, image_alpha, alpha
        See :func:`compare`.
    ax
        Axes to draw on: 1, or 2 with `spots`.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        1, or 2 with `spots`.

    Raises
    ------
    TypeError, ValueError
        If a section is not an AnnData, the column is missing or not categorical, `library_id` is required, or the
        number of Axes is wrong.
    """
    check_arguments(locals(), _RULES)
    check_text("key", key)
    maps = {"enhanced": enhanced} if spots is None else {"spots": spots, "enhanced": enhanced}
    labels = {name: _labels(read.read_anndata(adata), key) for name, adata in maps.items()}
    colours: dict[str, Any] = {}
    for name in reversed(maps):
        colours = _colours(maps[name], key, labels[name].categories) | colours
    captured = captured_of_section(enhanced, spots, library_key, library_id)
    drawn = shapes_side_by_side(list(maps.values()), len(maps) - 1, captured, library_key, library_id)
    sections = dict(zip(maps, drawn, strict=True))
    background = background_image(list(maps.values()), image, image_scale, library_key, library_id)
    alpha = map_alpha(alpha, background)
    limits = axis_limits(list(sections.values()))
    names, cmap = list(colours), ListedColormap(list(colours.values()))
    n_columns = 1 + (len(names) - 1) // _ROWS_OF_LEGEND
    width, height = panel_size(limits, 4.5)
    if n_columns > 1:  # a legend of one column leaves the panels large enough
        width += n_columns * (_COLUMN_OF_LEGEND + _LETTER * max(map(len, names))) / len(maps)
    axes = panels(ax, (len(maps),), (width, height), "one for each of " + " and ".join(maps))
    for panel, (name, shapes) in zip(axes, sections.items(), strict=True):
        prepare_panel(panel, limits, background, image_alpha, f"{key}: {name}")
        code = pd.Index(names).get_indexer(labels[name].astype(object)[shapes.rows]).astype(float)
        code[code < 0] = np.nan
        draw_shapes(panel, shapes, code, alpha=alpha, cmap=cmap, clim=(-0.5, len(names) - 0.5))
    if ax is None:
        axes[-1].set_anchor("W")  # unused width of the panel is left to the legend
    handles = [Patch(color=colours[name], label=name) for name in names]
    options = {"frameon": False, "fontsize": 8, "ncols": n_columns}
    axes[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), **options)
    save_figure(axes[0], save)
    return axes


def _labels(adata: AnnData, key: str) -> pd.Categorical:
    """Return the categories of ``obs[key]`` as strings."""
    if key not in adata.obs:
        msg = f"Expected `key` to be a column of `adata.obs`, found {key!r}; there are {list(adata.obs)}."
        raise ValueError(msg)
    column = adata.obs[key]
    if column.dtype.kind == "f":
        msg = (
            f"Expected categories in `adata.obs[{key!r}]`, found {column.dtype}. Bin the values, e.g. with "
            "`pandas.cut`, or plot them with `squidpy.pl.spatial_scatter`."
        )
        raise ValueError(msg)
    labels = column.astype("category").cat
    return labels.rename_categories(labels.categories.astype(str)).array


def _colours(adata: AnnData, key: str, categories: pd.Index) -> dict[str, Any]:
    """Return the colours of the categories: those in ``uns``, or a palette of that many."""
    stored = adata.uns.get(f"{key}_colors", ())
    palette = stored if len(stored) >= len(categories) else _palette(len(categories))
    return dict(zip(categories, palette, strict=False))


def _palette(n: int) -> list[Any]:
    """Return at least `n` distinct colours."""
    cycle = rcParams["axes.prop_cycle"].by_key().get("color", [])
    if n <= len(cycle):
        return cycle
    if n <= 20:
        paired = plt.get_cmap("tab20")
        return [paired(i) for i in [*range(0, 20, 2), *range(1, 20, 2)]]  # dark colours first
    return list(plt.get_cmap("turbo", n)(np.arange(n)))
