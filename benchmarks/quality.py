"""Quality on sections with known subspots: runs all methods and writes ``docs/benchmarks.md``.

``python benchmarks/quality.py --csv quality.csv``; real sections are read from ``../shared/data`` or the folder in
``SOSCOPE_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from memory import PeakMemory

from soscope_scverse import _keys as keys
from soscope_scverse import bench, datasets, im, pp, tl

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", ROOT.parent / "shared" / "data"))
N_GENES = 60

SOSCOPE, NO_IMAGE, SHUFFLED, AS_PUBLISHED = "soscope", "soscope-no-image", "soscope-shuffled", "soscope-paper"
ORACLE = "oracle"
VARIANTS = {
    NO_IMAGE: "default settings, without the image",
    SHUFFLED: "default settings, with the image features permuted over the subspots of the section",
    AS_PUBLISHED: 'the model of the paper with these image features (`preset="paper"`)',
}
METHODS = [*bench.BASELINES, SOSCOPE, *VARIANTS, ORACLE]
IMAGE_BASELINES = ("image_linear", "image_gaussian_process", "image_mlp", "joint_mlp")
METRICS = ("pearson", "within_r", "mse", "normalized_pearson")
SEAM_INDEX = "seam_index"
"""Visibility of the borders of the spots; no measure of agreement, so methods are not compared by it."""


# --------------------------------------------------------------------------------------------------------------- tasks


class Task(NamedTuple):
    """Spots, their true subspots and the image."""

    low: ad.AnnData
    truth: ad.AnnData
    image: Any


def real(section: str, image: str | None = None) -> Task:
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(DATA / section))
    return chosen(low, truth, None if image is None else DATA / image, pp.spatial_genes(truth, N_GENES))


def discs(n_subspots: int) -> Task:
    """Single cells counted in spots with the geometry of Visium: 55 um at a pitch of 100 um, .065 um a pixel."""
    cells = ad.read_h5ad(DATA / "osmfish/osmfish.h5ad")
    return Task(*bench.simulate_spots(cells, pitch=1540, diameter=847, n_subspots=n_subspots), None)


def synthetic(*, noise_free: bool) -> Task:
    low, image, truth = datasets.synthetic_section(n_genes=100)
    pp.subspots(low)
    genes = pp.spatial_genes(truth, N_GENES)
    return chosen(low, mean_as_truth(truth) if noise_free else truth, image, genes)


def synthetic_image() -> Task:
    low, image, truth = datasets.synthetic_section(n_genes=400)
    pp.subspots(low)
    image_genes = truth[:, truth.var["kind"] == "image"].copy()
    return chosen(low, truth, image, pp.spatial_genes(image_genes, N_GENES))


def mean_as_truth(truth: ad.AnnData) -> ad.AnnData:
    truth = truth.copy()
    truth.X = truth.layers.pop("mean")
    return truth


def chosen(low: ad.AnnData, truth: ad.AnnData, image: Any, genes: list[str]) -> Task:
    return Task(low[:, genes].copy(), truth[:, genes].copy(), image)


TASKS: dict[str, Callable[[], Task]] = {
    "her2st-C2": partial(real, "her2st/C2.h5ad", "her2st/C2_HE.jpg"),
    "her2st-C3": partial(real, "her2st/C3.h5ad", "her2st/C3_HE.jpg"),
    "her2st-C4": partial(real, "her2st/C4.h5ad", "her2st/C4_HE.jpg"),
    "MOB1": partial(real, "mouse_ob/MOB1.h5ad", "mouse_ob/MOB1_HE.jpg"),
    "MOB2": partial(real, "mouse_ob/MOB2.h5ad", "mouse_ob/MOB2_HE.jpg"),
    "embryo": partial(real, "embryo/embryo.h5ad", "embryo/colour_x5_from_lowres.jpg"),
    "humanskin-protein": partial(real, "humanskin/humanskin_prot.h5ad"),
    "osmfish-discs-7": partial(discs, 7),
    "osmfish-discs-19": partial(discs, 19),
    "synthetic-noisy": partial(synthetic, noise_free=False),
    "synthetic-noise-free": partial(synthetic, noise_free=True),
    "synthetic-image": synthetic_image,
}


# ------------------------------------------------------------------------------------------------------------- methods


def shuffled(adata: ad.AnnData, seed: int, **kwargs: Any) -> np.ndarray:
    """Run soScope with image features permuted over the subspots; the permutation is the same for every seed."""
    adata = adata.copy()
    valid = np.asarray(adata.obsm[keys.EXPOSURE]) > 0
    features = np.array(adata.obsm[keys.FEATURES])
    features[valid] = np.random.default_rng(0).permutation(features[valid])
    adata.obsm[keys.FEATURES] = features
    return tl.enhance(adata, seed=seed, genes=adata.var_names.tolist(), **kwargs).X


def oracle(adata: ad.AnnData, *, truth: ad.AnnData) -> np.ndarray:
    """Return the noise-free truth; its score against noisy counts is the best attainable one."""
    return np.asarray(truth.layers["mean"])


def methods_of(names: Iterable[str], task: Task, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Methods for `bench.compare`; without an image, the variants that depend on it are excluded."""
    every = {
        **bench.BASELINES,
        SOSCOPE: {},
        NO_IMAGE: {"image": None},
        SHUFFLED: partial(shuffled, train_kwargs={"enable_progress_bar": False}, **kwargs),
        AS_PUBLISHED: {"preset": "paper"},
        ORACLE: partial(oracle, truth=task.truth),
    }
    without = [] if task.image is not None else [NO_IMAGE, SHUFFLED, *IMAGE_BASELINES]
    if "mean" not in task.truth.layers:
        without.append(ORACLE)
    return {name: every[name] for name in names if name not in without}


def run(name: str, methods: Iterable[str], seeds: list[int], max_epochs: int | None) -> pd.DataFrame:
    task = TASKS[name]()
    kwargs = {} if max_epochs is None else {"max_epochs": max_epochs}
    runs = methods_of(methods, task, kwargs)
    if task.image is not None:
        im.features(task.low, task.image)
    tables = []
    for method, arguments in runs.items():
        with PeakMemory() as peak:
            df = bench.compare(*task, methods={method: arguments}, seeds=seeds, task=name, enhance_kwargs=kwargs)
        tables.append(df.assign(peak_mb=peak.mb))
    df = pd.concat(tables, ignore_index=True)
    return df.assign(n_spots=task.low.n_obs, n_targets=task.truth.n_obs)


# -------------------------------------------------------------------------------------------------------------- report


def medians(df: pd.DataFrame) -> pd.DataFrame:
    """Median over genes, then mean over seeds (NaN if a run diverged): one row for each task and method."""
    per_run = df.groupby(["task", "method", "seed", "metric"], sort=False, dropna=False)["value"].median()
    per_method = per_run.groupby(["task", "method", "metric"], sort=False).agg(lambda runs: runs.mean(skipna=False))
    scores = per_method.unstack("metric").reindex(columns=[*METRICS, SEAM_INDEX])
    costs = df.groupby(["task", "method"], sort=False)[["seconds", "peak_mb"]].mean()
    return scores.join(costs).reindex(costs.index)


def report(df: pd.DataFrame, command: str) -> str:
    scores = medians(df)
    sections = [
        introduction(df, command),
        *(task_section(df, scores, task) for task in df["task"].unique()),
        summary(scores),
        variants(scores),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def introduction(df: pd.DataFrame, command: str) -> str:
    packages = ("soscope-scverse", "torch", "torch-geometric", "scvi-tools", "anndata", "scikit-learn", "numpy")
    seeds = ", ".join(str(seed) for seed in sorted(df["seed"].dropna().unique())) or "none"
    lines = [
        "# Benchmarks",
        "",
        "Neighbouring spots of real sections are merged, and each method recovers the original spots;",
        "the synthetic sections have known subspots.",
        "In `osmfish-discs`, single cells are counted in circles of 55 µm at a pitch of 100 µm, as by Visium",
        "(`bench.simulate_spots`), and the truth is all cells in each of 7 or 19 subspots, gaps included ([Capture "
        "area](capture.md)).",
        f"Each task contains the {N_GENES} genes with the highest Moran's I (`pp.spatial_genes` of the true subspots).",
        f"Scores are medians over genes, averaged over the seeds ({seeds}) of methods that take a seed.",
        "",
        "- `pearson`: Pearson's r with the truth over all subspots.",
        "- `within_r`: Pearson's r after subtracting each spot's mean, a measure of resolution alone;",
        "  repeating the spot scores 0.",
        "- `mse`: mean squared error after scaling to [0, 1]; lower is better.",
        "- `normalized`: Pearson's r after dividing by the library size of the subspot.",
        "- `seam`: `sos.metrics.seam_index`, visibility of the borders of the spots in the prediction; 1: none.",
        "  soScope is scored with its conditional profiles, see",
        "  [Which map to publish](choosing.md#which-map-to-publish).",
        "- `seconds`: wall time of one run, excluding the image features, which are shared by all methods.",
        "- `peak MB`: maximum increase of the resident memory of the process above its level before the runs of a",
        "  method, excluding GPU memory.",
        "",
        f"Measured on {datetime.now(UTC):%d %B %Y} with {', '.join(f'{name} {version(name)}' for name in packages)}",
        f"and Python {platform.python_version()} on {machine()}.",
        "",
        "To reproduce, with the real sections in `../shared/data` or the folder in `SOSCOPE_TEST_DATA`:",
        "",
        f"```bash\n{command}\n```",
        "",
        "soScope variants:",
        "",
        *(f"- `{name}`: {text}." for name, text in VARIANTS.items()),
        "",
        f"`{ORACLE}` is the noise-free truth scored against the noisy truth: the best attainable score.",
    ]
    return "\n".join(lines)


def machine() -> str:
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":")[1].strip() if models else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = torch.get_num_threads()
    return f"{platform.system()}, {cpu}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)} used, {gpu}"


def task_section(df: pd.DataFrame, scores: pd.DataFrame, task: str) -> str:
    of_task = df[df["task"] == task]
    n_spots, n_targets = of_task[["n_spots", "n_targets"]].iloc[0]
    header = ("method", "pearson", "within_r", "mse", "normalized", "seam", "seconds", "peak MB")
    rows = [
        (
            method,
            *(f"{row[m]:.3f}" for m in METRICS),
            f"{row[SEAM_INDEX]:.2f}",
            f"{row['seconds']:.1f}",
            f"{row['peak_mb']:.0f}",
        )
        for method, row in scores.loc[task].iterrows()
    ]
    size = f"{n_spots} spots, {n_targets} subspots, {of_task['gene'].nunique()} genes."
    return f"## {task}\n\n{size}\n\n{markdown(header, rows)}{measured(of_task)}"


def measured(df: pd.DataFrame) -> str:
    """Scores of the subspots that were captured and of the others, where spots have gaps between them."""
    names = [f"{metric}_{part}" for part in ("measured", "unmeasured") for metric in METRICS[:2]]
    if not set(names) <= set(df["metric"]):
        return ""
    values = df[df["metric"].isin(names)].groupby(["method", "metric"], sort=False)["value"].median().unstack("metric")
    rows = [
        (
            method,
            *(f"{row[f'pearson_{part}']:.3f} / {row[f'within_r_{part}']:.3f}" for part in ("measured", "unmeasured")),
        )
        for method, row in values.iterrows()
    ]
    text = "Subspots of which at least half was captured, and the others, as `pearson` / `within_r`:"
    return f"\n\n{text}\n\n{markdown(('method', 'measured', 'unmeasured'), rows)}"


def summary(scores: pd.DataFrame) -> str:
    """Compare default soScope with the best baseline of each task and metric."""
    rows, losses, gains = [], [], []
    tasks = [task for task in scores.index.unique("task") if comparable(scores.loc[task])]
    for task in tasks:
        ours, rivals = scores.loc[(task, SOSCOPE)], baselines_of(scores.loc[task])
        best = {metric: -rivals[metric] if metric == "mse" else rivals[metric] for metric in METRICS}
        name = {metric: values.fillna(-np.inf).idxmax() for metric, values in best.items()}
        theirs = {metric: rivals.loc[name[metric], metric] for metric in best}
        rows.append(
            (
                task,
                f"{ours['pearson'] - theirs['pearson']:+.3f} ({name['pearson']})",
                f"{ratio(ours['within_r'], theirs['within_r'])} ({name['within_r']})",
                f"{ratio(ours['mse'], theirs['mse'])} ({name['mse']})",
                f"{ours['normalized_pearson'] - theirs['normalized_pearson']:+.3f} ({name['normalized_pearson']})",
            )
        )
        if not task.startswith("synthetic"):
            gains.append((ours["pearson"] - theirs["pearson"], *(ours[m] / theirs[m] for m in ("within_r", "mse"))))
        better = {m: ours[m] < theirs[m] if m == "mse" else ours[m] > theirs[m] for m in best}
        losses += [(task, metric) for metric, is_better in better.items() if not is_better]
    if not rows:
        return ""
    if gains:
        pearson, within, mse = np.median(gains, axis=0)
        rows.append(("median of real sections", f"{pearson:+.3f}", f"{within:.2f}", f"{mse:.2f}", ""))
    header = ("task", "pearson: difference", "within_r: ratio", "mse: ratio", "normalized: difference")
    text = (
        "Default soScope compared with the best baseline of each task and metric (in brackets), selected using the "
        "truth.\nsoScope is better where a difference is above 0, a `within_r` ratio above 1 or an `mse` ratio below 1."
    )
    return f"## Summary\n\n{text}\n\n{markdown(header, rows)}\n\n{verdict(tasks, losses)}"


def comparable(scores: pd.DataFrame) -> bool:
    return SOSCOPE in scores.index and len(baselines_of(scores)) > 0


def baselines_of(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores.index.isin(list(bench.BASELINES))]


def ratio(ours: float, theirs: float) -> str:
    """Ratio of two scores; both scores where the baseline is not positive."""
    return f"{ours / theirs:.2f}" if theirs > 0 else f"{ours:.3f} to {theirs:.3f}"


def verdict(tasks: list[str], losses: list[tuple[str, str]]) -> str:
    """List the tasks where a baseline is better, for each metric."""
    lines = []
    for metric in METRICS:
        lost = [task for task, of in losses if of == metric]
        where = f"; not better on {', '.join(lost)}" if lost else ""
        lines.append(f"- `{metric}`: better than every baseline on {len(tasks) - len(lost)} of {len(tasks)}{where}.")
    return "\n".join(lines)


def variants(scores: pd.DataFrame) -> str:
    names = [name for name in (SOSCOPE, *VARIANTS) if name in scores.index.unique("method")]
    if len(names) < 2:
        return ""
    rows = [(task, *(cell(scores, task, name) for name in names)) for task in scores.index.unique("task")]
    text = "Effect of the image and of the changes to the model of the paper, as `pearson` / `within_r`."
    return f"## Variants\n\n{text}\n\n{markdown(('task', *names), rows)}"


def cell(scores: pd.DataFrame, task: str, method: str) -> str:
    if (task, method) not in scores.index:
        return ""
    return f"{scores.loc[(task, method), 'pearson']:.3f} / {scores.loc[(task, method), 'within_r']:.3f}"


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown table with a text column followed by numeric columns."""
    titles = list(header)
    rule = ["---", *["--:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, rule, *map(list, rows)))


# ---------------------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--max-epochs", type=int, help="training epochs of soScope; default: the default of the model")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="report to write")
    parser.add_argument("--csv", type=Path, help="CSV for all scores, updated after every task")
    parser.add_argument("--resume", type=Path, help="CSV of an earlier run; its tasks are not run again")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="No image given")
    warnings.filterwarnings("ignore", message="The image is ")
    warnings.filterwarnings("ignore", module="lightning")
    tables = [] if args.resume is None else [pd.read_csv(args.resume, dtype={"seed": "Int64"})]
    done = {task for table in tables for task in table["task"]}
    command = shlex.join(["python", *sys.argv])
    for name in args.tasks:
        if name not in done:
            tables.append(run(name, args.methods, args.seeds, args.max_epochs))
        df = pd.concat(tables, ignore_index=True)
        if args.csv is not None:
            df.to_csv(args.csv, index=False)
        args.out.write_text(report(df, command))


if __name__ == "__main__":
    main()
