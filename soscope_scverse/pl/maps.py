"""Maps of spots and subspots."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._arrays import dense
from soscope_scverse.pp.graphs import nearest_distance


def compare(
    adata: AnnData,
    enhanced: AnnData,
    genes: Sequence[str] | str,
    *,
    truth: AnnData | None = None,
    layer: str | None = None,
    truth_layer: str | None = None,
    aggregate: Literal["sum", "mean"] = "sum",
    cmap: str = "magma",
    ax: np.ndarray | None = None,
    save: str | PathLike | None = None,
) -> np.ndarray:
    """Draw genes side by side: spots, enhanced subspots and, if known, the truth.

    Subspots are drawn as counts of a whole spot like them, so that all maps of a gene share one colour scale; it runs
    from 0, or the 1st percentile of the lowest map if that is negative, to the 99th percentile of the highest.

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
    cmap
        Colour map.
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
    ValueError
        If a gene is missing in one of the sections, or `ax` has another shape.
    """
    maps = [("spots", adata, layer), ("enhanced", enhanced, None)]
    if truth is not None:
        maps.append(("truth", truth, truth_layer))
    for _, section, _ in maps:
        genes = check.genes(section, genes)
    shape = (len(genes), len(maps))
    if ax is None:
        _, ax = plt.subplots(*shape, figsize=(3.6 * shape[1], 3.2 * shape[0]), squeeze=False, layout="constrained")
    ax = np.asarray(ax)
    if ax.shape != shape:
        msg = f"Expected `ax` to be {shape[0]} x {shape[1]} Axes, found shape {ax.shape}."
        raise ValueError(msg)
    for row, gene in zip(ax, genes, strict=True):
        values = [_per_spot(section, gene, of, aggregate) for _, section, of in maps]
        limits = _colour_limits(values)
        for axes, (title, section, _), value in zip(row, maps, values, strict=True):
            drawn = _draw_map(axes, section, value, cmap, limits)
            axes.set_title(f"{gene}: {title}", fontsize=10)
        axes.figure.colorbar(drawn, ax=row[-1], shrink=0.8)
    if save is not None:
        ax[0, 0].figure.savefig(save, dpi=150)
    return ax


def _per_spot(adata: AnnData, gene: str, layer: str | None, aggregate: str) -> np.ndarray:
    """Values of a gene; amounts in subspots times the number of subspots in their spot."""
    x = check.matrix(adata, layer)
    value = dense(x[:, adata.var_names.get_indexer([gene])]).ravel().astype(float)
    if aggregate == "sum" and keys.SPOT in adata.obs:
        value *= adata.obs.groupby(keys.SPOT, observed=True)[keys.SPOT].transform("size").to_numpy()
    return value


def _colour_limits(values: list[np.ndarray]) -> tuple[float, float]:
    """Ends of the colour scale that the maps of a gene share."""
    low = min(0.0, *(float(np.quantile(v, 0.01)) for v in values))
    high = max(float(np.quantile(v, 0.99)) for v in values)
    return low, high if high > low else low + 1


def _draw_map(ax: Axes, adata: AnnData, value: np.ndarray, cmap: str, limits: tuple[float, float]) -> EllipseCollection:
    """Circles in data units at the positions, y pointing down as in a picture."""
    xy = check.positions(adata)
    size = np.full(len(xy), nearest_distance(xy))
    circles = EllipseCollection(size, size, np.zeros(len(xy)), units="xy", offsets=xy, offset_transform=ax.transData)
    circles.set(array=value, cmap=cmap, clim=limits, linewidth=0)
    ax.add_collection(circles)
    margin = size[0]
    ax.set(
        xlim=(xy[:, 0].min() - margin, xy[:, 0].max() + margin), ylim=(xy[:, 1].max() + margin, xy[:, 1].min() - margin)
    )
    ax.set(aspect="equal", xticks=[], yticks=[])
    return circles
