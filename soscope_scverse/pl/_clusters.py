"""Maps of clusters."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from soscope_scverse import _validation as check
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._sections import background_image, draw_positions, frame, panel_size, places, set_up


def spatial_clusters(
    enhanced: AnnData,
    key: str = "leiden",
    *,
    spots: AnnData | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    image: Any = None,
    image_scale: float | None = None,
    image_alpha: float = 0.5,
    alpha: float = 1.0,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Draw clusters of the subspots in their true shape, beside those of the spots if they are given.

    Parameters
    ----------
    enhanced
        Subspots with categories in ``obs[key]``; NaN is left out. Colours are those of ``uns[f"{key}_colors"]``, else
        those that scanpy would choose.
    key
        Column of ``obs``.
    spots
        Spots with the same column; categories of the same name have the same colour.
    library_key, library_id, image, image_scale, image_alpha, alpha
        As of :func:`compare`.
    ax
        1 Axes, or 2 with `spots`, to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        1, or 2 with `spots`.

    Raises
    ------
    TypeError, ValueError
        If a section is no AnnData, the column is missing or holds no categories, a section has to be chosen, or there
        are more or less Axes.
    """
    check.given(spatial_clusters, locals())
    check.text("key", key)
    maps = {"enhanced": enhanced} if spots is None else {"spots": spots, "enhanced": enhanced}
    labels = {name: _labels(check.anndata(section), key) for name, section in maps.items()}
    colours: dict[str, Any] = {}
    for name in reversed(maps):
        colours = _colours(maps[name], key, labels[name].categories) | colours
    shown = {name: places(section, library_key, library_id) for name, section in maps.items()}
    under = background_image(list(maps.values()), image, image_scale, library_key, library_id)
    limits = frame(list(shown.values()))
    axes = panels(ax, (len(maps),), panel_size(limits, 4.5), "one for each of " + " and ".join(maps))
    names, of_code = list(colours), ListedColormap(list(colours.values()))
    for panel, (name, drawn) in zip(axes, shown.items(), strict=True):
        set_up(panel, limits, under, image_alpha, f"{key}: {name}")
        code = pd.Index(names).get_indexer(labels[name].astype(object)[drawn.rows]).astype(float)
        code[code < 0] = np.nan
        draw_positions(panel, drawn, code, alpha=alpha, cmap=of_code, clim=(-0.5, len(names) - 0.5))
    handles = [Patch(color=colours[name], label=name) for name in names]
    options = {"frameon": False, "fontsize": 8, "ncols": 1 + (len(names) - 1) // 18}
    axes[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), **options)
    save_figure(axes[0], save)
    return axes


def _labels(adata: AnnData, key: str) -> pd.Categorical:
    if key not in adata.obs:
        msg = f"Expected `key` to be a column of `adata.obs`, found {key!r}; there are {list(adata.obs)}."
        raise ValueError(msg)
    column = adata.obs[key]
    if column.dtype.kind == "f":
        msg = (
            f"Expected categories in `adata.obs[{key!r}]`, found {column.dtype}. Cut it into classes, e.g. with "
            "`pandas.cut`, or draw it with `squidpy.pl.spatial_scatter`."
        )
        raise ValueError(msg)
    labels = column.astype("category").cat
    return labels.rename_categories(labels.categories.astype(str)).array


def _colours(adata: AnnData, key: str, categories: pd.Index) -> dict[str, Any]:
    """Colours of the categories: those in ``uns``, else those of scanpy for that many."""
    stored = adata.uns.get(f"{key}_colors", ())
    if len(stored) >= len(categories):
        return dict(zip(categories, stored, strict=False))
    from scanpy.plotting import palettes

    cycle = rcParams["axes.prop_cycle"].by_key()["color"]
    choices = [cycle, palettes.default_20, palettes.default_28, palettes.default_102]
    fitting = [choice for choice in choices if len(choice) >= len(categories)]
    return dict(zip(categories, fitting[0] if fitting else ["grey"] * len(categories), strict=False))
