"""Seconds and memory of training and prediction as sections grow: prints a table and writes JSON.

``python benchmarks/scaling.py --json scaling.json``. Every size runs in a process of its own, so that peak memory is
that of the size alone. A section is a square lattice of spots with four subspots, 200 genes and 64 image features, all
noise: what counts here are the shapes.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from scipy import sparse

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
N_SUBSPOTS = 4


def section(n_targets: int, n_genes: int, n_features: int) -> ad.AnnData:
    """Spots on a square lattice with counts and image features that mean nothing."""
    rng = np.random.default_rng(0)
    side = round((n_targets / N_SUBSPOTS) ** 0.5)
    spatial = 100.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    counts = sparse.csr_matrix(rng.poisson(0.5, (side**2, n_genes)).astype(np.int32))
    adata = ad.AnnData(counts, obsm={"spatial": spatial})
    features = rng.standard_normal((side**2, N_SUBSPOTS, n_features), dtype=np.float32)
    adata.obsm["subspot_features"] = features
    return adata


def measure(n_targets: int, n_genes: int, n_features: int) -> dict[str, float]:
    """Prepare a section, train for single epochs and predict its latent states."""
    import torch

    import soscope_scverse as sos

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    adata = section(n_targets, n_genes, n_features)
    seconds: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = run()
        seconds[name] = time.perf_counter() - start
        return result

    def prepare() -> None:
        sos.pp.subspots(adata, N_SUBSPOTS)
        sos.pp.spot_graph(adata)

    timed("prepare_s", prepare)
    sos.SoScope.setup_anndata(adata)
    torch.manual_seed(0)
    model = sos.SoScope(adata, test_picture=False)
    quiet = {"pretrain_epochs": 0, "enable_progress_bar": False, "accelerator": "cpu"}
    model.train(1, **quiet)  # the first training also fits the noise of the depth
    timed("one_s", lambda: model.train(1, **quiet))
    timed("two_s", lambda: model.train(2, **quiet))
    timed("latent_s", model.get_latent_representation)
    return {
        "subspots": adata.n_obs * N_SUBSPOTS,
        "spots": adata.n_obs,
        "prepare_s": seconds["prepare_s"],
        "build_s": 2 * seconds["one_s"] - seconds["two_s"],
        "epoch_s": seconds["two_s"] - seconds["one_s"],
        "latent_s": seconds["latent_s"],
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="subspots")
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.sizes[0], args.genes, args.features)))
        return
    rows = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(size)]
        command += ["--genes", str(args.genes), "--features", str(args.features)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
