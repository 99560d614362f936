"""CPU seconds and peak memory as a function of the number of genes: today's build beside another one.

``OMP_NUM_THREADS=1 python benchmarks/genes.py --against PATH --json genes.json --plot genes.png`` enhances the genes
with the most counts of the embryo (2,898 spots x 7 subspots, from ``../shared/data``) to zarr, with ``quality="best"``
and ``"fast"`` and with the other build, whose repository is at PATH. Builds run in turn, each measurement in a process
of its own. Of the training only ``--steps`` steps are run: CPU seconds per step, of both phases, are scaled to the
steps of the defaults, and those of everything else (reading, estimates, fitted genes, result) are added as they are.

``--merged`` takes the embryo of larger spots whose subspots are known, and also scores the result against these and
against linear interpolation: median Pearson and within_r over the genes with at least 500 counts, and over the 60 most
spatially variable ones (all steps are run then).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from memory import peak_gb

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SOSCOPE_TEST_DATA", ROOT.parent / "shared" / "data"))
N_GENES = (60, 500, 2000, 8886)
N_STEPS, N_PRETRAIN = 400, 66  # of the defaults
N_BEST, MIN_COUNTS = 60, 500


def section(n_genes: int) -> ad.AnnData:
    """The genes of the embryo with the most counts."""
    adata = ad.read_h5ad(DATA / "embryo" / "embryo.h5ad")
    total = np.asarray(adata.X.sum(axis=0)).ravel()
    return adata[:, np.sort(np.argsort(-total, kind="stable")[:n_genes])].copy()


def arguments(adata: ad.AnnData, quality: str) -> dict[str, Any]:
    """Arguments of `tl.enhance`; builds without `quality` train on all genes."""
    image = DATA / "embryo" / "colour_x5_from_lowres.jpg"
    return {"image": image, "genes": adata.var_names.tolist()} | ({"quality": "fast"} if quality == "fast" else {})


def cost(n_genes: int, quality: str, n_steps: int) -> dict[str, float]:
    """CPU seconds of a run with the steps of the defaults, from one with fewer, and its peak memory."""
    from lightning.pytorch import Callback

    import soscope_scverse as sos

    class Clock(Callback):
        """CPU seconds of the steps of each phase, without the first."""

        phases: list[list[float]] = []  # noqa: RUF012

        def on_train_start(self, *_: Any) -> None:
            self.phases.append([])

        def on_train_batch_start(self, *_: Any) -> None:
            self.phases[-1].append(time.process_time())

        def on_train_end(self, *_: Any) -> None:
            self.phases[-1].append(time.process_time())

    adata, clock = section(n_genes), Clock()
    train = {"max_steps": n_steps, "enable_progress_bar": False, "callbacks": [clock]}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "enhanced.zarr"
        sos.tl.enhance(adata, n_subspots=7, out=out, train_kwargs=train, **arguments(adata, quality))
    total = time.process_time() - start
    pretrain_s, step_s = (float(np.median(np.diff(times))) for times in clock.phases)
    run = sum(times[-1] - times[0] for times in clock.phases)
    rest = total - run
    return {
        "step_s": step_s,
        "rest_s": rest,
        "cpu_s": rest + N_PRETRAIN * pretrain_s + N_STEPS * step_s,
        "peak_gb": peak_gb(),
    }


def scores(n_genes: int, quality: str) -> dict[str, float]:
    """Median scores of the embryo of larger spots, beside those of linear interpolation."""
    import soscope_scverse as sos
    from soscope_scverse import bench, metrics

    low, truth = bench.simulate_low_resolution(section(n_genes))
    enhanced = sos.tl.enhance(low, train_kwargs={"enable_progress_bar": False}, **arguments(low, quality))
    counted = np.asarray(truth.X.sum(axis=0)).ravel() >= MIN_COUNTS
    best = truth.var_names.isin(sos.pp.spatial_genes(truth, N_BEST))
    found = {}
    for name, values in (("", enhanced.X), ("linear_", bench.BASELINES["linear"](low))):
        for genes, which in (("counted", counted), ("best", best)):
            own = values[:, which], truth.X[:, which]
            found[f"{name}{genes}_pearson"] = float(np.nanmedian(metrics.pearson(*own)))
            found[f"{name}{genes}_within_r"] = float(np.nanmedian(metrics.within_r(*own, enhanced.obs["spot"])))
    return found


def measured(which: str, n_genes: int, quality: str, n_steps: int, build: Path) -> dict[str, float]:
    """Run a measurement with a build in a process of its own."""
    command = [sys.executable, __file__, "--one", which, str(n_genes), quality, str(n_steps)]
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for build in dict.fromkeys(row["build"] for row in rows):
        own = [row for row in rows if row["build"] == build]
        genes = [row["genes"] for row in own]
        axes[0].loglog(genes, [row["cpu_s"] for row in own], "o-", label=build)
        axes[1].semilogx(genes, [row["peak_gb"] for row in own], "o-", label=build)
    axes[0].set(xlabel="genes", ylabel="CPU seconds")
    axes[1].set(xlabel="genes", ylabel="peak memory (GB)", ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", nargs="+", type=int, default=N_GENES, help="numbers of genes")
    parser.add_argument("--steps", type=int, default=50, help="steps to measure")
    parser.add_argument("--against", type=Path, help="repository of another build")
    parser.add_argument("--builds", nargs="+", choices=["best", "fast", "against"], help="default: all")
    parser.add_argument("--merged", action="store_true", help="score larger spots instead")
    parser.add_argument("--json", type=Path, help="JSON file for the results")
    parser.add_argument("--plot", type=Path, help="image file for the plot")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        which, n_genes, quality, n_steps = args.one
        print(
            json.dumps(cost(int(n_genes), quality, int(n_steps)) if which == "cost" else scores(int(n_genes), quality))
        )
        return
    builds = {"best": ("best", ROOT), "fast": ("fast", ROOT)}
    if args.against is not None:
        builds["against"] = ("best", args.against)
    rows = []
    for n_genes in args.genes:
        for name in args.builds or builds:
            found = measured("scores" if args.merged else "cost", n_genes, builds[name][0], args.steps, builds[name][1])
            rows.append({"genes": n_genes, "build": name, **found})
            print(f"{n_genes} genes, {name}: ", "  ".join(f"{k} {v:.4g}" for k, v in found.items()), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.plot is not None and not args.merged:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
