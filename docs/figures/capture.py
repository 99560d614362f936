"""Draws the figures of ``docs/capture.md``: ``python docs/figures/capture.py``, about a minute on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _png import shrink
from anndata import AnnData

from soscope_scverse import datasets, pl, pp, tl
from soscope_scverse.model.inference.result import result_frame
from soscope_scverse.pl._sections import (
    captured_of_section,
    draw_captured,
    draw_shapes,
    prepare_panel,
    shapes_of_section,
)

STATIC = Path(__file__).parents[1] / "_static"
PLATFORMS: dict[str, dict[str, Any]] = {  # positions in micrometres
    "Visium\ncircles of 55 µm, pitch 100 µm": {"lattice": "hex", "pitch": 100, "capture": 55},
    "Visium, 19 subspots\ncircles of 55 µm, pitch 100 µm": {
        "lattice": "hex",
        "pitch": 100,
        "capture": 55,
        "n_subspots": 19,
    },
    "Spatial Transcriptomics\ncircles of 100 µm, pitch 200 µm": {"lattice": "square", "pitch": 200, "capture": 100},
    "DBiT-seq\nsquares of 25 µm, pitch 50 µm": {
        "lattice": "square",
        "pitch": 50,
        "capture": 25,
        "capture_shape": "square",
    },
}


def subspots(lattice: str, pitch: float, **partition: Any) -> tuple[AnnData, AnnData]:
    """Spots of a small section, and their subspots without profiles."""
    side = np.arange(3.0)
    u, v = (grid.ravel() for grid in np.meshgrid(side, side))
    xy = np.column_stack([u + v % 2 / 2, v * 3**0.5 / 2]) if lattice == "hex" else np.column_stack([u, v])
    spots = AnnData(np.ones((len(xy), 1), np.float32), obsm={"spatial": pitch * xy})
    pp.subspots(spots, **partition)
    uns = {"soscope": {"geometry": spots.uns["subspots"]}}
    return spots, result_frame(spots, features_key=None, library_key=None, uns=uns)


def draw_platforms() -> None:
    """Draw the measured share of every subspot of several platforms."""
    figure, axes = plt.subplots(1, len(PLATFORMS), figsize=(11, 3.2), layout="constrained")
    for ax, (title, platform) in zip(axes, PLATFORMS.items(), strict=True):
        spots, parts = subspots(**platform)
        shapes, centre = shapes_of_section(parts, None, None), spots.obsm["spatial"][4]
        prepare_panel(ax, (centre - 0.9 * platform["pitch"], centre + 0.9 * platform["pitch"]), None, 1, title)
        measured = parts.obs["measured"].to_numpy()
        drawn = draw_shapes(ax, shapes, measured, alpha=1, cmap="Blues", clim=(0, 1))
        drawn.set(edgecolor="grey", linewidth=0.4, antialiased=True)
        draw_captured(ax, captured_of_section(parts, spots, None, None))
        of_one = parts.obs["spot"].to_numpy() == spots.obs_names[4]
        for (x, y), share in zip(shapes.positions[of_one], measured[of_one], strict=True):
            colour = "white" if share > 0.5 else "black"
            ax.text(x, y, f"{100 * share:.0f} %", ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(drawn, ax=list(axes), shrink=0.8, pad=0.01, label="share that was measured")
    figure.savefig(STATIC / "capture.png", dpi=120)


def draw_maps() -> None:
    """Enhance a synthetic section with gaps, and draw a gene."""
    adata, image, truth = datasets.synthetic_section(100, capture=19.8)
    enhanced = tl.enhance(adata, image=image, train_kwargs={"enable_progress_bar": False})
    genes = adata.var_names[adata.var["kind"] == "region"]
    gene = adata[:, genes].to_df().sum().idxmax()
    path = STATIC / "capture_maps.png"
    pl.compare(adata, enhanced, gene, truth=truth, truth_layer="mean", image=image, save=path)
    shrink(path)


if __name__ == "__main__":
    mpl.use("agg")
    draw_platforms()
    draw_maps()
