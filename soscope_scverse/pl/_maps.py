"""Maps of genes."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import columns, dense, layers_of
from soscope_scverse._validators import (
    FRACTION,
    POSITIVE,
    Choice,
    Rules,
    check_arguments,
    check_spots_before_subspots,
)
from soscope_scverse.pl._figures import panels, save_figure
from soscope_scverse.pl._sections import (
    IMAGE_ALPHA,
    Shapes,
    axis_limits,
    background_image,
    captured_of_section,
    draw_captured,
    draw_scale_bar,
    draw_shapes,
    map_alpha,
    microns_per_pixel,
    panel_size,
    prepare_panel,
    shapes_of_section,
    shapes_side_by_side,
)
from soscope_scverse.pp._outlines import measured_of

_UNITS = {"sum": "counts per spot area", "mean": "mean intensity"}
"""Labels of the colour bars, by aggregate."""
_MAP_RULES: Rules = {"image_scale": POSITIVE.or_(None), "image_alpha": FRACTION, "alpha": FRACTION.or_(None)}
_COMPARE_RULES: Rules = {**_MAP_RULES, "aggregate": Choice(("sum", "mean"))}
_UNCERTAINTY_RULES: Rules = {**_MAP_RULES, "measure": Choice(("interval", "std"))}


def compare(
    adata: AnnData,
    enhanced: AnnData,
    genes: Sequence[str] | str,
    *,
    truth: AnnData | None = None,
    layer: str | None = None,
    truth_layer: str | None = None,
    enhanced_layer: str | None = "auto",
    aggregate: Literal["sum", "mean"] = "sum",
    library_key: str | None = None,
    library_id: str | None = None,
    image: Any = None,
    image_scale: float | None = None,
    image_alpha: float = IMAGE_ALPHA,
    cmap: str = "magma",
    alpha: float | None = None,
    show_capture: bool = True,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot genes side by side: spots, enhanced subspots and, if known, the truth.

    Of the enhanced subspots, the denoised profiles are shown if `enhanced` has them: conditional ones contain the
    counting noise of the spots, so the borders of the spots are visible.

    Subspots are shown in counts per spot area, so that all maps of a gene share one colour scale. The scale runs from
    0, or the 1st percentile of the lowest map if that is negative, to the 99th percentile of the highest. Subspots have
    their true shape: squares or hexagons that tile the section, or circles for cells and positions without a lattice.
    Spots beside tiles are the cells of their lattice, otherwise circles. Where spots lie off their lattice, tiles are
    extended until no slits remain.

    Where spots captured a part of the tissue only (`capture` of :func:`~soscope_scverse.tl.enhance`), their area is
    that of what they captured. It is outlined: what lies between the outlines was predicted.

    With an image, the new figure begins with the image alone. A scale bar is drawn where the size of a pixel is known:
    from ``scalefactors["microns_per_pixel"]`` in ``uns["spatial"]``, the image file, or the spots of Space Ranger.

    Parameters
    ----------
    adata
        Spots.
    enhanced
        Subspots returned by :func:`~soscope_scverse.tl.enhance`.
    genes
        Names of the genes, one row of maps each.
    truth
        True subspots with ``obs["spot"]``.
    layer, truth_layer
        Layers of `adata` and `truth` to plot. Default: ``X``.
    enhanced_layer
        Layer of `enhanced` to plot; None is ``X``. ``"auto"``: ``layers["denoised"]`` if present, else ``X``.
    aggregate
        Whether a spot is the sum of its subspots (counts) or their mean (intensities), as in the model.
    library_key, library_id
        Column of ``obs`` with the sections, and the section to plot. Required if there are several sections.
    image, image_scale
        Image to draw below the maps, see :func:`~soscope_scverse.tl.enhance`. None uses the image in ``uns["spatial"]``
        of `adata` or `enhanced` if there is one; False draws no image.
    image_alpha
        Opacity of the image over white, 0 to 1. Colours of the maps are easier to distinguish over a pale image.
    cmap
        Colour map.
    alpha
        Opacity of the maps over the image, 0 to 1. Default: 0.6 over an image, so that it remains visible, otherwise 1.
    show_capture
        Outline the capture area of every spot, if `enhanced` has one.
    ax
        n_genes x 2 (with truth 3) Axes to draw the maps on, without the panel of the image.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        n_genes x 2, or x 3 with `truth`: those of the maps.

    Raises
    ------
    TypeError, ValueError
        If a section is not an AnnData or lacks a gene or layer, `library_id` is required, or `ax` has a different
        shape.
    """
    check_arguments(locals(), _COMPARE_RULES)
    if enhanced_layer == "auto":
        enhanced_layer = keys.DENOISED if keys.DENOISED in layers_of(read.read_anndata(enhanced)) else None
    maps = [("spots", adata, layer), (enhanced_layer or "enhanced", enhanced, enhanced_layer)]
    if truth is not None:
        maps.append(("truth", truth, truth_layer))
    for argument, (_, section, of) in zip(("adata", "enhanced", "truth"), maps, strict=False):
        names = read.genes(read.read_anndata(section), genes, of=argument)
        read.positions(section)
        read.profiles(section, of)
    check_spots_before_subspots(adata, enhanced)
    captured = captured_of_section(enhanced, adata, library_key, library_id)
    sections = shapes_side_by_side([section for _, section, _ in maps], 1, captured, library_key, library_id)
    if truth is not None and not (sections[1].tiles or sections[2].tiles):
        sections[2] = sections[2]._replace(corners=sections[1].corners)  # true cells as wide as enhanced ones
    background = background_image([adata, enhanced], image, image_scale, library_key, library_id)
    limits = axis_limits(sections)
    beside = 1 if ax is None and background is not None else 0  # the image alone
    axes = panels(ax, (len(names), beside + len(maps)), panel_size(limits), "a row for each gene")
    for panel in axes[:, :beside].ravel():
        prepare_panel(panel, limits, background, 1, "image")
    draw_scale_bar(axes[0, 0], limits, microns_per_pixel(adata, background, library_key, library_id))
    axes, alpha = axes[:, beside:], map_alpha(alpha, background)
    share = measured_of(enhanced)[sections[1].rows].mean()
    values = [
        _values(section, shapes, names, of) * _subspots_per_spot(section, shapes, aggregate, share)
        for (_, section, of), shapes in zip(maps, sections, strict=True)
    ]
    for i, (gene, row) in enumerate(zip(names, axes, strict=True)):
        clim = _colour_limits([of_map[:, i] for of_map in values])
        for panel, (title, *_), shapes, of_map in zip(row, maps, sections, values, strict=True):
            prepare_panel(panel, limits, background, image_alpha, f"{gene}: {title}")
            mapped = draw_shapes(panel, shapes, of_map[:, i], alpha=alpha, cmap=cmap, clim=clim)
            draw_captured(panel, captured if show_capture else None)
        bar = panel.figure.colorbar(mapped, ax=list(row), shrink=0.8, pad=0.01, label=_UNITS[aggregate])
        bar.solids.set_alpha(alpha)
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
    image_alpha: float = IMAGE_ALPHA,
    cmap: str = "magma",
    alpha: float | None = None,
    show_capture: bool = True,
    ax: np.ndarray | Axes | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Plot genes side by side: the expectation of every subspot and its uncertainty.

    Parameters
    ----------
    enhanced
        Subspots returned by :func:`~soscope_scverse.tl.enhance` with ``n_samples`` above 0.
    genes
        Names of the genes, one row of maps each.
    measure
        ``"interval"``: the width of the 90 % interval, ``layers["q95"] - layers["q05"]``; ``"std"``: the standard
        deviation, ``layers["std"]``.
    relative
        Divide by the absolute value of the expectation. Subspots whose expectation or interval width is 0 are not
        drawn. False shows the uncertainty in the units of ``X``, which suits data centred on 0.
    library_key, library_id, image, image_scale, image_alpha
        See :func:`compare`.
    cmap
        Colour map of the expectation. The uncertainty is shown in ``"viridis"``.
    alpha, show_capture
        See :func:`compare`. Capture areas are outlined if the subspots lie on a lattice: beside cells, the positions of
        the spots are not recorded.
    ax
        n_genes x 2 Axes to draw on.
    save
        File to save the figure to.

    Returns
    -------
    numpy.ndarray of Axes
        n_genes x 2. Each map has its own colour scale, from 0, or the 1st percentile if that is negative, to the 99th
        percentile.

    Raises
    ------
    TypeError, ValueError
        If `enhanced` is not an AnnData, or lacks a gene or the layers of the posterior samples, `library_id` is
        required, or `ax` has a different shape.
    """
    check_arguments(locals(), _UNCERTAINTY_RULES)
    names = read.genes(read.read_anndata(enhanced), genes, of="enhanced")
    _check_sample_layers(enhanced)
    shapes = shapes_of_section(enhanced, library_key, library_id)
    captured = captured_of_section(enhanced, None, library_key, library_id) if show_capture else None
    background = background_image([enhanced], image, image_scale, library_key, library_id)
    limits, alpha = axis_limits([shapes]), map_alpha(alpha, background)
    axes = panels(ax, (len(names), 2), panel_size(limits), "a row for each gene")
    expected = _values(enhanced, shapes, names, None)
    if measure == "std":
        spread = _values(enhanced, shapes, names, keys.STD)
    else:
        spread = _values(enhanced, shapes, names, keys.Q95) - _values(enhanced, shapes, names, keys.Q05)
    if relative:
        defined = (expected != 0) & (spread != 0)
        spread = np.divide(spread, np.abs(expected), out=np.full_like(spread, np.nan), where=defined)
    what = ("relative " if relative else "") + {"std": "std", "interval": "90 % interval"}[measure]
    units = "per subspot", "fraction of the expectation" if relative else "per subspot"
    for i, (gene, row) in enumerate(zip(names, axes, strict=True)):
        for panel, title, unit, values, colours in zip(
            row, ("expected", what), units, (expected[:, i], spread[:, i]), (cmap, "viridis"), strict=True
        ):
            prepare_panel(panel, limits, background, image_alpha, f"{gene}: {title}")
            mapped = draw_shapes(panel, shapes, values, alpha=alpha, cmap=colours, clim=_colour_limits([values]))
            draw_captured(panel, captured)
            panel.figure.colorbar(mapped, ax=panel, shrink=0.8, pad=0.01, label=unit).solids.set_alpha(alpha)
    save_figure(axes[0, 0], save)
    return axes


def _check_sample_layers(enhanced: AnnData) -> None:
    """Raise a ValueError unless the result has the layers of the posterior samples."""
    missing = [name for name in (keys.STD, keys.Q05, keys.Q95) if name not in enhanced.layers]
    if missing:
        msg = (
            f"Expected the layers {missing} of posterior samples in `enhanced.layers`, found "
            f"{sorted(layers_of(enhanced))}. Sample with `tl.enhance(..., n_samples=100)` or "
            "`SoScope.get_enhanced(n_samples=100)`."
        )
        raise ValueError(msg)


def _values(adata: AnnData, shapes: Shapes, genes: list[str], layer: str | None) -> np.ndarray:
    """Return the profiles of the shapes, n_shapes x n_genes."""
    x = columns(read.profiles(adata, layer), adata.var_names.get_indexer(genes))
    return dense(x[shapes.rows]).astype(float)


def _subspots_per_spot(adata: AnnData, shapes: Shapes, aggregate: str, share: float) -> np.ndarray | float:
    """Return how many subspots are as large as what their spot captured, n_shapes x 1; 1 if they do not add up.

    That is their number where spots tile the tissue, and the sum of the shares that were captured where they do not.
    True subspots do not record it: `share` is that of the enhanced ones.
    """
    if aggregate == "mean" or keys.SPOT not in adata.obs:
        return 1.0
    spot = adata.obs[keys.SPOT].iloc[shapes.rows].astype("category").cat.codes.to_numpy()
    if keys.MEASURED_SHARE in adata.obs:
        measured = measured_of(adata)[shapes.rows]
    else:
        measured = np.full(len(spot), share)
    captured = np.bincount(spot, measured)
    captured[captured == 0] = share * np.bincount(spot)[captured == 0]  # spots that captured no cell
    return captured[spot][:, None]


def _colour_limits(values: list[np.ndarray]) -> tuple[float, float]:
    """Return the ends of the colour scale shared by maps."""
    finite = [of_map[np.isfinite(of_map)] for of_map in values]
    ends = [np.quantile(of_map, (0.01, 0.99)) for of_map in finite if len(of_map)] or [np.zeros(2)]
    low, high = float(min(0.0, np.min(ends))), float(np.max(ends))
    return low, high if high > low else low + 1
