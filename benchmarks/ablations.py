"""What the defaults are worth: one at a time replaced by its alternatives on sections whose subspots are known.

``python benchmarks/ablations.py`` adds each run to ``benchmarks/ablations.csv`` and prints the table. Runs that are in
the file are not run again, so the work can be interrupted and divided:

    python benchmarks/ablations.py --tasks her2st-C2 --settings "masked=0.0" "decoder=joint"
    python benchmarks/ablations.py --report ablations.md   # runs nothing, writes what is in the file

Scores are medians over genes, averaged over the seeds: ``pearson`` / ``within_r`` as in ``docs/benchmarks.md``;
``coverage`` is the share of the true subspots inside the central 90 % of 100 posterior samples, pooled over subspots
and genes. Settings marked with * are constants of a module, which the script patches.

``python benchmarks/ablations.py --checks`` prints what needs no training: lattices, variances, the
alignment and the choice of genes.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import anndata as ad
import numpy as np
import pandas as pd
import quality
import torch
from quality_report import markdown
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse import im, metrics, pp, tl
from soscope_scverse.im import _alignment, _widths
from soscope_scverse.im.encoders import texture
from soscope_scverse.model import _tiles
from soscope_scverse.model.estimates import gp, kriging, library_size, uncertainty
from soscope_scverse.module import likelihoods, spot_means, vae
from soscope_scverse.pp import _lattice

N_SAMPLES, LEVEL = 100, 0.9
TASKS = ("her2st-C2", "her2st-C3", "MOB1")
DEFAULT = "default"


class Setting(NamedTuple):
    """What differs from the defaults."""

    enhance: Mapping[str, Any] = {}
    """Arguments of `tl.enhance`."""
    model: Mapping[str, Any] = {}
    train: Mapping[str, Any] = {}
    graph: Mapping[str, Any] = {}
    features: Mapping[str, Any] | None = None
    """Arguments of `im.features`; None takes the features that all settings share."""
    patches: tuple[tuple[Any, str, Any], ...] = ()


def enhance(name: str, *values: Any) -> dict[str, Setting]:
    return {f"{name}={value}": Setting(enhance={name: value}) for value in values}


def model(name: str, *values: Any) -> dict[str, Setting]:
    return {f"{name}={value}": Setting(model={name: value}) for value in values}


def train(name: str, *values: Any) -> dict[str, Setting]:
    return {f"{name}={value}": Setting(train={name: value}) for value in values}


def patched(name: str, *values: Any, rooms: tuple[Any, ...], features: Mapping[str, Any] | None = None) -> dict:
    return {
        f"*{name}={value}": Setting(features=features, patches=tuple((room, name, value) for room in rooms))
        for value in values
    }


def wide(*values: int) -> dict[str, Setting]:
    """Texture of four patch widths, 304 features, reduced to fewer components."""
    contexts = {"context": [2.0, 4.0, 8.0, 16.0]}
    return {
        f"304 features, n_image_components={n}": Setting(model={"n_image_components": n}, features=contexts)
        for n in values
    }


def neighbors(n: int) -> dict[str, Setting]:
    weights = partial(_tiles.interpolation_weights, n_neighbors=n)
    return {f"*n_neighbors={n}": Setting(patches=((_tiles, "interpolation_weights", weights),))}


def last_rate(share: float) -> dict[str, Setting]:
    """Cosine decay to another share of the learning rate; 1 is a constant one."""
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR

    def schedule(optimizer: torch.optim.Optimizer, T_max: int, eta_min: float) -> Any:
        return cosine(optimizer, T_max=T_max, eta_min=share * optimizer.param_groups[0]["lr"])

    return {f"*last_lr={share}": Setting(patches=((torch.optim.lr_scheduler, "CosineAnnealingLR", schedule),))}


SETTINGS: dict[str, Setting] = {
    DEFAULT: Setting(),
    **enhance("likelihood", "poisson"),
    **enhance("expectation", "denoised", "decoded"),
    **enhance("sources", "positions"),
    **model("decoder", "joint"),
    **model("interpolation", "none"),
    **model("observation", "gaussian"),
    **model("dispersion", "subspot", "shape"),
    **model("loss_per", "spot"),
    **model("image_deviation", "observed"),
    **model("kriging", False),
    **model("image_strength", 0.0, 1.0),
    **patched("_OFFSET", 0.1, 1.0, rooms=(kriging,)),
    **model("library_size_noise", 0.0),
    **model("image_shrinkage", 10.0, 160.0),
    **model("masked", 0.0, 0.15, 0.5),
    **model("bandwidth", 0.25, 1.0),
    **train("max_steps", 200, 800),
    **train("kl_weight", 0.1, 3.0),
    "train_size=0.9, early_stopping=True": Setting(train={"train_size": 0.9, "early_stopping": True}),
    **train("pretrain_epochs", 0, 200),
    **train("gradient_clip_val", 1.0, None),
    **train("lr", 5e-4, 5e-3),
    **train("weight_decay", 0.0, 1e-3),
    **neighbors(4),
    **neighbors(16),
    **model("n_latent", 8, 128),
    **model("n_hidden", 64, 256),
    **model("n_layers", 1, 5),
    **model("image_weight", 0.0, 10.0),
    **model("similarity_strength", 1.25, 5.0),
    **model("n_graph_samples", 128, None),
    **last_rate(0.0),
    **last_rate(1.0),
    **patched("N_RESIDUALS", 2, 8, rooms=(vae, uncertainty)),
    **patched("MAX_EFFECT", 2.0, 100.0, rooms=(likelihoods, spot_means)),
    **patched("_MIN_NOISE", 1e-4, 0.1, rooms=(library_size,)),
    **{f"spot_graph strength={value}": Setting(graph={"strength": value}) for value in (1.25, 5.0)},
    "spot_graph normalize=False": Setting(graph={"normalize": False}),
    **patched("PATCH_IN_PITCHES", 2, 8, rooms=(_widths,), features={}),
    **patched("_WINDOWS", (1.0,), (0.5, 1.0), rooms=(texture,), features={}),
    **patched("_COARSE", (1,), rooms=(texture,), features={}),
    **wide(32, 128, 304),
    **model("n_image_components", 8, 32),
}


@contextmanager
def changed(setting: Setting) -> Iterator[None]:
    patches = [mock.patch.object(room, name, value) for room, name, value in setting.patches]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


SEEDS = (0, 1)
SCORES = quality.ROOT / "benchmarks" / "ablations.csv"


def run(task: quality.Task, setting: Setting, seed: int) -> dict[str, float]:
    """Scores of one run; NaN where the training diverged."""
    spots = task.low.copy()
    if setting.features is not None:
        del spots.obsm[keys.FEATURES]
    if setting.graph:
        pp.spot_graph(spots, **setting.graph)
    start = time.process_time()
    try:
        with changed(setting):
            enhanced, trained = tl.enhance(
                spots,
                **setting.enhance,
                image=None if setting.features is None else task.image,
                genes=spots.var_names.tolist(),
                seed=seed,
                features_kwargs=setting.features or {},
                model_kwargs=setting.model,
                train_kwargs={"enable_progress_bar": False, **setting.train},
                return_model=True,
            )
            torch.manual_seed(seed)
            samples = trained.sample_enhanced(N_SAMPLES)
    except FloatingPointError:
        return dict.fromkeys(("pearson", "within_r", "coverage", "cpu_seconds"), np.nan)
    truth = task.truth
    return {
        "pearson": float(np.nanmedian(metrics.pearson(enhanced.X, truth.X))),
        "within_r": float(np.nanmedian(metrics.within_r(enhanced.X, truth.X, truth.obs[keys.SPOT]))),
        "coverage": float(metrics.central_coverage(metrics.pit(truth.X, samples, seed=seed), LEVEL).mean()),
        "cpu_seconds": time.process_time() - start,
    }


def task_of(name: str) -> quality.Task:
    """The task, with the image features that all settings share."""
    task = quality.TASKS[name]()
    if task.image is not None:
        im.features(task.low, task.image)
    return task


def table(df: pd.DataFrame) -> str:
    """Setting x task, and the mean difference to the default with the same task and seed."""
    scores = df.set_index(["setting", "task", "seed"])[["pearson", "within_r", "coverage"]]
    base, rows = scores.loc[DEFAULT], []
    for setting in df["setting"].unique():
        own = scores.loc[setting]
        means, shift = own.groupby("task").mean(), (own - base.loc[own.index]).groupby("task").mean().mean()
        cells = [
            f"{means.loc[task, 'pearson']:.3f} / {means.loc[task, 'within_r']:.3f} / {means.loc[task, 'coverage']:.3f}"
            if task in means.index
            else ""
            for task in df["task"].unique()
        ]
        change = f"{shift['pearson']:+.3f} / {shift['within_r']:+.3f} / {shift['coverage']:+.3f}"
        rows.append([setting, *cells, str(own.index.get_level_values("seed").nunique()), change])
    return markdown(["setting", *df["task"].unique(), "seeds", "mean difference"], rows)


# ------------------------------------------------------------------------------------------- checks without a training


def lattices() -> None:
    """Share of lattices of which kind and cell are found (to 10 %), and of random points that are taken for one."""
    rng, cases = np.random.default_rng(0), []
    row, col = np.indices((14, 14)).reshape(2, -1)
    for _ in range(20):
        turn, stretch = rng.uniform(0, np.pi), np.array([rng.uniform(1, 1.15), 1])
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        for kind, xy in (("square", np.c_[col, row]), ("hex", np.c_[col + row % 2 / 2, row * 0.75**0.5])):
            for jitter in (0.0, 0.03, 0.06, 0.09):
                kept = rng.random(len(xy)) > 0.2
                moved = (xy * stretch + rng.normal(0, jitter, xy.shape)) @ rotation
                area = stretch[0] * (1 if kind == "square" else 0.75**0.5)
                cases.append((f"jitter {jitter}", moved[kept], kind, area))
        points = rng.uniform(0, 14, (200, 2))
        cases.append(("random points", points, "none", np.nan))
        cases.append(("spaced points", spaced(points), "none", np.nan))

    def right(xy: np.ndarray, kind: str, area: float) -> bool:
        found = _lattice.lattice_or_none(xy, None)
        if found is None or kind == "none":
            return found is not None
        return found.kind == kind and abs(abs(np.linalg.det(found.basis)) / area - 1) < 0.1

    names = list(dict.fromkeys(case[0] for case in cases))
    variants: dict[str, dict[str, Any]] = {
        DEFAULT: {},
        **{f"_MIN_SUPPORT={v}": {"_MIN_SUPPORT": v} for v in (0.15, 0.45)},
        **{f"_HEX_COSINE={v}": {"_HEX_COSINE": v} for v in (0.15, 0.4)},
        **{f"_N_NEIGHBORS={v}": {"_N_NEIGHBORS": v} for v in (6, 8, 20)},
        **{f"_N_SAMPLED={v}": {"_N_SAMPLED": v} for v in (50, 100)},
        **{f"eps={v}": {"DBSCAN": scaled_eps(v / 0.12)} for v in (0.06, 0.24)},
    }
    rows = []
    for name, constants in variants.items():
        with mock.patch.multiple(_lattice, **constants) if constants else nullcontext():
            shares = {n: np.mean([right(*case[1:]) for case in cases if case[0] == n]) for n in names}
        rows.append([name, *(f"{shares[n]:.2f}" for n in names)])
    print("\nLattices without array indices: share found, 20 % of the spots missing, stretched by up to 1.15\n")
    print(markdown(["constant", *names], rows))


def spaced(xy: np.ndarray) -> np.ndarray:
    """Points that push each other apart, as cells do."""
    for _ in range(50):
        distance, near = cKDTree(xy).query(xy, k=7)
        push = (xy[:, None] - xy[near[:, 1:]]) / distance[:, 1:, None] ** 2
        xy = (xy + 0.02 * push.sum(axis=1).clip(-5, 5)).clip(0, 14)
    return xy


def scaled_eps(factor: float) -> Any:
    cluster = _lattice.DBSCAN
    return lambda eps, min_samples: cluster(eps=factor * eps, min_samples=min_samples)


def off_lattice(names: Iterable[str]) -> None:
    """How far real spots lie off their lattice, in pitches."""
    rows = []
    for name in names:
        xy = np.asarray(ad.read_h5ad(quality.DATA / SECTIONS[name][0]).obsm[keys.SPATIAL], dtype=float)
        lattice = _lattice.find_lattice(xy)
        index = np.rint((xy - xy[0]) @ np.linalg.inv(lattice.basis))
        design = np.c_[index, np.ones(len(index))]
        off = np.linalg.norm(xy - design @ np.linalg.lstsq(design, xy, rcond=None)[0], axis=1) / lattice.pitch
        rows.append([name, lattice.kind, f"{np.sqrt((off**2).mean()):.3f}", f"{np.quantile(off, 0.99):.3f}"])
    print("\nDistance of spots from the best lattice, in pitches\n")
    print(markdown(["section", "kind", "root mean square", "99 % quantile"], rows))


def variances(names: Iterable[str]) -> None:
    """Largest and median change of the log dispersion, and the length, with finer grids and larger blocks."""
    finer: dict[str, dict[str, Any]] = {
        DEFAULT: {},
        "3 nodes": dict(zip(("_NODES", "_WEIGHTS"), np.polynomial.hermite_e.hermegauss(3), strict=True)),
        "20 nodes": dict(zip(("_NODES", "_WEIGHTS"), np.polynomial.hermite_e.hermegauss(20), strict=True)),
        "65 dispersions": {"_LOG_DISPERSIONS": np.linspace(-4, 4, 65)},
        "dispersions to e^8": {"_LOG_DISPERSIONS": np.linspace(-8, 8, 33)},
        "81 shares": {"_SHARES": 1 / (1 + np.exp(-np.linspace(-5, 5, 81)))},
        "41 lengths": {"_LENGTHS": np.geomspace(0.5, 20, 41)},
        "blocks of 100": {"block": 100},
        "blocks of 400": {"block": 400},
    }
    rows = []
    for name in names:
        low = quality.TASKS[name]().low
        base_line = None
        for variant, constants in finer.items():
            constants = dict(constants)
            block = constants.pop("block", gp._GROUP_SPOTS)
            with mock.patch.multiple(uncertainty, **constants) if constants else nullcontext():
                with mock.patch.object(gp, "_GROUP_SPOTS", block):
                    found = uncertainty.feature_variation(low.X, low.obsm[keys.SPATIAL])
                    noise = library_size.library_size_noise(low.X, low.obsm[keys.SPATIAL])
            base_line = base_line or found
            change = np.abs(np.log(found.dispersion / base_line.dispersion))
            rows.append(
                [
                    name,
                    variant,
                    f"{np.median(change):.4f}",
                    f"{change.max():.4f}",
                    f"{found.length:.2f}",
                    f"{noise:.4f}",
                ]
            )
    print("\nVariances: change of the log dispersion over genes; length in spot distances; library-size noise\n")
    print(markdown(["task", "variant", "median", "largest", "length", "noise"], rows))


SECTIONS = {
    "C2": ("her2st/C2.h5ad", "her2st/C2_HE.jpg"),
    "C3": ("her2st/C3.h5ad", "her2st/C3_HE.jpg"),
    "C4": ("her2st/C4.h5ad", "her2st/C4_HE.jpg"),
    "MOB1": ("mouse_ob/MOB1.h5ad", "mouse_ob/MOB1_HE.jpg"),
    "MOB2": ("mouse_ob/MOB2.h5ad", "mouse_ob/MOB2_HE.jpg"),
    "embryo": ("embryo/embryo.h5ad", "embryo/colour_x5_from_lowres.jpg"),
}


def alignment() -> None:
    """Warnings on six sections as given (none is right) and in five wrong placements each."""
    least = {"correlation": _alignment._CORRELATED, "on_tissue": _alignment._ON_TISSUE, "covered": _alignment._COVERED}
    variants = {
        DEFAULT: (_alignment._CLEARLY, least),
        **{f"_CLEARLY={value}": (value, least) for value in (0.0, 0.05, 0.3)},
        **{f"no least {name}": (_alignment._CLEARLY, {**least, name: -1.0}) for name in least},
    }
    found = {name: [0, 0] for name in variants}
    for section, image in SECTIONS.values():
        adata = ad.read_h5ad(quality.DATA / section)
        small, scale = im.thumbnail(im.open_image(quality.DATA / image))
        (width, height), xy = np.array(small.shape[1::-1]) / scale, np.asarray(adata.obsm[keys.SPATIAL], dtype=float)
        x, y = xy.T
        wrong = [np.c_[y, x], np.c_[width - x, y], np.c_[x, height - y], np.c_[width - x, height - y], xy / 2]
        for i, placed in enumerate([xy, *wrong]):
            adata.obsm[keys.SPATIAL] = placed
            table = im.check_alignment(adata, small, image_scale=scale).table
            for name, (clearly, limits) in variants.items():
                found[name][min(i, 1)] += is_suspected(table, clearly, limits)
    print("\nAlignment: warnings as given (of 6) and in wrong placements (of 30)\n")
    rows = [[name, *map(str, counts)] for name, counts in found.items()]
    print(markdown(["constant", "as given", "wrong"], rows))


def is_suspected(table: pd.DataFrame, clearly: float, least: Mapping[str, float]) -> bool:
    """Whether `im.check_alignment` warns with other limits."""
    scores = table.apply(_alignment._score, axis=1)
    best = scores.idxmax()
    fits = all(table.loc[best, name] >= value for name, value in least.items())
    return bool(scores[best] > scores.iloc[0] + clearly and fits)


def genes(names: Iterable[str]) -> None:
    """Share of the 500 (100) genes by Moran's I among all that are found among fewer candidates."""
    rows = []
    for name in names:
        adata = ad.read_h5ad(quality.DATA / SECTIONS[name][0])
        for n in (100, 500):
            best = set(pp.spatial_genes(adata, n, n_candidates=adata.n_vars))
            shares = [len(best & set(pp.spatial_genes(adata, n, n_candidates=c))) / n for c in (1000, 2500, 5000)]
            rows.append([name, str(n), *(f"{share:.2f}" for share in shares)])
    print("\nGenes: share of those with the highest Moran's I of all that are among the most counted\n")
    print(markdown(["section", "genes", "1,000", "2,500", "5,000"], rows))


CHECKS: dict[str, Callable[[], None]] = {
    "lattices": lattices,
    "off_lattice": partial(off_lattice, SECTIONS),
    "variances": partial(variances, ("her2st-C2", "MOB1", "embryo")),
    "genes": partial(genes, ("C2", "embryo")),
    "alignment": alignment,
}


# ---------------------------------------------------------------------------------------------------------------- main


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=quality.TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument(
        "--checks",
        nargs="*",
        choices=CHECKS,
        metavar="CHECK",
        help=f"all or some of {', '.join(CHECKS)}",
    )
    parser.add_argument("--csv", type=Path, default=SCORES, help="keeps every run; those in it are not run again")
    parser.add_argument("--report", type=Path, help="Markdown file to write from the runs in the CSV; runs nothing")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if args.checks is not None:
        for name in args.checks or CHECKS:
            CHECKS[name]()
        return
    if args.report is None:
        run_missing(args)
    df = pd.read_csv(args.csv)
    wanted = df["setting"].isin([DEFAULT, *args.settings]) & df["task"].isin(args.tasks) & df["seed"].isin(args.seeds)
    minutes = df.loc[wanted, "cpu_seconds"].sum() / 60
    text = f"{table(df[wanted])}\n\n{minutes:.0f} minutes of CPU time, {quality.machine()}.\n"
    if args.report is None:
        print(text)
    else:
        args.report.write_text(text)


def run_missing(args: argparse.Namespace) -> None:
    """Run what is not in the CSV, task by task, and add each run to it."""
    rows = pd.read_csv(args.csv).to_dict("records") if args.csv.exists() else []
    done = {(row["setting"], row["task"], row["seed"]) for row in rows}
    for name in args.tasks:
        todo = [(s, seed) for s in dict.fromkeys([DEFAULT, *args.settings]) for seed in args.seeds]
        todo = [(setting, seed) for setting, seed in todo if (setting, name, seed) not in done]
        task = task_of(name) if todo else None
        for setting, seed in todo:
            rows.append({"setting": setting, "task": name, "seed": seed, **run(task, SETTINGS[setting], seed)})
            pd.DataFrame(rows).to_csv(args.csv, index=False)


if __name__ == "__main__":
    main()
