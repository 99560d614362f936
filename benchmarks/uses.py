"""Figures of ``docs/uses.md``: two modalities together, single cells, and finer partitions; prints Markdown tables.

``python benchmarks/uses.py joint cells partitions`` runs all of them, or any alone. Scores are medians over features,
means over the seeds. Real sections are read from ``../shared/data`` or the folder in ``SOSCOPE_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import quality
from quality_report import markdown

from soscope_scverse import _keys as keys
from soscope_scverse import bench, im, metrics, pp, tl

BIN_WIDTH = 700.0  # of osmFISH, in its units
SIMPLE = ("repeat", "linear_conserving")
Run = Callable[[int], Any]


def scores(predictions: Sequence[Any], truth: ad.AnnData, *names: str) -> str:
    """Scores of some runs as text."""
    spot = {"within_r": [truth.obs[keys.SPOT]]}
    medians = [
        np.mean([np.nanmedian(getattr(metrics, name)(x, truth.X, *spot.get(name, []))) for x in predictions])
        for name in names
    ]
    return " / ".join(f"{median:.3f}" for median in medians)


def enhanced(low: Any, seed: int, args: argparse.Namespace, **arguments: Any) -> Any:
    quiet = {"enable_progress_bar": False}
    return tl.enhance(low, seed=seed, max_epochs=args.max_epochs, train_kwargs=quiet, **arguments)


def joint(args: argparse.Namespace) -> str:
    """Proteins and RNA of the skin in one model, and in one model each."""
    mdata = md.read_h5mu(quality.DATA / "humanskin/humanskin.h5mu")
    likelihood = {"prot": "poisson", "rna": "nb"}
    low, truth = {}, {}
    for name in likelihood:
        low[name], truth[name] = bench.simulate_low_resolution(mdata[name])
    genes = {name: list(part.var_names) for name, part in low.items()}
    together = [enhanced(md.MuData(low), s, args, likelihood=likelihood, genes=genes) for s in args.seeds]
    rows: dict[str, list[str]] = {"joint model": [], "separate models": [], **{name: [] for name in SIMPLE}}
    for name, of_it in likelihood.items():
        alone = [enhanced(low[name], s, args, likelihood=of_it, genes=genes[name]).X for s in args.seeds]
        runs = {"joint model": [both[name].X for both in together], "separate models": alone}
        runs |= {baseline: [bench.BASELINES[baseline](low[name])] for baseline in SIMPLE}
        for method, predictions in runs.items():
            rows[method].append(scores(predictions, truth[name], "pearson", "within_r"))
    return markdown(("", "protein", "RNA"), ((name, *cells) for name, cells in rows.items()))


def cells(args: argparse.Namespace) -> str:
    """Cells of binned osmFISH, from positions and from their types."""
    low, truth = bench.simulate_low_resolution(
        ad.read_h5ad(quality.DATA / "osmfish/osmfish.h5ad"), BIN_WIDTH, cells=True
    )
    genes, typed = low.var_names.tolist(), low.copy()
    types = pd.get_dummies(truth.obs["cell_type"]).to_numpy(np.float32)
    valid = np.asarray(low.obsm[keys.EXPOSURE]) > 0
    features = np.zeros((*valid.shape, types.shape[1]), np.float32)
    features[valid] = types
    typed.obsm[keys.FEATURES] = features
    runs = {baseline: [bench.BASELINES[baseline](low)] for baseline in SIMPLE}
    runs["soScope, positions only"] = [enhanced(low, s, args, genes=genes).X for s in args.seeds]
    runs["regression on cell types"] = [bench.BASELINES["image_linear"](typed)]
    runs["soScope, cell types as features"] = [
        enhanced(typed, s, args, genes=genes, encoder="precomputed").X for s in args.seeds
    ]
    names = ("pearson", "normalized_pearson", "within_r")
    return markdown(("", *names), ((run, *(scores(x, truth, name) for name in names)) for run, x in runs.items()))


def partitions(args: argparse.Namespace) -> str:
    """Sums over 16 parts of a spot against the 4 parts that the model was trained with."""
    task, found = quality.TASKS["her2st-C2"](), []
    spots = task.low[:, :].copy()
    for slot in (keys.SUBSPOTS, keys.EXPOSURE):
        del spots.obsm[slot]
    del spots.uns[keys.SUBSPOTS]
    genes = spots.var_names.tolist()
    for seed in args.seeds:
        arguments = {"image": task.image, "n_subspots": 4, "genes": genes, "return_model": True}
        coarse, model = enhanced(spots, seed, args, **arguments)
        finer = spots.copy()
        pp.subspots(finer, 16)
        pp.spot_graph(finer)
        im.features(finer, task.image, context=model.adata.uns["subspot_features"]["context"])
        fine = model.get_enhanced(finer)
        whole = four_sums(fine, coarse)
        error = np.abs(whole - coarse.X) / np.maximum(coarse.X, 1e-9)
        found.append((np.nanmedian(metrics.pearson(whole, coarse.X)), np.median(error)))
    correlation, error = np.mean(found, axis=0)
    header = ("", "median correlation per gene", "median relative error")
    return markdown(header, [("her2st C2, `get_enhanced`", f"{correlation:.3f}", f"{100 * error:.1f} %")])


def four_sums(fine: ad.AnnData, coarse: ad.AnnData) -> np.ndarray:
    """Sums over the fine parts that are nearest to every coarse one, in its spot."""
    total = np.zeros(coarse.shape)
    rows = pd.Series(np.arange(coarse.n_obs)).groupby(coarse.obs[keys.SPOT].to_numpy()).indices
    for spot, own in pd.Series(np.arange(fine.n_obs)).groupby(fine.obs[keys.SPOT].to_numpy()).indices.items():
        parts = rows[spot]
        apart = fine.obsm[keys.SPATIAL][own][:, None] - coarse.obsm[keys.SPATIAL][parts]
        np.add.at(total, parts[(apart**2).sum(axis=-1).argmin(axis=1)], np.asarray(fine.X[own]))
    return total


FIGURES: Mapping[str, Callable[[argparse.Namespace], str]] = {"joint": joint, "cells": cells, "partitions": partitions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="+", choices=FIGURES, metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--max-epochs", type=int, help="training epochs of soScope; default: the default of the model")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for name in args.figures:
        print(f"\n{FIGURES[name].__doc__}\n\n{FIGURES[name](args)}", flush=True)


if __name__ == "__main__":
    main()
