"""Figures of ``docs/paper.md``: runs the examples of the page as they stand, and its tables of real sections.

``python benchmarks/paper.py examples`` prints, after each block of the page, what its tables have under "here";
``python benchmarks/paper.py C2 skin`` prints the table of her2st C2 and the pairs of the human skin. Real sections are
read from ``../shared/data`` or the folder in ``SOSCOPE_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import anndata as ad
import matplotlib
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import quality
from quality_report import markdown

import soscope_scverse as sos
from soscope_scverse import _keys as keys

PAGE = quality.ROOT / "docs" / "paper.md"
GROUPS = ["low", "medium", "high"]
Names = Mapping[str, Any]


def medians(scores: pd.DataFrame, metrics: Mapping[str, int]) -> str:
    """Medians over genes by method, of metrics with their decimals."""
    table = scores.groupby(["method", "metric"], sort=False)["value"].median().unstack()
    return "\n".join(
        f"{method}: " + " / ".join(f"{row[metric]:.{decimals}f}" for metric, decimals in metrics.items())
        for method, row in table[list(metrics)].iterrows()
    )


def by_group(table: pd.DataFrame) -> str:
    """Median squared error of every method by group of genes."""
    errors = table[table["metric"] == "mse"].pivot(index="method", columns="group", values="median")[GROUPS]
    return "\n".join(f"{method}: " + " / ".join(f"{x:.3f}" for x in row) for method, row in errors.iterrows())


def share_apart(adata: ad.AnnData, gene: str, region: str) -> float:
    return sos.metrics.ks_distance(adata[:, gene].X, (adata.obs["region"] == region).to_numpy())[0]


def figure_2(names: Names) -> Mapping[str, str]:
    truth = names["truth"]
    own = [share_apart(truth, gene, region) for region, genes in names["markers"].items() for gene in genes]
    scores = names["scores"]
    apart = medians(scores, {"ks_distance": 2})
    return {
        "2d, r / MSE": medians(scores, {"pearson": 2, "mse": 3}),
        f"2e, KS of {len(own)} markers": f"{apart}\nthe noisy truth: {np.median(own):.2f}",
        "2h, MSE by variability": by_group(names["by_variability"]),
        "2i, r / MSE of correlations": medians(scores, {"correlation_r": 2, "correlation_mse": 3}),
    }


def supplementary(names: Names) -> Mapping[str, str]:
    marker = names["marker"]
    gene = names["markers"][marker][0]
    apart = {name: share_apart(names["maps"][name], gene, marker) for name in names["maps"]}
    by_kind = names["r2"].groupby(names["truth"].var["kind"].astype(str)).median()
    return {
        f"S3a, KS of {gene} in {marker}": ", ".join(f"{name} {x:.2f}" for name, x in apart.items()),
        "S3c, MSE by abundance": by_group(names["by_abundance"]),
        "S3e": f"{names['cells'].n_obs} cells x {names['cells'].n_vars} genes",
        "S4b, R2 of the image": ", ".join(f"{kind} {x:.2f}" for kind, x in by_kind.items()),
        "S4e, S4f, r / within_r": medians(names["with_and_without"], {"pearson": 2, "within_r": 2}),
    }


def figure_3(names: Names) -> Mapping[str, str]:
    activity, high = names["activity"], sos.metrics.high_expression_compactness
    genes = names["patterned"].var_names
    spots, truth = (
        np.median(high(data[:, genes].X, data.obsm["spatial"])) for data in (names["adata"], names["truth"])
    )
    compact = np.median(names["compact"])
    return {
        "3c, share of high subspots": f"{np.median(names['high'].mean(axis=0)):.2f}",
        "3d": f"{activity.n_obs} x {activity.n_vars} activities, {activity.X.min():.2f} to {activity.X.max():.2f}",
        "3g, r over regions": f"{names['patterns'].groupby('feature')['r'].first().median():.3f}",
        "S5b, compactness": f"spots {spots:.3f}, soScope {compact:.3f}, truth {truth:.3f}",
    }


def figure_4(names: Names) -> Mapping[str, str]:
    means = names["factors"].groupby(["metric", "method", "factor"], sort=False)["value"].mean().unstack()
    shown = ("pearson", "kmeans_ari_3", "kmeans_ari_4")
    return {
        f"4d, 4e, {metric} by factor": "\n".join(
            f"{method}: " + ", ".join(f"{x:.2f}" for x in row) for method, row in means.loc[metric].iterrows()
        )
        for metric in shown
    }


def figure_5(names: Names) -> Mapping[str, str]:
    truth = sos.tl.signal_outside(names["adata"], names["truth"], names["markers"], "region")["after"].median()
    tables = {name: names[name][["before", "after"]].median() for name in ("correlation", "outside")}
    text = {name: f"before {row['before']:.3f}, after {row['after']:.3f}" for name, row in tables.items()}
    return {"5, r of pairs": text["correlation"], "5, signal outside": f"{text['outside']}, truth {truth:.3f}"}


FIGURES: Mapping[str, Callable[[Names], Mapping[str, str]]] = {
    "Figure 2: spatial transcriptomics": figure_2,
    "Supplementary Figures 2 to 4": supplementary,
    "Figure 3 and Supplementary Figures 5 and 6: peaks": figure_3,
    "Figure 4 and Supplementary Figures 7 to 9: several factors": figure_4,
    "Figure 5 and Supplementary Figures 10 and 11: two omics": figure_5,
}
"""Figures by the heading of the page whose block computes them."""


def examples() -> None:
    """Run the blocks of the page one after the other."""
    names: dict[str, Any] = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        heading = part.partition("\n")[0]
        for block in re.findall(r"```python\n(.*?)```", part, flags=re.DOTALL):
            exec(compile(block, heading, "exec"), names)
            plt.close("all")
        if heading in FIGURES:
            for label, text in FIGURES[heading](names).items():
                print(f"{label}\n{text}\n", flush=True)


def her2st_c2() -> None:
    """Recovery of merged spots of a section, with the metrics of the paper."""
    low, truth, image = quality.TASKS["her2st-C2"]()
    genes = truth.var_names
    sos.im.features(low, image)
    metrics = ["pearson", "mse", "within_r", "correlation_r", "kmeans_ari_3", "kmeans_ari_4", "compactness"]
    methods = ["repeat", "linear_conserving", "kriging_image", "soscope"]
    scores = sos.bench.compare(low, truth, methods=methods, metrics=metrics, seeds=[0], progress=False)
    table = scores.groupby(["metric", "method"], sort=False)["value"].median().unstack()[methods].loc[metrics]
    variability = sos.tl.gene_variability(ad.read_h5ad(quality.DATA / "her2st/C2.h5ad")).loc[genes, "variability"]
    thirds = pd.qcut(variability.rank(method="first"), 3, labels=GROUPS)
    errors = sos.bench.scores_by_group(scores[scores["metric"] == "mse"], thirds)
    errors = errors.pivot(index="group", columns="method", values="median").loc[["low", "high"], methods]
    table = pd.concat([table, errors.rename(index=lambda group: f"MSE, {group} variability")])
    rows = [[name, *(f"{x:.3f}" for x in row)] for name, row in table.iterrows()]
    print(markdown(["median", *methods], rows), flush=True)
    x, features = np.log1p(truth.X.toarray()), low.obsm[keys.FEATURES].reshape(truth.n_obs, -1)
    held_out, fitted = (sos.metrics.image_r2(x, features, n_folds=n) for n in (5, None))
    shown = {"median": np.median(held_out), "highest": held_out.max(), "fitted median": np.median(fitted)}
    print("R2 of the image: " + ", ".join(f"{name} {x:.2f}" for name, x in shown.items()), flush=True)


def skin() -> None:
    """Two pairs of RNA and protein before and after the joint model."""
    mdata = md.read_h5mu(quality.DATA / "humanskin/humanskin.h5mu")
    prot, rna = mdata["prot"], mdata["rna"]
    pairs = {
        gene: next(name for name in prot.var_names if name.startswith(protein))
        for gene, protein in {"RNA18S5": "GPR56", "TMEM132D": "IgM"}.items()
    }
    most = prot.var_names[np.argsort(-np.asarray(prot.X.sum(axis=0)).ravel())[:10]]
    genes = {"prot": list(dict.fromkeys([*most, *pairs.values()])), "rna": rna.var_names.tolist()}
    likelihood = {"prot": "poisson", "rna": "nb"}
    enhanced = sos.tl.enhance(mdata, genes=genes, likelihood=likelihood, n_subspots=4, sources="positions")
    print(sos.tl.omics_correlation(mdata, enhanced, pairs, modalities=("rna", "prot")).round(3).to_string(), flush=True)


RUNS = {"examples": examples, "C2": her2st_c2, "skin": skin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", choices=RUNS)
    args = parser.parse_args()
    matplotlib.use("agg")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for name in args.runs:
        RUNS[name]()


if __name__ == "__main__":
    main()
