"""Calibration of posterior samples on known subspots: prints a table, plots ``docs/_static/calibration.png``.

``python benchmarks/calibration.py --keep runs``; real sections are read from ``../shared/data`` or the folder in
``SOSCOPE_TEST_DATA``.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import quality
import torch
from quality_report import markdown

from soscope_scverse import SoScope, bench, datasets, metrics, pl, pp, tl

N_SAMPLES = 200
LEVEL, LOWEST, HIGHEST = 0.9, 0.86, 0.94
BIN_WIDTH = 700  # units of osmFISH


def synthetic(lattice: str) -> quality.Task:
    low, image, truth = datasets.synthetic_section(n_genes=quality.N_GENES, lattice=lattice)
    pp.subspots(low)
    return quality.Task(low, truth, image)


def threefold(section: str, file: str | None = None) -> quality.Task:
    """Merge 3 x 3 spots: held-out tasks, first run after all choices had been made."""
    low, truth = bench.simulate_low_resolution(ad.read_h5ad(quality.DATA / section), 3)
    image = None if file is None else quality.DATA / file
    return quality.chosen(low, truth, image, pp.spatial_genes(truth, quality.N_GENES))


def cells() -> quality.Task:
    data = ad.read_h5ad(quality.DATA / "osmfish/osmfish.h5ad")
    return quality.Task(*bench.simulate_low_resolution(data, BIN_WIDTH, cells=True), None)


TASKS: dict[str, Callable[[], quality.Task]] = {
    **{name: task for name, task in quality.TASKS.items() if not name.startswith("synthetic")},
    "osmFISH-bins": cells,
    "synthetic-hex": partial(synthetic, "hex"),
    "synthetic-square": partial(synthetic, "square"),
    "MOB1-3x3": partial(threefold, "mouse_ob/MOB1.h5ad", "mouse_ob/MOB1_HE.jpg"),
    "humanskin-protein-3x3": partial(threefold, "humanskin/humanskin_prot.h5ad"),
}


def run(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """PIT of each subspot and gene, and mean count of each gene."""
    task = TASKS[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        genes, no_progress = task.low.var_names.tolist(), {"enable_progress_bar": False}
        tl.enhance(task.low, image=task.image, genes=genes, seed=seed, save_model=path, train_kwargs=no_progress)
        model = SoScope.load(path)
        torch.manual_seed(seed)
        samples = model.sample_enhanced(N_SAMPLES)
    return metrics.pit(task.truth.X, samples, seed=seed), np.asarray(task.truth.X.mean(axis=0)).ravel()


def kept(name: str, seed: int, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The same, read from the folder if it was stored there."""
    path = None if folder is None else folder / f"{name}.{seed}.npz"
    if path is not None and path.exists():
        with np.load(path) as found:
            return found["pit"], found["mean"]
    pit, mean = run(name, seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, pit=pit.astype(np.float32), mean=mean)
    return pit, mean


def row(name: str, pits: list[np.ndarray], mean: np.ndarray) -> list[str]:
    """Pooled coverage of each seed, mean coverage of genes with low, medium and high counts, and tail shares."""
    coverage = [metrics.central_coverage(pit, LEVEL) for pit in pits]
    thirds = np.array_split(np.argsort(mean), 3)
    pooled = [float(values.mean()) for values in coverage]
    tails = np.mean([[(pit < (1 - LEVEL) / 2).mean(), (pit > (1 + LEVEL) / 2).mean()] for pit in pits], axis=0)
    inside = "yes" if all(LOWEST <= value <= HIGHEST for value in pooled) else "no"
    by_count = (f"{np.mean(coverage, axis=0)[third].mean():.3f}" for third in thirds)
    return [name, *(f"{value:.3f}" for value in pooled), *by_count, *(f"{tail:.3f}" for tail in tails), inside]


def image(pits: dict[str, np.ndarray], path: Path) -> None:
    """Reliability curves of all tasks, and histograms of their PIT."""
    figure = plt.figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    ax = pl.calibration(pits, ax=left.subplots())
    ax.plot([LEVEL, LEVEL], [LOWEST, HIGHEST], color="black", linewidth=4, alpha=0.3, solid_capstyle="butt")
    panels = right.subplots(2, -(-len(pits) // 2), sharex=True, sharey=True)
    for panel, (name, values), line in zip(panels.ravel(), pits.items(), ax.lines[1:], strict=False):
        panel.hist(values.ravel(), bins=20, range=(0, 1), density=True, color=line.get_color())
        panel.axhline(1, color="black", linewidth=0.8, linestyle="--")
        panel.set_title(name, fontsize=7)
        panel.tick_params(labelsize=7)
    for panel in panels.ravel()[len(pits) :]:
        panel.set_visible(False)
    right.supxlabel("probability integral transform", fontsize=9)
    figure.savefig(path, dpi=120)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--keep", type=Path, help="folder for the results of finished runs, which are reused")
    parser.add_argument("--out", type=Path, default=quality.ROOT / "docs" / "_static" / "calibration.png")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    mpl.use("Agg")
    warnings.filterwarnings("ignore", message="No image given")
    warnings.filterwarnings("ignore", message="The image is ")
    warnings.filterwarnings("ignore", module="lightning")
    rows, pits = [], {}
    for name in args.tasks:
        runs = [kept(name, seed, args.keep) for seed in args.seeds]
        pits[name] = runs[0][0]
        rows.append(row(name, [pit for pit, _ in runs], runs[0][1]))
    seeds = [f"seed {seed}" for seed in args.seeds]
    header = ["task", *seeds, "low counts", "medium", "high counts", "below", "above", f"{LOWEST} to {HIGHEST}"]
    print(markdown(header, rows))
    image(pits, args.out)


if __name__ == "__main__":
    main()
