"""Principal components merged by factors of 2 to 6: prints the tables of ``docs/likelihoods.md``.

``python benchmarks/factors.py --csv factors.csv``. Beads of ``datasets.synthetic_components`` are averaged over blocks
of up to 6 x 6, and each method recovers them. The mean squared error is computed against the measured beads and against
their noise-free means, in units of the variance of the noise-free components, which is 1.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from quality_report import markdown

import soscope_scverse as sos
from soscope_scverse import _keys as keys
from soscope_scverse import bench, datasets, im, metrics, pp

SIMPLE = ("repeat", "linear", "linear_conserving", "gaussian_process", "image_gaussian_process")
TRUTHS = {"mse": "as measured", "mse_clean": "noise-free", "within_r_clean": "noise-free"}


def predictions(low: ad.AnnData, seed: int, max_steps: int | None) -> Iterator[tuple[str, np.ndarray]]:
    for name in SIMPLE:
        yield name, bench.BASELINES[name](low)
    pp.spot_graph(low)
    for suffix, features_key in (("", keys.FEATURES), (" without image", None)):
        sos.SoScope.setup_anndata(low, features_key=features_key)
        torch.manual_seed(seed)
        model = sos.SoScope(low, likelihood="gaussian")
        model.train(max_steps=max_steps, accelerator="cpu", enable_progress_bar=False)
        for expectation in ("conditional", "decoded"):
            yield f"soscope{suffix}, {expectation}", model.get_enhanced(expectation=expectation).X


def run(factor: int, seed: int, n_beads: int, noise: float, max_steps: int | None) -> pd.DataFrame:
    adata, image = datasets.synthetic_components(n_beads, noise=noise, seed=seed)
    low, truth = bench.simulate_low_resolution(adata, factor, aggregate="mean")
    im.features(low, image)
    clean = truth.layers["mean"]
    rows = [
        {
            "factor": factor,
            "seed": seed,
            "method": method,
            "mse": ((values - truth.X) ** 2).mean(),
            "mse_clean": ((values - clean) ** 2).mean(),
            "within_r_clean": metrics.within_r(values, clean, truth.obs[keys.SPOT]).mean(),
        }
        for method, values in predictions(low, seed, max_steps)
    ]
    return pd.DataFrame(rows)


def report(df: pd.DataFrame) -> str:
    """Tables of methods (rows) by factors (columns), averaged over components and seeds."""
    tables = []
    for metric, truth in TRUTHS.items():
        means = df.pivot_table(index="method", columns="factor", values=metric, sort=False)
        rows = [(method, *(f"{value:.3f}" for value in values)) for method, *values in means.itertuples()]
        header = ("method", *(f"{factor} x {factor}" for factor in means))
        tables.append(f"`{metric.removesuffix('_clean')}`, beads {truth}:\n\n{markdown(header, rows)}")
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", nargs="+", type=int, default=[2, 3, 4, 5, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds of simulation and training")
    parser.add_argument("--n-beads", type=int, default=3600)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--max-steps", type=int, help="training steps of soScope; default: the default of the model")
    parser.add_argument("--csv", type=Path, help="CSV for all scores, updated after every factor")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The image is ")
    warnings.filterwarnings("ignore", module="lightning")
    df = pd.DataFrame()
    for seed in args.seeds:
        for factor in args.factors:
            df = pd.concat([df, run(factor, seed, args.n_beads, args.noise, args.max_steps)], ignore_index=True)
            if args.csv is not None:
                df.to_csv(args.csv, index=False)
    print(report(df))


if __name__ == "__main__":
    main()
