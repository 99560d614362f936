"""Whether `tl.validate` predicts the scores of an enhancement one level finer: prints a table.

A real section is merged once. The merged spots are enhanced, and scored against the section: the true scores. The same
merged spots are validated, that is merged a second time and recovered: what a user without the truth would know.
``python benchmarks/validation.py --seed 0``; sections are read from ``../shared/data`` or the folder in
``SOSCOPE_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import quality
from scipy.stats import spearmanr

from soscope_scverse import _keys as keys
from soscope_scverse import bench, metrics, pp, tl

SECTIONS = {
    "MOB1": ("mouse_ob/MOB1.h5ad", "mouse_ob/MOB1_HE.jpg"),
    "MOB2": ("mouse_ob/MOB2.h5ad", "mouse_ob/MOB2_HE.jpg"),
    "embryo": ("embryo/embryo.h5ad", "embryo/colour_x5_from_lowres.jpg"),
}
PREDICTORS = ("within_r", "expected_within_r", "by_intervals", "counts")
"""Scores of genes whose rank correlation with the true ones is printed."""
QUIET = {"enable_progress_bar": False}


def scores(name: str, n_genes: int, seed: int) -> tuple[pd.DataFrame, float]:
    """Scores of every gene, true ones and those of the validation, and the CPU seconds of the validation."""
    section, image = (quality.DATA / file for file in SECTIONS[name])
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(section))
    low.uns.pop(keys.SPATIAL, None)  # its image, which is the one that is passed
    genes = pp.spatial_genes(low, n_genes)
    spots = low.copy()
    for slot in (keys.SUBSPOTS, keys.EXPOSURE):
        del spots.obsm[slot]
    options = {"image": image, "genes": genes, "seed": seed, "train_kwargs": QUIET}
    started = time.process_time()
    tl.validate(spots, **options)
    seconds = time.process_time() - started
    found = spots.var.loc[genes].filter(like=keys.VALIDATION).rename(columns=lambda column: column.partition("_")[2])
    known, block = truth[:, genes].X.toarray(), truth.obs[keys.SPOT]
    enhanced = tl.enhance(low, n_samples=30, **options)
    prediction, deviation = np.asarray(enhanced.X, dtype=float), enhanced.layers[keys.STD]
    variance = within(prediction, block)
    found["by_intervals"] = np.sqrt(variance / (variance + (deviation**2).sum(axis=0)))
    found["counts"] = known.mean(axis=0)
    linear = bench.BASELINES["linear"](low[:, genes].copy())
    found["true"] = metrics.within_r(prediction, known, block)
    found["better_than_linear"] = found["true"].to_numpy() > metrics.within_r(linear, known, block)
    found["better_than_even"] = within(prediction - known, block) < within(known, block)
    return found, seconds


def within(values: np.ndarray, block: pd.Series) -> np.ndarray:
    """Sum of squares within blocks, of every feature."""
    frame = pd.DataFrame(values).groupby(block.to_numpy())
    return ((values - frame.transform("mean").to_numpy()) ** 2).sum(axis=0)


def row(name: str, n_genes: int, seed: int) -> dict[str, object]:
    """One line of the table."""
    found, seconds = scores(name, n_genes, seed)
    believed = found["believed"]
    good = found["better_than_linear"] & found["better_than_even"]
    return {
        "section": name,
        "seed": seed,
        **{f"rho {score}": spearmanr(found[score], found["true"])[0] for score in PREDICTORS},
        "expected": found["expected_within_r"].median(),
        "true": found["true"].median(),
        "believed": f"{believed.sum()} of {len(found)}",
        "true, believed": found["true"][believed].median(),
        "true, others": found["true"][~believed].median(),
        "right, believed": f"{good[believed].sum()} of {believed.sum()}",
        "right, others": f"{good[~believed].sum()} of {(~believed).sum()}",
        "CPU s": seconds,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--n-genes", type=int, default=quality.N_GENES)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row(name, arguments.n_genes, seed) for name in arguments.sections for seed in arguments.seed]
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
