"""Visibility of the borders of the spots: prints the table of ``docs/choosing.md``.

``python benchmarks/seams.py her2st-C2 MOB1 embryo``. The tasks are those of ``benchmarks/quality.py``; seam index and
standard deviation within the spots are medians over the 20 genes with the highest Moran's I, the scores over all genes.
"""

from __future__ import annotations

import argparse
import warnings

import anndata as ad
import numpy as np
import pandas as pd
from quality import TASKS
from quality_report import markdown

from soscope_scverse import _keys as keys
from soscope_scverse import metrics, tl

EXPECTATIONS = ("conditional", "denoised", "decoded")
N_SEEN = 20
"""Genes that a person would look at."""


def std_within(values: np.ndarray, spot: pd.Series) -> np.ndarray:
    """Mean over the spots of the standard deviation of their subspots, n_features."""
    return pd.DataFrame(values).groupby(spot.to_numpy()).std(ddof=0).mean(axis=0).to_numpy()


def rows(task: str, enhanced: ad.AnnData, truth: ad.AnnData) -> list[tuple[str, ...]]:
    x, xy, spot = truth.to_df().to_numpy(), truth.obsm[keys.SPATIAL], truth.obs[keys.SPOT]
    table = []
    for name in (*EXPECTATIONS, "truth"):
        values = x if name == "truth" else enhanced.layers[name] if name in enhanced.layers else enhanced.X
        seam = np.median(metrics.seam_index(values, xy, spot)[:N_SEEN])
        spread = np.median((std_within(values, spot) / std_within(enhanced.X, spot))[:N_SEEN])
        scores = (np.nanmedian(metrics.pearson(values, x)), np.nanmedian(metrics.within_r(values, x, spot)))
        table.append((task, name, f"{seam:.2f}", f"{spread:.2f}", *(f"{score:.3f}" for score in scores)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=list(TASKS), metavar="TASK")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = []
    for name in arguments.tasks:
        low, truth, image = TASKS[name]()
        options = {"expectation": list(EXPECTATIONS), "genes": low.var_names.tolist(), "seed": arguments.seed}
        enhanced = tl.enhance(low, image=image, train_kwargs={"enable_progress_bar": False}, **options)
        found += rows(name, enhanced, truth)
    print(markdown(("task", "profiles", "seam index", "std within spots", "pearson", "within_r"), found))


if __name__ == "__main__":
    main()
