"""Methods of a comparison: functions, arguments of `tl.enhance`, and results that are there already."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import columns
from soscope_scverse._containers.mudata import modality
from soscope_scverse._validators import check_finite, check_keywords
from soscope_scverse.bench import baselines
from soscope_scverse.bench.baselines import BASELINES
from soscope_scverse.metrics._agreement import Matrix

Run: TypeAlias = Callable[..., Matrix]
"""Predicts n_targets x n_features from the spots, and from ``seed`` if it has that argument."""
Method: TypeAlias = Run | Mapping[str, Any] | AnnData | MuData
"""A function of the spots, arguments of `tl.enhance`, or a result."""
Predictions: TypeAlias = dict[str, Any]
"""By modality; that of an AnnData is ""."""

SOSCOPE = "soscope"
IMAGE_BASELINES: tuple[Run, ...] = (
    baselines.image_linear,
    baselines.image_gaussian_process,
    baselines.image_mlp,
    baselines.joint_mlp,
)
_IMAGE_ARGUMENTS = ("image", "encoder", "image_scale", "features_kwargs")
"""Arguments of `tl.enhance` with which a method computes its own image features."""
_EXCLUDED_ARGUMENTS = ("adata", "return_model", "save_model", "out")
"""Arguments of `tl.enhance` that have no meaning in a comparison."""


def named_methods(methods: Sequence[str] | Mapping[str, Method] | None) -> Mapping[str, Method]:
    """Return methods by name; None is all that have one."""
    known: dict[str, Method] = {**BASELINES, SOSCOPE: {}}
    if methods is None:
        return known
    if isinstance(methods, Mapping):
        wrong = {name: m for name, m in methods.items() if not (callable(m) or is_result(m) or isinstance(m, Mapping))}
        if wrong:
            msg = f"Expected functions or dicts of arguments of `tl.enhance`, or results, in `methods`, found {wrong}."
            raise ValueError(msg)
        return methods
    names = np.atleast_1d(np.asarray(methods, dtype=object)).tolist()
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = (
            f"Expected `methods` out of {list(known)}, found {unknown}. Use these names, or pass a dict from names "
            "to functions, to arguments of `tl.enhance`, or to results."
        )
        raise ValueError(msg)
    return {name: known[name] for name in names}


def is_result(method: object) -> bool:
    """Whether a method is a result that is there already."""
    return isinstance(method, AnnData | MuData)


def needs_image(method: Method) -> bool:
    """Whether a method is one of the baselines that need image features."""
    return any(method is baseline for baseline in IMAGE_BASELINES)


def run_of(
    name: str, method: Method, truths: Mapping[str, AnnData], shared: Mapping[str, Any], image: Any
) -> Callable[..., Predictions]:
    """Return a function of the spots, and of ``seed`` if the method takes one, with the predictions of a method."""
    if isinstance(method, AnnData | MuData):
        aligned = {part: _aligned(name, method, part, truth) for part, truth in truths.items()}
        return lambda spots: aligned
    if isinstance(method, Mapping):
        return _enhancer(method, shared, image)
    method = _of_sections(method, shared)
    if "seed" in inspect.signature(method).parameters:
        return lambda spots, seed: {part: method(spots_of_part(spots, part), seed=seed) for part in truths}
    return lambda spots: {part: method(spots_of_part(spots, part)) for part in truths}


def _of_sections(run: Run, shared: Mapping[str, Any]) -> Run:
    """Pass the sections to a function that distinguishes them."""
    if "library_key" in shared and "library_key" in inspect.signature(run).parameters:
        return partial(run, library_key=shared["library_key"])
    return run


def spots_of_part(spots: AnnData | MuData, part: str) -> AnnData:
    """Return a modality with the slots of the spots, and its own ``uns``; an AnnData is returned unchanged."""
    if not isinstance(spots, MuData):
        return spots
    adata = modality(spots, part)
    adata.uns.update(spots.mod[part].uns)
    return adata


def _enhancer(arguments: Mapping[str, Any], shared: Mapping[str, Any], image: Any) -> Callable[..., Predictions]:
    """Return a method that calls `tl.enhance` with these arguments."""
    from soscope_scverse.model._soscope import TRAIN_RULES, SoScope  # imports torch
    from soscope_scverse.tl import enhance
    from soscope_scverse.tl._options import ENHANCE_RULES

    check_keywords("methods", arguments, enhance, ENHANCE_RULES, excluded=_EXCLUDED_ARGUMENTS)
    check_keywords("train_kwargs", arguments.get("train_kwargs") or {}, SoScope.train, TRAIN_RULES)
    own_image = any(name in arguments for name in _IMAGE_ARGUMENTS)
    merged = {**shared, **({"image": image} if own_image else {}), **arguments}
    merged["train_kwargs"] = {"enable_progress_bar": False, **(merged.get("train_kwargs") or {})}

    def run(spots: AnnData | MuData, seed: int) -> Predictions:
        if own_image and keys.FEATURES in spots.obsm:
            spots = spots.copy()
            del spots.obsm[keys.FEATURES]
        found = enhance(spots, **{"keep_off_tissue": True, **merged, "seed": seed})  # a row for each of the truth
        return {name: part.X for name, part in found.mod.items()} if isinstance(found, MuData) else {"": found.X}

    return run


def _aligned(name: str, result: AnnData | MuData, part: str, truth: AnnData) -> Matrix:
    """Return the columns of the truth of a result, whose rows are those of the truth.

    Raises
    ------
    TypeError, ValueError
        If it is no result for this truth.
    """
    if isinstance(result, MuData) != bool(part) or (part and part not in result.mod):
        found = f"a MuData of {list(result.mod)}" if isinstance(result, MuData) else "an AnnData"
        msg = f"Expected the result {name!r} to be like the spots, found {found}. Pass one with the same modalities."
        raise ValueError(msg)
    adata = read.read_anndata(result.mod[part] if part else result)
    known = truth.obs[keys.SPOT].astype(str).to_numpy()
    spots = adata.obs[keys.SPOT].astype(str).to_numpy() if keys.SPOT in adata.obs else None
    if not (adata.obs_names.equals(truth.obs_names) or (spots is not None and np.array_equal(spots, known))):
        msg = (
            f"Expected the rows of the result {name!r} to be those of `truth`, spot by spot, found {adata.n_obs} rows "
            f"of other names or spots for {truth.n_obs}. Read results of others with `bench.read_...(..., low)`."
        )
        raise ValueError(msg)
    missing = truth.var_names.difference(adata.var_names, sort=False)
    if len(missing):
        msg = (
            f"Expected all {truth.n_vars} features of `truth` in the result {name!r}, found {len(missing)} missing "
            f"(first: {missing[0]!r}). Compare those that all have: `truth[:, names]` and `low[:, names]`."
        )
        raise ValueError(msg)
    values = columns(read.profiles(adata, None), adata.var_names.get_indexer(truth.var_names))
    check_finite(values, f"the result {name!r}")  # a median over genes would ignore those without a score
    return values
