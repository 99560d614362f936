"""Quality on sections with known subspots: runs methods, keeps their scores in a table and reports them.

``python benchmarks/quality.py`` runs every method on every task and adds each run to ``benchmarks/quality.csv``. Runs
that are in the file are not run again, so the work can be interrupted and divided:

    python benchmarks/quality.py --tasks her2st-C2 --methods soscope
    python benchmarks/quality.py --tasks her2st-C2 --genes 2000        # another panel of genes
    python benchmarks/quality.py --tasks her2st-C2 --chosen-on spots   # genes chosen on the merged spots
    python benchmarks/quality.py --report docs/benchmarks.md           # runs nothing, writes what is in the file
    python benchmarks/quality.py --readme                              # runs nothing, prints the table of the README

After a change, delete the rows of the methods that it concerns from the file. Real sections are read from
``../shared/data`` or the folder in ``SOSCOPE_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from memory import PeakMemory

from soscope_scverse import _keys as keys
from soscope_scverse import bench, datasets, im, pp, tl

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", ROOT.parent / "shared" / "data"))
SCORES = ROOT / "benchmarks" / "quality.csv"
N_GENES = 60
PANELS = (60, 500, 2000)
PACKAGES = ("soscope-scverse", "torch", "torch-geometric", "scvi-tools", "anndata", "scikit-learn", "numpy")

SOSCOPE, NO_IMAGE, SHUFFLED, AS_PUBLISHED = "soscope", "soscope-no-image", "soscope-shuffled", "soscope-paper"
NOISE_FREE = "noise-free-truth"
VARIANTS = {
    NO_IMAGE: "default settings, without the image",
    SHUFFLED: "default settings, with the image features permuted over the subspots of the section",
    AS_PUBLISHED: '[model of the paper](model.md#the-model-of-the-paper) (`preset="paper"`) with the shared features',
}
METHODS = [*bench.BASELINES, SOSCOPE, *VARIANTS, NOISE_FREE]
IMAGE_BASELINES = ("image_linear", "image_gaussian_process", "image_mlp", "joint_mlp")

ChosenOn = Literal["truth", "spots"]


# --------------------------------------------------------------------------------------------------------------- tasks


class Task(NamedTuple):
    """Spots, their true subspots and the image."""

    low: ad.AnnData
    truth: ad.AnnData
    image: Any


def real(section: str, image: str | None = None, n_genes: int = N_GENES, chosen_on: ChosenOn = "truth") -> Task:
    """Merge a section; genes are chosen on the true subspots, or on the merged spots, which is all that a user has."""
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(DATA / section))
    genes = pp.spatial_genes(truth if chosen_on == "truth" else low, n_genes)
    return chosen(low, truth, None if image is None else DATA / image, genes)


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


TASKS: dict[str, Callable[..., Task]] = {
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
PANEL_TASKS = ("her2st-C2", "her2st-C3", "her2st-C4", "MOB1", "MOB2", "embryo")
"""Tasks with whole transcriptomes (1,000 genes in MOB), of which other panels can be chosen."""


# ------------------------------------------------------------------------------------------------------------- methods


def shuffled(adata: ad.AnnData, seed: int, **kwargs: Any) -> np.ndarray:
    """Run soScope with image features permuted over the subspots; the permutation is the same for every seed."""
    adata = adata.copy()
    valid = np.asarray(adata.obsm[keys.EXPOSURE]) > 0
    features = np.array(adata.obsm[keys.FEATURES])
    features[valid] = np.random.default_rng(0).permutation(features[valid])
    adata.obsm[keys.FEATURES] = features
    return tl.enhance(adata, seed=seed, genes=adata.var_names.tolist(), **kwargs).X


def noise_free(adata: ad.AnnData, *, truth: ad.AnnData) -> np.ndarray:
    """Return the expected counts of the subspots.

    Against noisy counts, the conditional mean can score higher: it contains what is known of the noise, its sum.
    """
    return np.asarray(truth.layers["mean"])


def methods_of(task: Task, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Methods for `bench.compare`; without an image, the variants that depend on it are excluded."""
    every = {
        **bench.BASELINES,
        SOSCOPE: {},
        NO_IMAGE: {"image": None},
        SHUFFLED: partial(shuffled, train_kwargs={"enable_progress_bar": False}, **kwargs),
        AS_PUBLISHED: {"preset": "paper"},
        NOISE_FREE: partial(noise_free, truth=task.truth),
    }
    without = [] if task.image is not None else [NO_IMAGE, SHUFFLED, *IMAGE_BASELINES]
    if "mean" not in task.truth.layers:
        without.append(NOISE_FREE)
    return {name: method for name, method in every.items() if name not in without}


# ---------------------------------------------------------------------------------------------------------------- runs


class Panel(NamedTuple):
    """Which genes are scored."""

    n_genes: int = N_GENES
    chosen_on: ChosenOn = "truth"


def seeded(method: str) -> bool:
    return method == SOSCOPE or method in VARIANTS


def runs(task_name: str, panel: Panel, args: argparse.Namespace, done: set[tuple]) -> Iterator[pd.DataFrame]:
    """Medians over genes of every run of a task that is not done yet, one table for each."""
    wanted = [(name, seed) for name in args.methods for seed in (args.seeds if seeded(name) else [-1])]
    wanted = [run for run in wanted if (task_name, *panel, *run) not in done]
    if not wanted:
        return
    task = (
        TASKS[task_name]() if panel == Panel() else TASKS[task_name](n_genes=panel.n_genes, chosen_on=panel.chosen_on)
    )
    kwargs = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    methods = methods_of(task, kwargs)
    wanted = [(name, seed) for name, seed in wanted if name in methods]
    if task.image is not None and wanted:
        im.features(task.low, task.image)
    for name, seed in wanted:
        with PeakMemory() as peak:
            scores = bench.compare(
                *task,
                methods={name: methods[name]},
                seeds=[max(seed, 0)],
                task=task_name,
                progress=False,
                enhance_kwargs=kwargs,
            )
        medians = scores.groupby(["task", "method", "metric", "seconds"], sort=False)["value"].median().reset_index()
        yield medians.assign(
            seed=seed,
            n_genes=panel.n_genes,
            chosen_on=panel.chosen_on,
            n_scored=task.truth.n_vars,
            n_spots=task.low.n_obs,
            n_targets=task.truth.n_obs,
            peak_mb=peak.mb,
            measured_on=f"{datetime.now(UTC):%Y-%m-%d}",
            packages=" ".join(f"{package}=={version(package)}" for package in PACKAGES),
        )[list(COLUMNS)]


COLUMNS = (
    *("task", "n_genes", "chosen_on", "method", "seed", "metric", "value", "seconds", "peak_mb", "n_scored", "n_spots"),
    *("n_targets", "measured_on", "packages"),
)
"""Of the table of scores; the seed is -1 for methods without one."""


def read_scores(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))


def machine() -> str:
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":")[1].strip() if models else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    threads = torch.get_num_threads()
    return f"{platform.system()}, {cpu}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)} used, {gpu}"


# ---------------------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--genes", type=int, choices=PANELS, default=N_GENES, help="genes with the highest Moran's I")
    parser.add_argument(
        "--chosen-on", choices=("truth", "spots"), default="truth", help="what the genes are chosen on; default: truth"
    )
    parser.add_argument("--max-epochs", type=int, help="training epochs of soScope; default: the default of the model")
    parser.add_argument("--csv", type=Path, default=SCORES, help="table of scores, which runs are added to")
    parser.add_argument("--report", type=Path, help="Markdown file to write from the table of scores; runs nothing")
    parser.add_argument("--readme", action="store_true", help="print the table of the README; runs nothing")
    args = parser.parse_args()
    others = set(args.tasks or ()) - set(PANEL_TASKS)
    if (args.genes, args.chosen_on) != Panel() and others:
        parser.error(f"Expected tasks out of {', '.join(PANEL_TASKS)} with other genes, found {', '.join(others)}.")
    return args


def main() -> None:
    args = arguments()
    if args.report is not None or args.readme:
        from quality_report import readme_table, report

        if args.readme:
            print(readme_table(read_scores(args.csv)))
        if args.report is not None:
            args.report.write_text(report(read_scores(args.csv)))
        return
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="No image given")
    warnings.filterwarnings("ignore", message="The image is ")
    warnings.filterwarnings("ignore", module="lightning")
    panel = Panel(args.genes, args.chosen_on)
    for name in args.tasks or (TASKS if panel == Panel() else PANEL_TASKS):
        known = read_scores(args.csv)
        done = set(known[["task", "n_genes", "chosen_on", "method", "seed"]].itertuples(index=False, name=None))
        for scores in runs(name, panel, args, done):
            scores.to_csv(args.csv, mode="a", header=not args.csv.exists(), index=False)
            print(name, *panel, *scores.loc[0, ["method", "seed"]], *scores["value"].round(3), flush=True)


if __name__ == "__main__":
    main()
