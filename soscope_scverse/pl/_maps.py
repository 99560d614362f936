"""Maps of genes."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._arrays import columns, dense, layers_of
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._sections import Outlines, background_image, draw_positions, frame, panel_size, places, set_up


def compare(
    adata: AnnData,
    enhanced: AnnData,
    genes: Sequence[str] | str,
    *,
    truth: AnnData | None = None,
    layer: str | None = None,
    truth_layer: str | None = None,
    aggregate: Literal["sum", "mean"] = "sum",
    library_key: str | None = None,
    library_id: str | None = None,
    image: Any = None,
    image_scale: float | None = None,
    image_alpha: float = 0.5,
    cmap: str = "magma",
    alpha: float = 1.0,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Draw genes side by side: spots, enhanced subspots and, if known, the truth.

    Subspots are drawn as counts of a whole spot like them, so that all maps of a gene share one colour scale; it runs
    from 0, or the 1st percentile of the lowest map if that is negative, to the 99th percentile of the highest. Spots
    are circles of their diameter, or cells of their lattice if these leave no gaps. Subspots have their true shape:
    squares or hexagons that tile the section, circles for cells and where there is no lattice.

    Parameters
    ----------
    adata
        Spots, in the order and with the names that `enhanced` refers to.
    enhanced
        Subspots, as :func:`~soscope_scverse.tl.enhance` returns them.
    genes
        Names of the genes, one row of maps each.
    truth
        True subspots with ``obs["spot"]``.
    layer, truth_layer
        Layers of `adata` and `truth` to draw; None is ``X``.
    aggregate
        Whether a spot is the sum of its subspots (counts) or their mean (intensities), as in the model.
    library_key, library_id
        Column of ``obs`` that tells the sections, and the section to draw; needed where there are several.
    image, image_scale
        Image to draw below the maps, as of :func:`~soscope_scverse.tl.enhance`. None takes the one in
        ``uns["spatial"]`` of `adata` or `enhanced`, if there is any; False draws none.
    image_alpha
        Opacity of the image over white, 0 to 1: the colours of the maps are told apart more easily over a pale one.
    cmap
        Colour map.
    alpha
        Opacity of the maps over the image, 0 to 1.
    ax
        n_genes x 2 (with truth 3) Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        n_genes x 2, or x 3 with `truth`.

    Raises
    ------
    TypeError, ValueError
        If a section is no AnnData, a gene or layer is missing in one of them, a section has to be chosen, or `ax` has
        another shape.
    """
    check.given(compare, locals())
    check.order_of_sections(adata, enhanced)
    maps = [("spots", adata, layer), ("enhanced", enhanced, None)]
    if truth is not None:
        maps.append(("truth", truth, truth_layer))
    for argument, (_, section, of) in zip(("adata", "enhanced", "truth"), maps, strict=False):
        names = check.genes(check.anndata(section), genes, of=argument)
        check.profiles(section, of)
    shown = [places(section, library_key, library_id) for _, section, _ in maps]
    if truth is not None and not (shown[1].tile or shown[2].tile):
        shown[2] = shown[2]._replace(corners=shown[1].corners)  # true cells as wide as enhanced ones
    under = background_image([adata, enhanced], image, image_scale, library_key, library_id)
    limits = frame(shown)
    axes = panels(ax, (len(names), len(maps)), panel_size(limits), "a row for each gene")
    values = [
        _values(section, drawn, names, of) * _parts(section, drawn, aggregate)
        for (_, section, of), drawn in zip(maps, shown, strict=True)
    ]
    for i, (gene, row) in enumerate(zip(names, axes, strict=True)):
        clim = _colour_limits([of_map[:, i] for of_map in values])
        for panel, (title, *_), drawn, of_map in zip(row, maps, shown, values, strict=True):
            set_up(panel, limits, under, image_alpha, f"{gene}: {title}")
            mapped = draw_positions(panel, drawn, of_map[:, i], alpha=alpha, cmap=cmap, clim=clim)
        panel.figure.colorbar(mapped, ax=list(row), shrink=0.8, pad=0.01, label=f"{aggregate} over a spot")
    save_figure(axes[0, 0], save)
    return axes


def uncertainty(
    enhanced: AnnData,
    genes: Sequence[str] | str,
    *,
    measure: Literal["interval", "std"] = "interval",
    relative: bool = True,
    library_key: str | None = None,
    library_id: str | None = None,
    image: Any = None,
    image_scale: float | None = None,
    image_alpha: float = 0.5,
    cmap: str = "magma",
    alpha: float = 1.0,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Draw genes side by side: what is expected in every subspot, and how uncertain it is.

    Parameters
    ----------
    enhanced
        Subspots with draws, as :func:`~soscope_scverse.tl.enhance` returns them with ``n_samples`` above 0.
    genes
        Names of the genes, one row of maps each.
    measure
        ``"interval"``: the width of the 90 % interval, ``layers["q95"] - layers["q05"]``; ``"std"``: the standard
        deviation, ``layers["std"]``.
    relative
        Divide by the absolute value of what is expected. Subspots where that or the width is 0 are left out: too little
        is expected there for the draws to tell. False draws it in the units of ``X``, as fits data around 0.
    library_key, library_id, image, image_scale, image_alpha
        As of :func:`compare`.
    cmap
        Colour map of what is expected; the uncertainty is drawn in ``"viridis"``.
    alpha
        As of :func:`compare`.
    ax
        n_genes x 2 Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        n_genes x 2. Each has its own colour scale, from 0, or the 1st percentile if that is negative, to the 99th
        percentile.

    Raises
    ------
    TypeError, ValueError
        If `enhanced` is no AnnData, a gene or the layers of the draws are missing, a section has to be chosen, or `ax`
        has another shape.
    """
    check.given(uncertainty, locals())
    names = check.genes(check.anndata(enhanced), genes, of="enhanced")
    _check_draws(enhanced)
    drawn = places(enhanced, library_key, library_id)
    under = background_image([enhanced], image, image_scale, library_key, library_id)
    limits = frame([drawn])
    axes = panels(ax, (len(names), 2), panel_size(limits), "a row for each gene")
    expected = _values(enhanced, drawn, names, None)
    if measure == "std":
        spread = _values(enhanced, drawn, names, keys.STD)
    else:
        spread = _values(enhanced, drawn, names, keys.Q95) - _values(enhanced, drawn, names, keys.Q05)
    if relative:
        told = (expected != 0) & (spread != 0)
        spread = np.divide(spread, np.abs(expected), out=np.full_like(spread, np.nan), where=told)
    what = ("relative " if relative else "") + {"std": "std", "interval": "90 % interval"}[measure]
    units = "in a subspot", "share of the expected" if relative else "in a subspot"
    for i, (gene, row) in enumerate(zip(names, axes, strict=True)):
        for panel, title, unit, values, colours in zip(
            row, ("expected", what), units, (expected[:, i], spread[:, i]), (cmap, "viridis"), strict=True
        ):
            set_up(panel, limits, under, image_alpha, f"{gene}: {title}")
            mapped = draw_positions(panel, drawn, values, alpha=alpha, cmap=colours, clim=_colour_limits([values]))
            panel.figure.colorbar(mapped, ax=panel, shrink=0.8, pad=0.01, label=unit)
    save_figure(axes[0, 0], save)
    return axes


def _check_draws(enhanced: AnnData) -> None:
    missing = [name for name in (keys.STD, keys.Q05, keys.Q95) if name not in enhanced.layers]
    if missing:
        msg = (
            f"Expected the layers {missing} of draws in `enhanced.layers`, found {sorted(layers_of(enhanced))}. "
            "Draw with `tl.enhance(..., n_samples=100)` or `SoScope.get_enhanced(n_samples=100)`."
        )
        raise ValueError(msg)


def _values(adata: AnnData, drawn: Outlines, genes: list[str], layer: str | None) -> np.ndarray:
    """Profiles of the places that are drawn, n_places x n_genes."""
    x = columns(check.profiles(adata, layer), adata.var_names.get_indexer(genes))
    return dense(x[drawn.rows]).astype(float)


def _parts(adata: AnnData, drawn: Outlines, aggregate: str) -> np.ndarray | float:
    """How many subspots the spot of every subspot has, where they add up; n_places x 1."""
    if aggregate == "mean" or keys.SPOT not in adata.obs:
        return 1.0
    spot = adata.obs[keys.SPOT].iloc[drawn.rows].astype("category").cat.codes.to_numpy()
    return np.bincount(spot)[spot][:, None].astype(float)


def _colour_limits(values: list[np.ndarray]) -> tuple[float, float]:
    """Ends of the colour scale that maps share."""
    finite = [of_map[np.isfinite(of_map)] for of_map in values]
    ends = [np.quantile(of_map, (0.01, 0.99)) for of_map in finite if len(of_map)] or [np.zeros(2)]
    low, high = float(min(0.0, np.min(ends))), float(np.max(ends))
    return low, high if high > low else low + 1
