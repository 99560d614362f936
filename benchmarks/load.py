"""Memory growth and concurrent use.

    python benchmarks/load.py [--sections 50] [--processes 8]

First, many small sections are processed sequentially in one process, with a figure of each; resident memory is reported
after every fifth section. Then several processes run concurrently on one machine with a shared cache of image features;
their results are compared with those of a single process, and the cached bands are counted.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import psutil

OPTIONS = {"max_epochs": 10, "accelerator": "cpu", "train_kwargs": {"enable_progress_bar": False}}


def sections(n: int) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    import soscope_scverse as sos

    process, memory = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(n):
            adata, image, _ = sos.datasets.synthetic_section(100, n_genes=20, seed=seed)
            enhanced, model = sos.tl.enhance(adata, image=image, seed=seed, return_model=True, **OPTIONS)
            model.save(Path(folder) / str(seed), save_anndata=True)
            model.get_enhanced(out=Path(folder) / f"{seed}.zarr")
            loaded = sos.SoScope.load(Path(folder) / str(seed), accelerator="cpu")
            loaded.get_latent_representation()
            sos.pl.compare(adata, enhanced, [adata.var_names[0]], save=Path(folder) / "map.png")
            plt.close("all")  # pyplot keeps every figure until it is closed
            for one_model in (model, loaded):  # scvi-tools keeps the spots of a model otherwise
                one_model.deregister_manager(one_model.adata)
            del enhanced, model, loaded, one_model
            gc.collect()
            memory.append(process.memory_info().rss / 2**20)
            if seed % 5 == 4:
                print(f"after {seed + 1:3d} sections: {memory[-1]:7.1f} MB", flush=True)
    print(f"growth from 5 to {n} sections: {100 * (memory[-1] / memory[4] - 1):+.1f} %")
    print(f"objects of scvi-tools still in memory: {len(sos.SoScope._setup_adata_manager_store)} managers")


def one(cache: Path, out: Path) -> None:
    import soscope_scverse as sos

    adata, image, _ = sos.datasets.synthetic_section(100, n_genes=20)
    enhanced = sos.tl.enhance(adata, image=image, features_kwargs={"cache": cache}, out=out, **OPTIONS)
    print(float(np.asarray(enhanced.X).sum()))


def processes(n: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, "-W", "ignore", __file__, "--one", str(folder / "cache")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        running = [
            subprocess.Popen([*command, str(folder / f"{i}.zarr")], stdout=subprocess.PIPE, text=True, env=environment)
            for i in range(n)
        ]
        sums = {process.communicate()[0].strip() for process in running}
        seconds = time.perf_counter() - start
        assert all(process.returncode == 0 for process in running), "a process failed"
        alone = subprocess.run([*command, str(folder / "alone.zarr")], capture_output=True, text=True, env=environment)
        left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
        hidden = sorted(path.name for path in (folder / "cache").iterdir() if path.name.startswith("."))
        print(f"{n} processes: {seconds:.0f} s; results {'equal' if sums == {alone.stdout.strip()} else 'DIFFER'}")
        print(f"bands in the cache: {len(list((folder / 'cache').iterdir()))}; temporary files left: {left + hidden}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=50)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--one", nargs=2, type=Path, metavar=("CACHE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.one:
        one(*options.one)
        return
    if options.sections:
        sections(options.sections)
    if options.processes:
        processes(options.processes)


if __name__ == "__main__":
    main()
