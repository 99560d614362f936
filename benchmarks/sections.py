"""Transfer to unseen sections: her2st C4 enhanced by a model trained on C2 and C3, and by a model trained on all three.

``python benchmarks/sections.py``; real sections are read from ``../shared/data`` or the folder in
``SOSCOPE_TEST_DATA``. Spots are merged 2 x 2. The table contains medians over 60 genes (`pp.spatial_genes` of the truth
of C4, among the genes present in all sections), scored on C4.
"""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from soscope_scverse import bench, im, metrics, pp

DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "her2st"
SECTIONS = ("C2", "C3", "C4")
SCORED = "C4"
N_GENES = 60
LIBRARY_KEY = "library_id"

RUNS: dict[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "C4 alone": (("C4",), {}),
    "C2 + C3, C4 unseen": (("C2", "C3"), {}),
    "C2 + C3 + C4": (("C2", "C3", "C4"), {}),
    "C2 + C3, C4 unseen, batches": (("C2", "C3"), {"batch_key": LIBRARY_KEY}),
    "C2 + C3 + C4, batches": (("C2", "C3", "C4"), {"batch_key": LIBRARY_KEY}),
}
"""Training sections and arguments of `SoScope.setup_anndata`."""


class Merged(NamedTuple):
    """A merged section, its truth and its image."""

    low: ad.AnnData
    truth: ad.AnnData
    image: Any


def merged_sections(*, normalized: bool) -> dict[str, Merged]:
    """All sections restricted to the scored genes; stains optionally normalised to the image of C2."""
    whole = {name: ad.read_h5ad(DATA / f"{name}.h5ad") for name in SECTIONS}
    common = [gene for gene in whole[SCORED].var_names if all(gene in adata.var_names for adata in whole.values())]
    merged = {name: bench.simulate_low_resolution(adata[:, common].copy()) for name, adata in whole.items()}
    genes = pp.spatial_genes(merged[SCORED].truth, N_GENES)
    images: dict[str, Any] = {name: DATA / f"{name}_HE.jpg" for name in SECTIONS}
    if normalized:
        reference = im.open_image(images[SECTIONS[0]])
        images = {name: im.normalize_stain(image, reference) for name, image in images.items()}
    return {
        name: Merged(low[:, genes].copy(), truth[:, genes].copy(), images[name])
        for name, (low, truth) in merged.items()
    }


def spots_of(names: Iterable[str], merged: Mapping[str, Merged], *, image: bool) -> ad.AnnData:
    """Merged spots of the named sections with all slots required by the model."""
    chosen = {name: merged[name] for name in names}
    spots = ad.concat(
        {name: one.low for name, one in chosen.items()}, label=LIBRARY_KEY, index_unique="-", merge="same"
    )
    spots.uns["spatial"] = {name: next(iter(one.low.uns["spatial"].values())) for name, one in chosen.items()}
    pp.spot_graph(spots, library_key=LIBRARY_KEY)
    if image:
        im.features(spots, {name: one.image for name, one in chosen.items()}, library_key=LIBRARY_KEY)
    return spots


def enhanced(run: str, seed: int, merged: Mapping[str, Merged], *, image: bool) -> np.ndarray:
    """Enhanced profiles of C4 by one run."""
    import torch

    from soscope_scverse import SoScope

    names, setup = RUNS[run]
    spots, scored = spots_of(names, merged, image=image), spots_of([SCORED], merged, image=image)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SoScope.setup_anndata(spots, library_key=LIBRARY_KEY, **setup)
        model = SoScope(spots)
        model.train(enable_progress_bar=False)
    return model.get_enhanced(scored).X


def scores(values: np.ndarray, truth: ad.AnnData) -> dict[str, float]:
    expected = truth.X.toarray()
    return {
        "pearson": float(np.nanmedian(metrics.pearson(values, expected))),
        "within_r": float(np.nanmedian(metrics.within_r(values, expected, truth.obs["spot"]))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--normalize-stain", action="store_true", help="normalise the stain of all images to C2")
    parser.add_argument("--no-image", action="store_true")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    merged = merged_sections(normalized=args.normalize_stain)
    truth = merged[SCORED].truth
    rows = [
        {"run": name, **scores(bench.BASELINES[name](merged[SCORED].low), truth)}
        for name in ("repeat", "linear", "gaussian_process")
    ]
    for run in args.runs:
        for seed in args.seeds:
            values = enhanced(run, seed, merged, image=not args.no_image)
            rows.append({"run": run, "seed": seed, **scores(values, truth)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby("run", sort=False)[["pearson", "within_r"]].mean()
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
