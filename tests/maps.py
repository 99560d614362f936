"""What maps are made of, and what is on them."""

import numpy as np
from anndata import AnnData
from matplotlib.collections import PathCollection, PolyCollection

from soscope_scverse import pp
from soscope_scverse.model.inference.result import result_frame


def result(adata: AnnData, library_key: str | None = None, **subspots) -> AnnData:
    """Subspots of any spots, with profiles and draws that are easy to tell apart."""
    adata = pp.subspots(adata, library_key=library_key, copy=True, **subspots)
    uns = {"soscope": {"geometry": adata.uns["subspots"]}}
    enhanced = result_frame(adata, features_key=None, library_key=library_key, uns=uns)
    enhanced.X = np.arange(enhanced.n_obs * enhanced.n_vars, dtype=float).reshape(enhanced.shape)
    enhanced.layers.update({"std": enhanced.X / 4, "q05": enhanced.X / 2, "q95": enhanced.X * 3})
    return enhanced


def drawn(ax) -> PolyCollection:
    [shapes] = [artist for artist in ax.collections if isinstance(artist, PolyCollection)]
    return shapes


def outlines(ax) -> list[PathCollection]:
    """Outlines of the capture areas."""
    return [artist for artist in ax.collections if isinstance(artist, PathCollection)]


def colours(ax) -> np.ndarray:
    ax.figure.canvas.draw()
    return drawn(ax).get_facecolors()
