"""Draws the figure of the README: ``python docs/figures/section.py``, about a minute, with ``../shared/data``."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
from _png import shrink

from soscope_scverse import bench, pl, pp, tl

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", ROOT.parent / "shared" / "data")) / "mouse_ob"
GENES = ["Penk", "Doc2g"]
"""Markers of the granule cell layer, and of mitral and tufted cells."""


def main() -> None:
    """Merge the spots of a mouse olfactory bulb 2 x 2, enhance them, and compare with the spots that were merged."""
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(DATA / "MOB1.h5ad"))
    genes = list(dict.fromkeys([*GENES, *pp.spatial_genes(truth, 500)]))
    image = DATA / "MOB1_HE.jpg"
    enhanced = tl.enhance(low, image=image, genes=genes, train_kwargs={"enable_progress_bar": False})
    path = ROOT / "docs" / "_static" / "section.png"
    pl.compare(low, enhanced, GENES, truth=truth, image=image, save=path)
    shrink(path)


if __name__ == "__main__":
    main()
