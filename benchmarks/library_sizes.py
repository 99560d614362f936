"""How much of the error within spots is due to the unknown library sizes of the subspots; prints a table.

``python benchmarks/library_sizes.py --tasks her2st-C2``. The enhanced profiles are scaled so that each subspot has its
true library size (over the scored genes) and scored again: ``within_r``, and the same given the true library sizes,
medians over genes and means over seeds. The last column is the median over genes of the share of the true variance
within spots that is explained by the library size alone.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import numpy as np
import quality
from quality_report import markdown

from soscope_scverse import _keys as keys
from soscope_scverse import bench, im, metrics, tl


def with_library_sizes(profiles: np.ndarray, library_size: np.ndarray) -> np.ndarray:
    """Scale the rows to library sizes; rows without counts remain 0."""
    total = profiles.sum(axis=1, keepdims=True)
    return profiles * np.divide(library_size[:, None], total, out=np.zeros_like(total), where=total > 0)


def predictions(task: quality.Task, seeds: list[int]) -> dict[str, list[np.ndarray]]:
    """Of the strongest baseline and of soScope, one for each seed."""
    genes, quiet = task.low.var_names.tolist(), {"enable_progress_bar": False}
    enhanced = [tl.enhance(task.low, genes=genes, seed=seed, train_kwargs=quiet).X for seed in seeds]
    return {"kriging_image": [bench.BASELINES["kriging_image"](task.low)], quality.SOSCOPE: enhanced}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = ["her2st-C2", "her2st-C3", "her2st-C4"]
    parser.add_argument("--tasks", nargs="+", choices=quality.TASKS, default=tasks, metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rows = []
    for name in args.tasks:
        task = quality.TASKS[name]()
        if task.image is not None:
            im.features(task.low, task.image)
        truth, spot = task.truth.X.toarray().astype(float), task.truth.obs[keys.SPOT]
        library_size = truth.sum(axis=1)
        alone = with_library_sizes(np.tile(truth.mean(axis=0), (len(truth), 1)), library_size)
        explained = np.nanmedian(metrics.within_r(alone, truth, spot) ** 2)
        for method, runs in predictions(task, args.seeds).items():
            given = [with_library_sizes(np.asarray(run, dtype=float), library_size) for run in runs]
            scores = [np.mean([np.nanmedian(metrics.within_r(x, truth, spot)) for x in of]) for of in (runs, given)]
            rows.append((name, method, *(f"{score:.3f}" for score in scores), f"{explained:.3f}"))
    header = ("task", "method", "within_r", "given the true library sizes", "explained by library sizes")
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
