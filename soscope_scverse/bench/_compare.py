"""Scores of all methods on one section with known subspots, in one table."""

from __future__ import annotations

import inspect
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse import im
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._progress import progress_bar
from soscope_scverse._regions import read_markers
from soscope_scverse._validators import SEED, check_keywords
from soscope_scverse.bench._methods import (
    Method,
    Predictions,
    is_result,
    named_methods,
    needs_image,
    run_of,
    spots_of_part,
)
from soscope_scverse.bench._scores import METRICS, Score, Scorer, measured_parts, named_scores

logger = logging.getLogger(__name__)

COLUMNS = ("task", "method", "seed", "gene", "metric", "value", "seconds")
_FEATURES_ARGUMENTS = ("encoder", "image_scale", "library_key")
"""Arguments of `tl.enhance` that it passes to `im.features`."""


def compare(
    low: AnnData | MuData,
    truth: AnnData | MuData,
    image: Any = None,
    *,
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    metrics: Sequence[str] | Mapping[str, Score] = METRICS,
    markers: Mapping[str, Any] | None = None,
    region_key: str | None = None,
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
        :func:`~soscope_scverse.bench.simulate_low_resolution`. Profiles are in ``X``. Neither is modified. Of a MuData
        every modality is scored: soScope models them jointly (`enhance_kwargs` names their likelihoods), functions get
        one after the other.
    image
        Histology image in any form that :func:`~soscope_scverse.im.open_image` accepts. If None, the features in
        ``low.obsm["subspot_features"]`` or the image in ``low.uns["spatial"]`` are used, if present.
    methods
        Names out of :data:`~soscope_scverse.bench.BASELINES` and ``"soscope"``; None is all of them. Alternatively a
        mapping from names to functions, dicts or results. A function of the spots returns n_targets x n_features (rows
        in the order of `truth`); it gets the `library_key` in `enhance_kwargs` if it has that argument. A dict holds
        arguments of :func:`~soscope_scverse.tl.enhance`, ``{}`` for the defaults. With ``"image"``, ``"encoder"``,
        ``"image_scale"`` or ``"features_kwargs"`` in the dict, the method computes its own image features instead of
        using the shared ones; ``{"image": None}`` uses no image. A result is an AnnData (or MuData) with the rows of
        `truth`: of :func:`~soscope_scverse.tl.enhance`, or of another tool, as
        :func:`~soscope_scverse.bench.read_istar` and others read it.
    metrics
        Names out of ``pearson``, ``within_r``, ``mse``, ``normalized_pearson``, ``compactness``
        (:func:`~soscope_scverse.metrics.high_expression_compactness` of the prediction), ``correlation_r``,
        ``correlation_mse`` (:func:`~soscope_scverse.metrics.correlation_agreement`), ``kmeans_ari_3`` and
        ``kmeans_ari_4`` (:func:`~soscope_scverse.metrics.cluster_ari`). Alternatively a mapping from names to functions
        of the prediction (n_targets x n_features) and the truth (AnnData) that return one value per feature, or one for
        the section.
    markers, region_key
        Genes by the region that they mark, and the column of ``truth.obs`` with the regions: adds the metric
        ``ks_distance``, the Kolmogorov-Smirnov distance of each marker between its region and the others. Of a MuData
        `markers` is a dict by modality.
    seeds
        soScope and functions with an argument ``seed`` run once per seed; other methods run once.
    task
        Name of the task in the table; of a MuData, the modality is added to it.
    progress
        Whether to show a progress bar, on a terminal or in a notebook.
    enhance_kwargs
        Arguments of :func:`~soscope_scverse.tl.enhance` for ``"soscope"`` and all dicts. Those in a dict take
        precedence.

    Returns
    -------
    pandas.DataFrame
        One row per run, gene and metric, with the columns below.
    ``task``, ``method``, ``gene``
        Names; the gene of metrics with one value for the section is ``"(all)"``.
    ``seed``
        Missing for methods without a seed (type ``Int64``).
    ``metric``, ``value``
        The `metrics`. If spots captured a part of their subspots only, also ``pearson`` and ``within_r`` of the
        subspots that were captured by at least half (``pearson_measured``, ...) and of the others
        (``pearson_unmeasured``, ...). NaN if the truth of the gene is constant or, with a warning, if training
        diverged.
    ``seconds``
        Wall time of the run, excluding the shared image features and the imports of soScope; NaN for results.

    Raises
    ------
    TypeError, ValueError
        If `truth` does not match `low`, a method or metric is unknown, there is nothing to run, or the shape of a
        prediction or score is not that of `truth`.

    See Also
    --------
    soscope_scverse.bench.summary : Medians over genes, with their spread over the seeds.
    soscope_scverse.pl.benchmark : Plot the table.
    soscope_scverse.bench.scores_by_group : Scores by groups of genes.

    Examples
    --------
    >>> low, truth = simulate_low_resolution(adata)  # doctest: +SKIP
    >>> variants = {"soscope": {}, "no image": {"image": None}, "linear": BASELINES["linear"]}  # doctest: +SKIP
    >>> df = compare(low, truth, "section.tif", methods=variants)  # doctest: +SKIP
    """
    truths = _checked(low, truth)
    scorers = _scorers(low, truths, named_scores(metrics), markers, region_key)
    seeds = np.atleast_1d(np.asarray(seeds)).tolist()
    for seed in seeds:
        SEED.check("seeds", seed)
    shared = _shared(low, truths, enhance_kwargs or {})
    named = named_methods(methods)
    runs = {name: run_of(name, method, truths, shared, image) for name, method in named.items()}
    spots = low.copy()
    if not _has_features(spots, image, shared):
        excluded = [name for name, method in named.items() if needs_image(method)]
        runs = {name: run for name, run in runs.items() if name not in excluded}
        logger.info("Excluded without an image: %s.", excluded)
    jobs = [(name, seed) for name, run in runs.items() for seed in (seeds if _takes_seed(run) else [None])]
    if not jobs:
        msg = f"Expected something to run, found methods {list(runs)} and seeds {list(seeds)}. Name one of each."
        raise ValueError(msg)
    tables = []
    for name, seed in progress_bar(jobs, shown=progress, desc=task):
        found, seconds = _timed_predictions(name, runs[name], spots.copy(), seed)
        seconds = np.nan if is_result(named[name]) else seconds
        for part, scorer in scorers.items():
            scores = scorer.table(name, None if found is None else found[part])
            of = f"{task}:{part}" if part else task
            tables.append(scores.assign(task=of, method=name, seed=seed, seconds=seconds))
    return pd.concat([table.astype({"seed": "Int64"}) for table in tables], ignore_index=True)[list(COLUMNS)]


def _checked(low: AnnData | MuData, truth: AnnData | MuData) -> dict[str, AnnData]:
    """Return the truth by modality, once it fits the spots."""
    parts, others = (list(d.mod) if isinstance(read.read_data(d), MuData) else [""] for d in (low, truth))
    if sorted(parts) != sorted(others):
        found = " and ".join("an AnnData" if names == [""] else f"a MuData of {names}" for names in (parts, others))
        msg = f"Expected the same modalities in `low` and `truth`, found {found}."
        raise ValueError(msg)
    truths = {part: spots_of_part(truth, part) for part in parts}
    for part, known in truths.items():
        spots = spots_of_part(low, part)
        for adata in (spots, known):
            read.profiles(read.read_anndata(adata), None)
        _check_truth(spots, known)
    return truths


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


def _scorers(
    low: AnnData | MuData,
    truths: Mapping[str, AnnData],
    functions: Mapping[str, Score],
    markers: Mapping[str, Any] | None,
    region_key: str | None,
) -> dict[str, Scorer]:
    """Return what the predictions are scored by, by modality."""
    if (markers is None) != (region_key is None):
        msg = f"Expected `markers` and `region_key` together, found {markers!r} and {region_key!r}."
        raise ValueError(msg)
    by_part = read.by_modality("markers", markers) if "" not in truths else {"": markers} if markers is not None else {}
    unknown = [part for part in by_part if part not in truths]
    if unknown:
        msg = f"Expected `markers` of the modalities {list(truths)}, found {unknown}."
        raise ValueError(msg)
    return {
        part: Scorer(
            truth,
            functions,
            measured_parts(spots_of_part(low, part)),
            read_markers(truth, by_part[part], str(region_key), of="truth") if part in by_part else [],
        )
        for part, truth in truths.items()
    }


def _shared(low: AnnData | MuData, truths: Mapping[str, AnnData], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `tl.enhance` that all methods share: all features, and those that were given."""
    from soscope_scverse.tl import enhance  # imports torch
    from soscope_scverse.tl._options import ENHANCE_RULES

    check_keywords("enhance_kwargs", given, enhance, ENHANCE_RULES)
    genes = {part: truth.var_names.tolist() for part, truth in truths.items()}
    return {"genes": genes if isinstance(low, MuData) else genes[""], **given}


def _has_features(spots: AnnData | MuData, image: Any, arguments: Mapping[str, Any]) -> bool:
    """Add image features to the spots unless present; return whether there are any."""
    if keys.FEATURES in spots_of(spots).obsm:
        return True
    if image is None and im.embedded_image(spots_of(spots)) is None:
        return False
    given = {name: arguments[name] for name in _FEATURES_ARGUMENTS if name in arguments}
    im.features(spots, image, **given, **(arguments.get("features_kwargs") or {}))
    return True


def _takes_seed(run: Callable[..., Predictions]) -> bool:
    return "seed" in inspect.signature(run).parameters


def _timed_predictions(
    name: str, run: Callable[..., Predictions], spots: AnnData | MuData, seed: int | None
) -> tuple[Predictions | None, float]:
    """Predictions (None if training diverged) and wall time in seconds of a run."""
    found = None
    start = time.perf_counter()
    try:
        returned = run(spots) if seed is None else run(spots, seed=seed)
        found = {p: read.numbers_or_sparse(f"what method {name!r} returns", x) for p, x in returned.items()}
    except FloatingPointError as error:
        msg = f"Method {name!r} with seed {seed} diverged; its scores are NaN: {error}"
        warnings.warn(msg, UserWarning, stacklevel=3)
    return found, time.perf_counter() - start
