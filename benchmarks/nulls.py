"""Images that have nothing to do with the tissue: how strongly they are used, and what they cost.

``python benchmarks/nulls.py --csv nulls.csv --figure docs/_static/nulls.png`` enhances merged sections with the
features of permuted, turned, shifted, foreign and merely smooth images, with those of the true image, and without an
image. Runs that are in the CSV file are not run again.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import quality
from quality_report import markdown
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import im, metrics, pp, tl

TASKS = ("her2st-C2", "her2st-C3", "her2st-C4", "MOB1", "MOB2")
TRUE, NONE = "true", "none"
TURNS = {
    "turned by 90": [[0, -1], [1, 0]],
    "turned by 180": [[-1, 0], [0, -1]],
    "turned by 270": [[0, 1], [-1, 0]],
    "mirrored left to right": [[-1, 0], [0, 1]],
    "mirrored top to bottom": [[1, 0], [0, -1]],
}


@cache
def task(name: str) -> quality.Task:
    """A merged section with its image features."""
    made = quality.TASKS[name]()
    pp.spot_graph(made.low)
    im.features(made.low, made.image)
    return made


def nulls(name: str, n_random: int) -> Iterator[tuple[str, np.ndarray]]:
    """Kinds of null images and their features, n_spots x n_subspots x n_image_features."""
    low = task(name).low
    features, xy = low.obsm[keys.FEATURES], low.obsm[keys.SUBSPOTS].reshape(-1, 2)
    for seed in range(n_random):
        rng = np.random.default_rng(seed)
        yield f"permuted {seed}", features[rng.permutation(len(features))]
        yield f"smooth {seed}", smooth(features, xy, rng)
    flat, centre = features.reshape(len(xy), -1), (xy.min(axis=0) + xy.max(axis=0)) / 2
    for kind, turn in TURNS.items():
        yield kind, flat[cKDTree(xy).query((xy - centre) @ np.array(turn) + centre)[1]].reshape(features.shape)
    for axis, direction in enumerate(("right", "down")):
        step = np.ptp(xy[:, axis]) / 3 * np.eye(2)[axis]
        wrapped = xy.min(axis=0) + (xy - xy.min(axis=0) + step) % (np.ptp(xy, axis=0) + 1e-6)
        yield f"shifted {direction}", flat[cKDTree(xy).query(wrapped)[1]].reshape(features.shape)
    for other in TASKS:
        if other != name:
            foreign = task(other).low
            there = foreign.obsm[keys.SUBSPOTS].reshape(-1, 2)
            stretched = (xy - xy.min(axis=0)) / np.ptp(xy, axis=0) * np.ptp(there, axis=0) + there.min(axis=0)
            taken = foreign.obsm[keys.FEATURES].reshape(len(there), -1)[cKDTree(there).query(stretched)[1]]
            yield f"of {other}", taken.reshape(features.shape)


def smooth(features: np.ndarray, xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random fields of one to four pitches with the covariance of the features (random Fourier features)."""
    centred = (features - features.mean(axis=(0, 1))).reshape(len(xy), -1)
    _, size, patterns = np.linalg.svd(centred, full_matrices=False)
    pitch = np.median(cKDTree(xy).query(xy, k=2)[0][:, 1]) * features.shape[1] ** 0.5
    fields = np.empty((len(xy), len(size)))
    for field in fields.T:
        frequency = rng.standard_t(3, size=(200, 2)) / (pitch * np.exp(rng.uniform(0, np.log(4))))
        wave = np.cos(xy @ frequency.T + rng.uniform(0, 2 * np.pi, 200)).sum(axis=1)
        field[:] = (wave - wave.mean()) / wave.std()
    return ((fields * size / len(xy) ** 0.5) @ patterns).reshape(features.shape).astype(np.float32)


def run(name: str, kind: str, features: np.ndarray | None) -> dict[str, Any]:
    """Figures of the default with some image features, or none."""
    low, truth, _ = task(name)
    low = low.copy()
    del low.obsm[keys.FEATURES]
    if features is not None:
        low.obsm[keys.FEATURES] = features
    options = {"genes": low.var_names.tolist(), "train_kwargs": {"enable_progress_bar": False}}
    encoder = {} if features is None else {"encoder": "precomputed"}
    found = tl.enhance(low, sources="positions" if features is None else "both", **encoder, **options)
    return {
        "task": name,
        "image": kind,
        "strength": found.uns["soscope"]["image_strength"],
        "pearson": float(np.nanmedian(metrics.pearson(found.X, truth.X))),
        "within_r": float(np.nanmedian(metrics.within_r(found.X, truth.X, truth.obs["spot"]))),
    }


def runs(names: list[str], n_random: int, path: Path) -> pd.DataFrame:
    """All runs, those of the file included; each is added to the file when it is finished."""
    done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["task", "image"])
    for name in names:
        images = {NONE: None, TRUE: task(name).low.obsm[keys.FEATURES], **dict(nulls(name, n_random))}
        for kind, features in images.items():
            if not ((done["task"] == name) & (done["image"] == kind)).any():
                done = pd.concat([done, pd.DataFrame([run(name, kind, features)])], ignore_index=True)
                done.to_csv(path, index=False)
    return done


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """What images change against none: the true one, the median and the worst null of every task."""
    rows = []
    for name, own in table.groupby("task", sort=False):
        own = own.set_index("image")
        change = own[["pearson", "within_r"]] - own.loc[NONE, ["pearson", "within_r"]]
        null = own.index.difference([NONE, TRUE])
        rows.append(
            {
                "task": name,
                "nulls": len(null),
                "strength, true": own.loc[TRUE, "strength"],
                "strength, median null": own.loc[null, "strength"].median(),
                **{f"{metric}, true": change.loc[TRUE, metric] for metric in change},
                **{f"{metric}, median null": change.loc[null, metric].median() for metric in change},
                **{f"{metric}, worst null": change.loc[null, metric].min() for metric in change},
                "nulls that cost more than .01": int((change.loc[null] < -0.01).any(axis=1).sum()),
            }
        )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Strength of every image against the change of within_r."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, own in table.groupby("task", sort=False):
        own = own.set_index("image")
        change = own["within_r"] - own.loc[NONE, "within_r"]
        null = own.index.difference([NONE, TRUE])
        points = ax.scatter(own.loc[null, "strength"], change[null], s=12, label=name)
        ax.scatter(own.loc[TRUE, "strength"], change[TRUE], s=60, marker="*", color=points.get_facecolor())
    ax.axhline(0, color="0.7", linewidth=0.8)
    ax.set_xlabel("strength of the image")
    ax.set_ylabel("within_r minus that without an image")
    ax.legend(title="null images; stars are true ones", fontsize=7, title_fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("nulls.csv"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--random", type=int, default=5, help="permuted and smooth images of each section")
    arguments = parser.parse_args()
    logging.getLogger("soscope_scverse").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    table = runs(arguments.tasks, arguments.random, arguments.csv)
    print(
        markdown(
            list(summary(table)),
            [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in summary(table).to_numpy()],
        )
    )
    if arguments.figure is not None:
        draw(table, arguments.figure)


if __name__ == "__main__":
    main()
