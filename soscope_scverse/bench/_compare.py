"""Scores of all methods on one section with known subspots, in one table."""

from __future__ import annotations

import inspect
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm.auto import tqdm

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse import im, metrics
from soscope_scverse._validators import SEED, check_keywords
from soscope_scverse.bench import baselines
from soscope_scverse.bench.baselines import BASELINES
from soscope_scverse.metrics._agreement import Matrix

logger = logging.getLogger(__name__)

Run: TypeAlias = Callable[..., Matrix]
"""Predicts n_targets x n_features from the spots, and from ``seed`` if it has that argument."""

SOSCOPE = "soscope"
COLUMNS = ("task", "method", "seed", "gene", "metric", "value", "seconds")
_MEASURED = 0.5  # share of a subspot that was captured, from which on it counts as measured
METRICS = ("pearson", "within_r", "mse", "normalized_pearson", "normalized_within_r")
SEAM_INDEX = "seam_index"
"""Of the prediction alone; infinite for methods that repeat the spot."""
IMAGE_BASELINES: tuple[Run, ...] = (
    baselines.image_linear,
    baselines.image_gaussian_process,
    baselines.image_mlp,
    baselines.joint_mlp,
)
_FEATURES_ARGUMENTS = ("encoder", "image_scale", "library_key")
"""Arguments of `tl.enhance` that it passes to `im.features`."""
_IMAGE_ARGUMENTS = ("image", "encoder", "image_scale", "features_kwargs")
"""Arguments of `tl.enhance` with which a method computes its own image features."""
_EXCLUDED_ARGUMENTS = ("adata", "return_model", "save_model", "out")
"""Arguments of `tl.enhance` that have no meaning in a comparison."""


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
    """Run methods on a section with known subspots and score every gene.

    Image features are computed once and shared by all methods. Without an image, baselines that need one are excluded.

    Parameters
    ----------
    low, truth
        Spots and their true subspots with the same features, as returned by
        :func:`~soscope_scverse.bench.simulate_low_resolution`. Profiles are in ``X``. Neither is modified.
    image
        Histology image in any form that :func:`~soscope_scverse.im.open_image` accepts. If None, the features in
        ``low.obsm["subspot_features"]`` or the image in ``low.uns["spatial"]`` are used, if present.
    methods
        Names out of :data:`~soscope_scverse.bench.BASELINES` and ``"soscope"``; None is all of them. Alternatively a
        mapping from names to functions or dicts. A function of the spots returns n_targets x n_features (rows in the
        order of `truth`); it gets the `library_key` in `enhance_kwargs` if it has that argument. A dict holds arguments
        of :func:`~soscope_scverse.tl.enhance`, ``{}`` for the defaults. With ``"image"``, ``"encoder"``,
        ``"image_scale"`` or ``"features_kwargs"`` in the dict, the method computes its own image features instead of
        using the shared ones; ``{"image": None}`` uses no image.
    seeds
        soScope and functions with an argument ``seed`` run once per seed; other methods run once.
    task
        Name of the task in the table.
    progress
        Whether to show a progress bar.
    enhance_kwargs
        Arguments of :func:`~soscope_scverse.tl.enhance` for ``"soscope"`` and all dicts. Those in a dict take
        precedence.

    Returns
    -------
    pandas.DataFrame
        One row per run, gene and metric, with the columns below.
    ``task``, ``method``, ``gene``
        Names.
    ``seed``
        Missing for methods without a seed (type ``Int64``).
    ``metric``, ``value``
        ``pearson``, ``within_r``, ``mse``, ``normalized_pearson``, ``normalized_within_r`` and, of the prediction
        alone, ``seam_index`` of :mod:`soscope_scverse.metrics` (infinite for methods that are constant within spots).
        If spots captured a part of their subspots only, also ``pearson`` and ``within_r`` of the subspots that were
        captured by at least half (``pearson_measured``, ...) and of the others (``pearson_unmeasured``, ...). NaN if
        the truth of the gene is constant or, with a warning, if training diverged.
    ``seconds``
        Wall time of the run, excluding the shared image features and the imports of soScope.

    Raises
    ------
    TypeError, ValueError
        If `truth` does not match `low`, a method is unknown, there is nothing to run, or the shape of a prediction is
        not that of `truth`.

    See Also
    --------
    soscope_scverse.bench.summary : Medians over genes, with their spread over the seeds.
    soscope_scverse.pl.benchmark : Plot the table.

    Examples
    --------
    >>> low, truth = simulate_low_resolution(adata)  # doctest: +SKIP
    >>> variants = {"soscope": {}, "no image": {"image": None}, "linear": BASELINES["linear"]}  # doctest: +SKIP
    >>> df = compare(low, truth, "section.tif", methods=variants)  # doctest: +SKIP
    """
    for adata in (low, truth):
        read.profiles(read.read_anndata(adata), None)
    _check_truth(low, truth)
    seeds = np.atleast_1d(np.asarray(seeds)).tolist()
    for seed in seeds:
        SEED.check("seeds", seed)
    from soscope_scverse.tl import enhance  # imports torch
    from soscope_scverse.tl._options import ENHANCE_RULES

    check_keywords("enhance_kwargs", enhance_kwargs or {}, enhance, ENHANCE_RULES)
    shared = {"genes": low.var_names.tolist(), **(enhance_kwargs or {})}
    runs = {
        name: _of_sections(method, shared) if callable(method) else _enhancer(method, shared, image)
        for name, method in _named_methods(methods).items()
    }
    parts = _parts(low)
    positions = np.asarray(low.obsm[keys.SUBSPOTS])[read.areas(low, read.exposures(low)) > 0]
    spots = low.copy()
    if not _has_features(spots, image, shared):
        excluded = [name for name, run in runs.items() if run in IMAGE_BASELINES]
        runs = {name: run for name, run in runs.items() if name not in excluded}
        logger.info("Excluded without an image: %s.", excluded)
    jobs = [(name, seed) for name, run in runs.items() for seed in (seeds if _takes_seed(run) else [None])]
    if not jobs:
        msg = f"Expected something to run, found methods {list(runs)} and seeds {list(seeds)}. Name one of each."
        raise ValueError(msg)
    tables = []
    for name, seed in tqdm(jobs, desc=task, disable=not progress):
        prediction, seconds = _timed_prediction(name, runs[name], spots.copy(), seed)
        scores = _scores(name, prediction, truth, parts, positions)
        tables.append(scores.assign(task=task, method=name, seed=seed, seconds=seconds))
    return pd.concat([table.astype({"seed": "Int64"}) for table in tables], ignore_index=True)[list(COLUMNS)]


def _check_truth(low: AnnData, truth: AnnData) -> None:
    """Raise a ValueError unless the rows of the truth are the subspots of the spots, in their order."""
    if not low.var_names.equals(truth.var_names):
        n_shared = len(low.var_names.intersection(truth.var_names))
        msg = (
            f"Expected the same features in the same order in `low` and `truth`, found {low.n_vars} and "
            f"{truth.n_vars}, {n_shared} of them in both. Subset both with one list of names."
        )
        raise ValueError(msg)
    missing = [slot for slot in (keys.SUBSPOTS, keys.EXPOSURE) if slot not in low.obsm]
    if missing:
        msg = f"Expected subspots in `low.obsm`, found no {missing}. Run `pp.subspots` first."
        raise ValueError(msg)
    spots = low.obs_names[np.nonzero(read.areas(low, read.exposures(low)) > 0)[0]]
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
            f"Expected `methods` out of {list(known)}, found {unknown}. Use these names, or pass a dict from names "
            "to functions or to arguments of `tl.enhance`."
        )
        raise ValueError(msg)
    return {name: known[name] for name in names}


def _of_sections(run: Run, shared: Mapping[str, Any]) -> Run:
    """Pass the sections to a method that distinguishes them."""
    if "library_key" in shared and "library_key" in inspect.signature(run).parameters:
        return partial(run, library_key=shared["library_key"])
    return run


def _enhancer(arguments: Mapping[str, Any], shared: Mapping[str, Any], image: Any) -> Run:
    """Return a method that calls `tl.enhance` with these arguments."""
    from soscope_scverse.model._soscope import TRAIN_RULES, SoScope  # imports torch
    from soscope_scverse.tl import enhance
    from soscope_scverse.tl._options import ENHANCE_RULES

    check_keywords("methods", arguments, enhance, ENHANCE_RULES, excluded=_EXCLUDED_ARGUMENTS)
    check_keywords("train_kwargs", arguments.get("train_kwargs") or {}, SoScope.train, TRAIN_RULES)
    own_image = any(name in arguments for name in _IMAGE_ARGUMENTS)
    merged = {**shared, **({"image": image} if own_image else {}), **arguments}
    merged["train_kwargs"] = {"enable_progress_bar": False, **(merged.get("train_kwargs") or {})}

    def run(adata: AnnData, seed: int) -> Matrix:
        if own_image and keys.FEATURES in adata.obsm:
            adata = adata.copy()
            del adata.obsm[keys.FEATURES]
        return enhance(adata, **{"keep_off_tissue": True, **merged, "seed": seed}).X  # a row for each of `truth`

    return run


def _has_features(spots: AnnData, image: Any, arguments: Mapping[str, Any]) -> bool:
    """Add image features to the spots unless present; return whether there are any."""
    if keys.FEATURES in spots.obsm:
        return True
    if image is None and im.embedded_image(spots) is None:
        return False
    given = {name: arguments[name] for name in _FEATURES_ARGUMENTS if name in arguments}
    im.features(spots, image, **given, **(arguments.get("features_kwargs") or {}))
    return True


def _takes_seed(run: Run) -> bool:
    return "seed" in inspect.signature(run).parameters


def _timed_prediction(name: str, run: Run, spots: AnnData, seed: int | None) -> tuple[Matrix | None, float]:
    """Prediction (None if training diverged) and wall time in seconds of a run."""
    prediction = None
    start = time.perf_counter()
    try:
        returned = run(spots) if seed is None else run(spots, seed=seed)
        prediction = read.numbers_or_sparse(f"what method {name!r} returns", returned)
    except FloatingPointError as error:
        msg = f"Method {name!r} with seed {seed} diverged; its scores are NaN: {error}"
        warnings.warn(msg, UserWarning, stacklevel=3)
    return prediction, time.perf_counter() - start


def _parts(low: AnnData) -> dict[str, np.ndarray]:
    """Which subspots were measured and which were not, by the suffix of their metrics; {} if all were."""
    exposure = read.exposures(low)
    area = read.areas(low, exposure)
    if area is exposure:
        return {}
    measured = exposure[area > 0] >= _MEASURED * area[area > 0]
    return {"_measured": measured, "_unmeasured": ~measured}


def _scores(
    name: str, prediction: Matrix | None, truth: AnnData, parts: Mapping[str, np.ndarray], positions: np.ndarray
) -> pd.DataFrame:
    """Return the columns gene, metric and value of one run."""
    names = [*METRICS, SEAM_INDEX, *(f"{metric}{part}" for part in parts for metric in METRICS[:2])]
    if prediction is None:
        return _long(truth, dict.fromkeys(names, np.full(truth.n_vars, np.nan)))
    if np.shape(prediction) != truth.shape:
        msg = (
            f"Expected method {name!r} to return n_targets x n_features = {truth.shape}, found shape "
            f"{np.shape(prediction)}. Its rows are the subspots, spot by spot."
        )
        raise ValueError(msg)
    values = {metric: _value(metric, prediction, truth) for metric in METRICS}
    values[SEAM_INDEX] = metrics.seam_index(prediction, positions, truth.obs[keys.SPOT])
    for part, rows in parts.items():
        values |= {f"{metric}{part}": _value(metric, prediction[rows], truth[rows]) for metric in METRICS[:2]}
    return _long(truth, {metric: values[metric] for metric in names})


def _value(metric: str, prediction: Matrix, truth: AnnData) -> np.ndarray:
    """Score of every feature."""
    extra = [truth.obs[keys.SPOT]] if metric.endswith("within_r") else []
    return getattr(metrics, metric)(prediction, truth.X, *extra)


def _long(truth: AnnData, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({"gene": truth.var_names, **values}).melt("gene", var_name="metric")
