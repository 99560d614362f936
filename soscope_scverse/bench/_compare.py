"""Every method on one task with a known answer, in one table."""

from __future__ import annotations

import ctypes
import gc
import inspect
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm.auto import tqdm

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as validation
from soscope_scverse import im, metrics
from soscope_scverse.bench import _baselines as baselines
from soscope_scverse.bench._baselines import BASELINES
from soscope_scverse.metrics._agreement import Matrix

logger = logging.getLogger(__name__)

Run: TypeAlias = Callable[..., Matrix]
"""A method: the spots, and ``seed`` if it has that argument, to n_targets x n_features."""

SOSCOPE = "soscope"
COLUMNS = ("task", "method", "seed", "gene", "metric", "value", "seconds", "peak_mb")
METRICS = ("pearson", "within_r", "mse", "normalized_pearson")
IMAGE_BASELINES: tuple[Run, ...] = (
    baselines.image_linear,
    baselines.image_gaussian_process,
    baselines.image_mlp,
    baselines.joint_mlp,
)
_OF_FEATURES = ("encoder", "image_scale", "library_key")  # arguments that `tl.enhance` hands on to `im.features`
_NOT_COMPARED = ("adata", "return_model", "save_model", "out")
_OF_IMAGE = ("image", "encoder", "image_scale", "features_kwargs")


def compare(
    low: AnnData,
    truth: AnnData,
    image: Any = None,
    *,
    methods: Sequence[str] | Mapping[str, Run | Mapping[str, Any]] | None = None,
    seeds: Sequence[int] = (0, 1),
    task: str = "task",
    progress: bool = True,
    enhance_kwargs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Run methods on a section whose subspots are known and score each gene.

    Image features are computed once and shared by all methods. Without an image, the baselines that need one are left
    out.

    Parameters
    ----------
    low, truth
        Spots and their true subspots, as :func:`~soscope_scverse.bench.simulate_low_resolution` returns them, with the
        same features. ``X`` of both is used. They are not changed.
    image
        Image of the tissue, of any kind that :func:`~soscope_scverse.im.open_image` takes. None takes the features in
        ``low.obsm["subspot_features"]`` or the image in ``low.uns["spatial"]``, if there is one.
    methods
        Names out of :data:`~soscope_scverse.bench.BASELINES` and ``"soscope"``; None is all of them. Or a mapping from
        a name of your choice to a function of the spots that returns n_targets x n_features (rows in the order of
        `truth`), or to a dict of arguments of :func:`~soscope_scverse.tl.enhance`, ``{}`` for the defaults. A dict
        with ``"image"``, ``"encoder"``, ``"image_scale"`` or ``"features_kwargs"`` does not share the features, but
        computes its own; ``{"image": None}`` does without an image.
    seeds
        soScope, and every function with an argument ``seed``, is run once for each of them; other methods run once.
    task
        Name of the task in the table.
    progress
        Show a progress bar.
    enhance_kwargs
        Arguments of :func:`~soscope_scverse.tl.enhance` for ``"soscope"`` and for all dicts, which come first.

    Returns
    -------
    pandas.DataFrame
        One row for each run, gene and metric, with the columns below.
    ``task``, ``method``, ``gene``
        Names.
    ``seed``
        Missing for methods without one (type ``Int64``).
    ``metric``, ``value``
        ``pearson``, ``within_r``, ``mse`` and ``normalized_pearson`` of :mod:`soscope_scverse.metrics`. NaN if the
        truth of the gene is constant, or if the training diverged, of which a warning tells.
    ``seconds``
        Wall time of the run, without the shared image features and without imports of soScope.
    ``peak_mb``
        How far the resident memory of the process rose during the run above its level at the start, in megabytes of
        10^6 bytes: Linux's ``VmHWM``, reset before each run, after what earlier runs freed is given back to the system
        (by glibc). It counts all allocations in main memory, those of torch and of other threads included, and none on
        a GPU. What an allocator keeps in spite of that counts as there already. NaN on other systems.

    Raises
    ------
    TypeError, ValueError
        If `truth` does not belong to `low`, a method is unknown, there is nothing to run, or a prediction has another
        shape than the truth.

    See Also
    --------
    soscope_scverse.pl.benchmark : Plot of the table.

    Examples
    --------
    >>> low, truth = simulate_low_resolution(adata)  # doctest: +SKIP
    >>> variants = {"soscope": {}, "no image": {"image": None}, "linear": BASELINES["linear"]}  # doctest: +SKIP
    >>> df = compare(low, truth, "section.tif", methods=variants)  # doctest: +SKIP
    """
    for adata in (low, truth):
        validation.profiles(validation.anndata(adata), None)
    _check_truth(low, truth)
    seeds = np.atleast_1d(np.asarray(seeds)).tolist()
    for seed in seeds:
        validation.number("seeds", seed, 0, 2**63 - 1, whole=True)
    from soscope_scverse import tl  # imports torch

    validation.keywords("enhance_kwargs", enhance_kwargs or {}, tl.enhance)
    shared = {"genes": low.var_names.tolist(), **(enhance_kwargs or {})}
    runs = {
        name: method if callable(method) else _enhancer(method, shared, image)
        for name, method in _named_methods(methods).items()
    }
    spots = low.copy()
    if not _has_features(spots, image, shared):
        left_out = [name for name, run in runs.items() if run in IMAGE_BASELINES]
        runs = {name: run for name, run in runs.items() if name not in left_out}
        logger.info("Without an image there are no %s.", left_out)
    jobs = [(name, seed) for name, run in runs.items() for seed in (seeds if _takes_seed(run) else [None])]
    if not jobs:
        msg = f"Expected something to run, found methods {list(runs)} and seeds {list(seeds)}. Name one of each."
        raise ValueError(msg)
    tables = []
    for name, seed in tqdm(jobs, desc=task, disable=not progress):
        prediction, seconds, peak_mb = _measured(name, runs[name], spots.copy(), seed)
        scores = _scores(name, prediction, truth)
        tables.append(scores.assign(task=task, method=name, seed=seed, seconds=seconds, peak_mb=peak_mb))
    return pd.concat([table.astype({"seed": "Int64"}) for table in tables], ignore_index=True)[list(COLUMNS)]


def _check_truth(low: AnnData, truth: AnnData) -> None:
    """Rows of the truth must be the subspots of the spots, in their order."""
    if not low.var_names.equals(truth.var_names):
        n_shared = len(low.var_names.intersection(truth.var_names))
        msg = (
            f"Expected the same features in the same order in `low` and `truth`, found {low.n_vars} and "
            f"{truth.n_vars}, {n_shared} of them in both. Subset both with one list of names."
        )
        raise ValueError(msg)
    missing = [slot for slot in (keys.SUBSPOTS, keys.EXPOSURE) if slot not in low.obsm]
    if missing:
        msg = f"Expected the division of the spots in `low.obsm`, found no {missing}. Run `pp.subspots` first."
        raise ValueError(msg)
    spots = low.obs_names[np.nonzero(np.asarray(low.obsm[keys.EXPOSURE]) > 0)[0]]
    found = truth.obs[keys.SPOT].astype(str).to_numpy() if keys.SPOT in truth.obs else None
    if found is None or not np.array_equal(found, spots.astype(str)):
        what = f"no `truth.obs['{keys.SPOT}']`" if found is None else f"{truth.n_obs} rows of other spots or order"
        msg = (
            f"Expected one row of `truth` for each of the {len(spots)} subspots of `low`, spot by spot, with the spot "
            f"in `truth.obs['{keys.SPOT}']`, found {what}. Make both with `bench.simulate_low_resolution`."
        )
        raise ValueError(msg)


def _named_methods(
    methods: Sequence[str] | Mapping[str, Run | Mapping[str, Any]] | None,
) -> Mapping[str, Run | Mapping[str, Any]]:
    known: dict[str, Run | Mapping[str, Any]] = {**BASELINES, SOSCOPE: {}}
    if methods is None:
        return known
    if isinstance(methods, Mapping):
        wrong = {name: m for name, m in methods.items() if not (callable(m) or isinstance(m, Mapping))}
        if wrong:
            msg = f"Expected functions or dicts of arguments of `tl.enhance` in `methods`, found {wrong}."
            raise ValueError(msg)
        return methods
    names = np.atleast_1d(np.asarray(methods, dtype=object)).tolist()
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = (
            f"Expected `methods` out of {list(known)}, found {unknown}. Use these names, or pass a dict of your names "
            "and functions or arguments of `tl.enhance`."
        )
        raise ValueError(msg)
    return {name: known[name] for name in names}


def _enhancer(arguments: Mapping[str, Any], shared: Mapping[str, Any], image: Any) -> Run:
    """Make a method out of arguments of `tl.enhance`."""
    from soscope_scverse import SoScope, tl  # import torch

    validation.keywords("methods", arguments, tl.enhance, without=_NOT_COMPARED)
    validation.keywords("train_kwargs", arguments.get("train_kwargs") or {}, SoScope.train)
    own_image = any(name in arguments for name in _OF_IMAGE)
    merged = {**shared, **({"image": image} if own_image else {}), **arguments}
    merged["train_kwargs"] = {"enable_progress_bar": False, **(merged.get("train_kwargs") or {})}

    def run(adata: AnnData, seed: int) -> Matrix:
        if own_image and keys.FEATURES in adata.obsm:
            adata = adata.copy()
            del adata.obsm[keys.FEATURES]
        return tl.enhance(adata, **{**merged, "seed": seed}).X

    return run


def _has_features(spots: AnnData, image: Any, arguments: Mapping[str, Any]) -> bool:
    """Add image features to the spots; whether there are any."""
    if keys.FEATURES in spots.obsm:
        return True
    if image is None and im.embedded_image(spots) is None:
        return False
    given = {name: arguments[name] for name in _OF_FEATURES if name in arguments}
    im.features(spots, image, **given, **(arguments.get("features_kwargs") or {}))
    return True


def _takes_seed(run: Run) -> bool:
    return "seed" in inspect.signature(run).parameters


def _measured(name: str, run: Run, spots: AnnData, seed: int | None) -> tuple[Matrix | None, float, float]:
    """Prediction (None if the training diverged), seconds and peak memory of a run."""
    prediction = None
    before = _restart_peak()
    start = time.perf_counter()
    try:
        returned = run(spots) if seed is None else run(spots, seed=seed)
        prediction = validation.numbers_or_sparse(f"what method {name!r} returns", returned)
    except FloatingPointError as error:
        msg = f"Method {name!r} with seed {seed} diverged, its scores are NaN: {error}"
        warnings.warn(msg, UserWarning, stacklevel=3)
    return prediction, time.perf_counter() - start, max(_resident_mb("VmHWM") - before, 0)


def _restart_peak() -> float:
    """Set the highest resident memory of the process back to the present one, and return that; NaN if impossible."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return float("nan")
    return _resident_mb("VmRSS")


def _resident_mb(field: str) -> float:
    """Read the resident memory (VmRSS) or its maximum (VmHWM) in megabytes; NaN where Linux does not tell it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    kib = (float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return next(kib, float("nan")) * 1024 / 1e6


def _scores(name: str, prediction: Matrix | None, truth: AnnData) -> pd.DataFrame:
    """Columns gene, metric and value of one run."""
    if prediction is None:
        values = dict.fromkeys(METRICS, np.full(truth.n_vars, np.nan))
    elif np.shape(prediction) != truth.shape:
        msg = (
            f"Expected method {name!r} to return n_targets x n_features = {truth.shape}, found shape "
            f"{np.shape(prediction)}. Its rows are the subspots with exposure, spot by spot."
        )
        raise ValueError(msg)
    else:
        values = {metric: getattr(metrics, metric)(prediction, truth.X) for metric in METRICS if metric != "within_r"}
        values["within_r"] = metrics.within_r(prediction, truth.X, truth.obs[keys.SPOT])
    columns = {metric: values[metric] for metric in METRICS}
    return pd.DataFrame({"gene": truth.var_names, **columns}).melt("gene", var_name="metric")
