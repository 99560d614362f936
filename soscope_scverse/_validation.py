"""Named checks of user input; each message says what was found, what was expected and what to do."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.sparse import issparse

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import Matrix, in_memory, layers_of, stored

SINGLE_SECTION = "section"

_SAME_WIDTH = 0.05
"""How far widths of patches may differ in relation: those by default follow the measured pitch of the section."""


class _Range(NamedTuple):
    """What a number may be."""

    least: float
    most: float = math.inf
    whole: bool = False
    above: bool = False
    """Whether `least` itself is too little."""


_RANGES = {
    # of the model
    **dict.fromkeys(("n_latent", "n_hidden", "n_layers", "n_image_components"), _Range(1, whole=True)),
    "n_graph_samples": _Range(2, whole=True),
    "bandwidth": _Range(0, above=True),
    **dict.fromkeys(("sigma", "image_shrinkage", "library_size_noise", "image_weight"), _Range(0)),
    **dict.fromkeys(("alpha", "image_alpha"), _Range(0, 1)),  # of plots
    "masked": _Range(0, 1),
    # of a training
    **dict.fromkeys(("max_epochs", "max_steps", "batch_size"), _Range(1, whole=True)),
    "pretrain_epochs": _Range(0, whole=True),
    "train_size": _Range(0, 1, above=True),
    "lr": _Range(0, above=True),
    **dict.fromkeys(("weight_decay", "kl_weight"), _Range(0)),
    # of graphs, images and results
    **dict.fromkeys(("strength", "similarity_strength"), _Range(1, above=True)),
    **dict.fromkeys(("n_neighbors", "n_rings", "n_genes", "n_candidates", "size", "n_sample"), _Range(1, whole=True)),
    **dict.fromkeys(("radius", "spot_diameter", "image_scale", "scale"), _Range(0, above=True)),
    "n_samples": _Range(0, whole=True),
    "seed": _Range(0, 2**63 - 1, whole=True),
    # of made-up sections
    **dict.fromkeys(("n_spots", "n_beads", "n_components"), _Range(1, whole=True)),
    "noise": _Range(0),
}
"""Arguments that are numbers: one name means one thing throughout the package."""


def given(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise unless arguments of a function are numbers in their ranges, or among the choices that it is annotated with.

    Arguments that are neither may be anything.
    """
    function = inspect.unwrap(function)
    named = {name: hint for name, hint in function.__annotations__.items() if name in arguments}
    told = {name: hint for name, hint in named.items() if name in _RANGES or "Literal[" in hint}
    for name, hint in get_type_hints(SimpleNamespace(__annotations__=told), function.__globals__).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        choices: list[Any] = [None] if NoneType in parts else []
        choices += [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        if name in _RANGES:
            number(name, arguments[name], *_RANGES[name], other=choices)
        elif all(part is NoneType or get_origin(part) is Literal for part in parts):
            one_of(name, arguments[name], choices)


def number(
    name: str,
    value: Any,
    least: float,
    most: float = math.inf,
    whole: bool = False,
    above: bool = False,
    *,
    other: Sequence[Any] = (),
) -> None:
    """Raise unless `value` is a number in its range, or one of `other`."""
    if (value is None or isinstance(value, str)) and value in other:
        return
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        instead = "".join(f" or {choice!r}" for choice in other)
        msg = f"Expected `{name}` to be a {'whole ' if whole else ''}number{instead}, found {value!r}."
        raise ValueError(msg)
    value = cast("float", value)  # float() of a whole number may overflow
    if not least <= value <= most or value == math.inf or (above and value == least):
        limit = f"{'above' if above else 'at least'} {least}"
        msg = f"Expected `{name}` to be {limit}{'' if most == math.inf else f' and at most {most}'}, found {value!r}."
        raise ValueError(msg)


def keywords(name: str, arguments: Any, function: Callable[..., Any], *, without: Collection[str] = ("self",)) -> None:
    """Raise unless `arguments` is a dict of arguments that a function takes, see :func:`given`, `without` some."""
    if not isinstance(arguments, Mapping):
        msg = f"Expected `{name}` to be a dict of arguments, found {type(arguments).__name__}."
        raise TypeError(msg)
    taken = inspect.signature(function).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    unknown = [key for key in arguments if key in without or not (open_ended or key in taken)]
    if unknown:
        msg = f"Expected `{name}` out of {[key for key in taken if key not in without]}, found {unknown}."
        raise ValueError(msg)
    given(function, arguments)


def numbers(what: str, values: Any) -> np.ndarray:
    """Return `values` as array of floating point numbers, unless they are no real numbers or some are masked."""
    with suppress(TypeError, ValueError):
        array = np.asarray(values)
        if array.dtype.kind in "biufO" and not (issparse(values) or np.ma.is_masked(values)):
            return array if array.dtype.kind == "f" else array.astype(float)
    found = f"{type(values).__name__} of {getattr(values, 'dtype', 'mixed types')}"
    msg = f"Expected {what} to be an array of real numbers without a mask, found {found}. Convert it to float first."
    raise TypeError(msg)


def numbers_or_sparse(what: str, values: Any) -> Any:
    """Return a sparse matrix as it is, and anything else as :func:`numbers` does."""
    return values if issparse(values) else numbers(what, values)


def spots(data: object) -> AnnData | MuData:
    """Return `data` if it is a MuData, or an AnnData with unique names."""
    if isinstance(data, MuData):
        return data
    if not isinstance(data, AnnData):
        msg = f"Expected an AnnData or a MuData, found {type(data).__name__}."
        raise TypeError(msg)
    return anndata(data)


def anndata(adata: object) -> AnnData:
    """Return `adata` if it is an AnnData with unique names of observations and variables."""
    if not isinstance(adata, AnnData):
        msg = f"Expected an AnnData, found {type(adata).__name__}."
        raise TypeError(msg)
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            msg = (
                f"Expected unique `adata.{axis}_names`, found {len(repeated)} that occur more than once "
                f"(first: {repeated[0]!r}). Call `adata.{axis}_names_make_unique()`."
            )
            raise ValueError(msg)
    return adata


def mudata(
    mdata: object, modalities: Mapping[str, str], layer: Mapping[str, str | None] | None, named: Iterable[str] = ()
) -> MuData:
    """Return `mdata` if it is a MuData with these modalities, layers and others `named`, all of the same spots."""
    if not isinstance(mdata, MuData):
        msg = f"Expected a MuData, found {type(mdata).__name__}."
        raise TypeError(msg)
    if not isinstance(modalities, Mapping) or not modalities:
        msg = f"Expected the likelihood of each modality, as {{'rna': 'nb', 'prot': 'poisson'}}, found {modalities!r}."
        raise ValueError(msg)
    unknown = [name for name in [*modalities, *(layer or {}), *named] if name not in mdata.mod]
    if unknown:
        msg = f"Expected modalities out of {list(mdata.mod)}, found {unknown}."
        raise ValueError(msg)
    for name in modalities:
        profiles(anndata(mdata.mod[name]), (layer or {}).get(name))
        missing = mdata.obs_names.difference(mdata.mod[name].obs_names)
        if len(missing):
            msg = (
                f"Expected the same spots in all modalities, found {len(missing)} of {mdata.n_obs} spots missing in "
                f"{name!r} (first: {missing[0]!r}). Keep the spots that all have, e.g. `muon.pp.intersect_obs(mdata)`."
            )
            raise ValueError(msg)
    return mdata


def by_name(name: str, value: Any) -> None:
    """Raise unless `value` is a dict by name, or None."""
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        msg = f"Expected `{name}` to be a dict with names as keys, found {value!r}."
        raise TypeError(msg)


def by_modality(name: str, value: Any) -> Mapping[str, Any]:
    """Return an argument that is given for each modality of a MuData; None is none."""
    if value is not None and not isinstance(value, Mapping):
        msg = f"Expected `{name}` of a MuData to be a dict by modality, found {value!r}."
        raise ValueError(msg)
    return value or {}


def positions(adata: AnnData) -> np.ndarray:
    """Return ``obsm["spatial"]`` as n_obs x 2 float64 after checking it.

    Raises
    ------
    ValueError
        If the slot is missing, is not n_obs x 2 or holds NaN or infinite values.
    """
    if keys.SPATIAL not in adata.obsm:
        msg = (
            f"Expected spot coordinates in `adata.obsm['{keys.SPATIAL}']`, found only {sorted(adata.obsm)}. "
            "Store the (x, y) positions in full-resolution pixels there."
        )
        raise ValueError(msg)
    xy = numbers(f"`adata.obsm['{keys.SPATIAL}']`", adata.obsm[keys.SPATIAL]).astype(float, copy=False)
    if xy.ndim != 2 or xy.shape[1] != 2:
        msg = f"Expected `adata.obsm['{keys.SPATIAL}']` to be n_obs x 2 (x, y), found shape {xy.shape}."
        raise ValueError(msg)
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        msg = (
            f"Expected finite coordinates in `adata.obsm['{keys.SPATIAL}']`, found NaN or infinite values for "
            f"{bad.sum()} of {len(bad)} observations (first: {adata.obs_names[bad][0]!r}). "
            "Drop these observations or fill in their positions."
        )
        raise ValueError(msg)
    return xy


def xy(places: np.ndarray | pd.DataFrame | AnnData) -> np.ndarray:
    """Return positions given as an array, as columns ``x`` and ``y`` or as ``obsm["spatial"]``: n_positions x 2."""
    if isinstance(places, AnnData):
        return positions(anndata(places))
    if isinstance(places, pd.DataFrame):
        missing = [name for name in ("x", "y") if name not in places]
        if missing:
            msg = f"Expected columns 'x' and 'y' in `positions`, found {list(places)}."
            raise ValueError(msg)
        places = places[["x", "y"]]
    found = numbers("`positions`", places).astype(float, copy=False)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not np.isfinite(found).all():
        msg = (
            "Expected finite `positions` (x, y): n_positions x 2, a DataFrame with columns 'x' and 'y', or an AnnData "
            f"with `obsm['{keys.SPATIAL}']`; found shape {found.shape}, {(~np.isfinite(found)).sum()} not finite."
        )
        raise ValueError(msg)
    return found


def sections(adata: AnnData, library_key: str | None) -> np.ndarray:
    """Return the section of every observation; one and the same without `library_key`."""
    if library_key is None:
        return np.full(adata.n_obs, SINGLE_SECTION)
    return labels(adata, "library_key", library_key, "section")


def section_rows(adata: AnnData, library_key: str | None, library_id: str | None) -> np.ndarray:
    """Return which observations are of the section to draw, a mask; raise if there are several to choose from."""
    if library_key is None:
        several = sorted(adata.uns.get(keys.SPATIAL, {}))
        if library_id is not None or len(several) > 1:
            found = f"`library_id` {library_id!r}" if library_id is not None else f"the sections {several} in `uns`"
            msg = (
                f"Expected `library_key`, the column of `obs` that tells the sections, found None with {found}. "
                "Name it, and the section to draw with `library_id`."
            )
            raise ValueError(msg)
        return np.ones(adata.n_obs, dtype=bool)
    of = sections(adata, library_key)
    there = np.unique(of).tolist()
    if library_id is None and len(there) == 1:
        library_id = there[0]
    if library_id not in there:
        msg = f"Expected `library_id` to be one of the sections {there} in {library_key!r}, found {library_id!r}."
        raise ValueError(msg)
    return of == library_id


def labels(adata: AnnData, name: str, key: str, what: str) -> np.ndarray:
    """Return a column of ``obs`` that tells the section or batch of every observation, as strings."""
    if not isinstance(key, str) or key not in adata.obs:
        msg = f"Expected `{name}` to be a column of `adata.obs`, found {key!r}; there are {list(adata.obs)}."
        raise ValueError(msg)
    column = adata.obs[key]
    if column.isna().any():
        msg = (
            f"Expected a {what} for every spot in `adata.obs[{key!r}]`, found {column.isna().sum()} NaN. "
            "Fill them in, or drop these spots."
        )
        raise ValueError(msg)
    return column.astype(str).to_numpy()


def division(adata: AnnData) -> np.ndarray:
    """Return the exposures, n_spots x n_subspots, after checking them, the positions of subspots and sizes of spots."""
    for key in (keys.SUBSPOTS, keys.EXPOSURE):
        if key not in adata.obsm:
            msg = f"Expected `adata.obsm[{key!r}]`, found only {sorted(adata.obsm)}. Call `pp.subspots(adata)` first."
            raise ValueError(msg)
    noted(adata, keys.SUBSPOTS)
    subspots = numbers(f"`adata.obsm['{keys.SUBSPOTS}']`", adata.obsm[keys.SUBSPOTS])
    exposure = numbers(f"`adata.obsm['{keys.EXPOSURE}']`", adata.obsm[keys.EXPOSURE])
    shape = subspots.shape
    if len(shape) != 3 or shape[2] != 2 or exposure.shape != shape[:2]:
        msg = (
            f"Expected `adata.obsm['{keys.SUBSPOTS}']` to be n_spots x n_subspots x 2 and "
            f"`adata.obsm['{keys.EXPOSURE}']` n_spots x n_subspots, found {shape} and {exposure.shape}."
        )
        raise ValueError(msg)
    if not (exposure >= 0).all() or not np.allclose(exposure.sum(axis=1), 1, atol=1e-5):
        msg = f"Expected `adata.obsm['{keys.EXPOSURE}']` to be non-negative with rows that sum to 1."
        raise ValueError(msg)
    lost = (exposure > 0) & ~np.isfinite(subspots).all(axis=2)
    if lost.any():
        msg = (
            f"Expected finite positions in `adata.obsm['{keys.SUBSPOTS}']` where `adata.obsm['{keys.EXPOSURE}']` is "
            f"above 0, found {lost.sum()} that are not. Call `pp.subspots(adata)` again."
        )
        raise ValueError(msg)
    if keys.RELATIVE_CELL_NUMBER in adata.obs:
        size = numbers(f"`adata.obs['{keys.RELATIVE_CELL_NUMBER}']`", adata.obs[keys.RELATIVE_CELL_NUMBER])
        if not ((size > 0) & (size < np.inf)).all():
            msg = (
                f"Expected `adata.obs['{keys.RELATIVE_CELL_NUMBER}']` to be above 0 for every spot. "
                "Drop this column if unknown."
            )
            raise ValueError(msg)
    return exposure


def noted(adata: AnnData | MuData, key: str) -> Mapping[str, Any]:
    """Return what a step or a run noted in ``uns[key]``, {} if it is not there."""
    found = adata.uns.get(key, {})
    if not isinstance(found, Mapping):
        msg = f"Expected `adata.uns[{key!r}]` to be a dict, found {type(found).__name__}. Delete it or make it again."
        raise TypeError(msg)
    return found


def model_slots(adata: AnnData, features_key: str | None) -> None:
    """Raise unless graph, positions, exposures and image features are there and fit each other."""
    exposure = division(adata)
    if keys.SPOT_GRAPH not in adata.obsp:
        msg = f"Expected `adata.obsp['{keys.SPOT_GRAPH}']`, found {sorted(adata.obsp)}. Call `pp.spot_graph(adata)`."
        raise ValueError(msg)
    weights = numbers(f"`adata.obsp['{keys.SPOT_GRAPH}']`", stored(adata.obsp[keys.SPOT_GRAPH]))
    if not (np.isfinite(weights) & (weights >= 0)).all():
        msg = (
            f"Expected finite weights of at least 0 in `adata.obsp['{keys.SPOT_GRAPH}']`, found others. "
            "Call `pp.spot_graph(adata)` again."
        )
        raise ValueError(msg)
    if features_key is not None and features_key in adata.obsm:
        noted(adata, features_key)
        shape = exposure.shape
        features = numbers(f"`adata.obsm[{features_key!r}]`", adata.obsm[features_key])
        if features.ndim != 3 or features.shape[:2] != shape or not features.size or not np.isfinite(features).all():
            msg = (
                f"Expected `adata.obsm[{features_key!r}]` to be finite and n_spots x n_subspots x n_image_features "
                f"with {shape[0]} x {shape[1]} subspots, found shape {features.shape}. "
                "Call `im.features(adata, image)` again."
            )
            raise ValueError(msg)


def trained(is_trained: bool) -> None:
    """Raise if a model that is asked for results was not trained."""
    if not is_trained:
        msg = "Expected a trained model, found one that was not. Call `model.train()` first."
        raise ValueError(msg)


def same_image_features(trained: Mapping[str, Any], found: Mapping[str, Any], key: str) -> None:
    """Raise unless image features are those that a model was trained on, as far as both are recorded."""
    for name in (name for name in trained if name in found):
        a, b = np.asarray(trained[name]), np.asarray(found[name])
        is_width = name in ("context", "context_um")
        if a.shape == b.shape and (np.allclose(a, b, rtol=_SAME_WIDTH) if is_width else (a == b).all()):
            continue
        made = [f"{k}={np.asarray(v).tolist()!r}" for k, v in trained.items() if not k.endswith(("names", "features"))]
        msg = (
            f"Expected image features in `adata.obsm[{key!r}]` like those that the model was trained on, found another "
            f"`{name}`: {_in_short(b)} instead of {_in_short(a)}. Call `im.features(adata, image, {', '.join(made)})`."
        )
        raise ValueError(msg)


def _in_short(values: np.ndarray) -> str:
    return repr(values.tolist()) if values.size < 5 else f"{values.size} beginning with {values.ravel()[:3].tolist()}"


def array_index(adata: AnnData) -> np.ndarray | None:
    """Return integer (``array_col``, ``array_row``) as n_obs x 2, or None if a column is missing or not integer."""
    if "array_col" not in adata.obs or "array_row" not in adata.obs:
        return None
    values = adata.obs[["array_col", "array_row"]].to_numpy()
    try:
        values = values.astype(float)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        return None
    return values.astype(int)


def libraries(adata: AnnData | MuData) -> Mapping[str, Mapping[str, Any]]:
    """Return ``uns["spatial"]``, images and scale factors by section; empty if it is not there."""
    found = adata.uns.get(keys.SPATIAL, {})
    entries = found.values() if isinstance(found, Mapping) else [found]
    parts = [
        entry.get(name, {}) for entry in entries if isinstance(entry, Mapping) for name in ("images", "scalefactors")
    ]
    wrong = [thing for thing in [found, *entries, *parts] if not isinstance(thing, Mapping)]
    if wrong:
        msg = (
            f"Expected `adata.uns['{keys.SPATIAL}']` to be a dict of sections, each a dict with the dicts 'images' and "
            f"'scalefactors', found {type(wrong[0]).__name__} instead of one of these. Correct or delete it."
        )
        raise TypeError(msg)
    return found


def profiles(adata: AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer as the AnnData holds it, perhaps on disk."""
    if layer is not None and (not isinstance(layer, str) or layer not in adata.layers):
        msg = f"Expected `layer` to be one of {sorted(layers_of(adata))}, found {layer!r}."
        raise ValueError(msg)
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        msg = "Expected profiles in `adata.X`, found None. Name the layer that holds them with `layer=`."
        raise ValueError(msg)
    if x.shape[0] == 0 or x.shape[1] == 0:
        msg = f"Expected at least one observation and one feature, found a {x.shape[0]} x {x.shape[1]} matrix."
        raise ValueError(msg)
    if np.dtype(x.dtype).kind not in "biuf" or np.ma.is_masked(x):
        masked = f" with {np.ma.count_masked(x)} masked" if np.ma.is_masked(x) else ""
        msg = f"Expected profiles of real numbers, found {x.dtype}{masked}. Convert them to float, fill in masked ones."
        raise TypeError(msg)
    return x


def matrix(adata: AnnData, layer: str | None) -> Matrix:
    """Return the profiles, ``X`` or a layer, as a dense array or CSR matrix."""
    return in_memory(profiles(adata, layer))


def spots_of_subspots(adata: AnnData, enhanced: AnnData) -> None:
    """Raise unless the spots of all subspots of a result are in `adata`."""
    if keys.SPOT not in enhanced.obs:
        msg = f"Expected a result with `enhanced.obs['{keys.SPOT}']`, found {list(enhanced.obs)}. Call `tl.enhance`."
        raise ValueError(msg)
    named = pd.Index(enhanced.obs[keys.SPOT].astype(str).unique())
    missing = named.difference(adata.obs_names, sort=False)
    if len(missing):
        msg = (
            f"Expected the spots that `enhanced` was made from in `adata.obs_names`, {len(missing)} of {len(named)} "
            f"are not (first: {missing[0]!r}). Pass the AnnData that was enhanced."
        )
        raise ValueError(msg)


def order_of_sections(adata: AnnData, enhanced: AnnData) -> None:
    """Raise if spots and subspots were passed the other way round."""
    if keys.SPOT in anndata(adata).obs and keys.SPOT not in anndata(enhanced).obs:
        msg = "Expected the spots first and then their subspots, found them the other way round. Swap them."
        raise ValueError(msg)


def is_counts(x: Matrix) -> bool:
    """Whether all values are finite non-negative integers."""
    values = stored(x)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.round(values)).all())


def counts(x: Matrix, likelihood: str) -> None:
    """Raise unless `x` holds counts, saying in which way it does not."""
    values = stored(x)
    faults = {
        "NaN or infinite values": ~np.isfinite(values),
        "negative values": values < 0,
        "fractions": np.isfinite(values) & (values != np.round(values)),
    }
    found = [f"{fault.sum()} {name}" for name, fault in faults.items() if fault.any()]
    if found:
        msg = (
            f"Expected raw counts (non-negative integers) for likelihood={likelihood!r}, found {' and '.join(found)}. "
            "Pass the counts with `layer=`, or use likelihood='gaussian' for data that are not counts."
        )
        raise ValueError(msg)


def finite(x: Matrix) -> None:
    """Raise if `x` holds NaN or infinite values."""
    values = stored(x)
    bad = ~np.isfinite(values)
    if bad.any():
        msg = f"Expected finite profiles, found {bad.sum()} NaN or infinite values. Drop or fill in these entries."
        raise ValueError(msg)


def warn_empty(adata: AnnData, x: Matrix) -> None:
    """Warn of spots and features without any count; they are kept and enhanced to zero."""
    for axis, names, what, of in (
        (1, adata.obs_names, "spots", f" of the {adata.n_vars} features to enhance"),
        (0, adata.var_names, "features", ""),
    ):
        empty = np.asarray(abs(x).sum(axis=axis)).ravel() == 0
        if empty.any():
            warnings.warn(
                f"{empty.sum()} of {len(names)} {what} have no counts{of} (first: {names[empty][0]!r}); "
                "they are kept and enhanced to zero.",
                UserWarning,
                stacklevel=3,
            )


def genes(adata: AnnData, names: Sequence[str], *, of: str = "adata") -> list[str]:
    """Return `names` as a list after checking that each is a feature of the argument `of`, named once."""
    anndata(adata)
    names = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in names):
        wrong = next(name for name in names if not isinstance(name, str))
        msg = f"Expected `genes` to be names out of `{of}.var_names`, found {wrong!r}, {type(wrong).__name__}."
        raise TypeError(msg)
    if not names:
        msg = "Expected at least one gene in `genes`, found none."
        raise ValueError(msg)
    missing = [name for name in names if name not in adata.var_names]
    if missing:
        msg = (
            f"Expected `genes` to be in `{of}.var_names` ({adata.n_vars} names), {len(missing)} of {len(names)} are "
            f"not: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}.{_meant(missing[0], adata.var_names)}"
        )
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = f"Expected every gene once in `genes`, found {len(names) - len(set(names))} repeated."
        raise ValueError(msg)
    return names


def highly_variable(adata: AnnData) -> list[str]:
    """Return the features that ``var["highly_variable"]`` marks."""
    marked = adata.var["highly_variable"]
    if not pd.api.types.is_bool_dtype(marked) or marked.isna().any():
        msg = f"Expected `adata.var['highly_variable']` to be booleans, found {marked.dtype}. Name `genes=` instead."
        raise TypeError(msg)
    if not marked.any():
        msg = "Expected genes marked in `adata.var['highly_variable']`, found none. Name them with `genes=`."
        raise ValueError(msg)
    return adata.var_names[marked.to_numpy(bool)].tolist()


def one_of(name: str, value: object, allowed: Sequence[Any]) -> None:
    """Raise unless `value` is one of `allowed`."""
    if not isinstance(value, Hashable) or value not in allowed:
        msg = f"Expected `{name}` to be one of {list(allowed)}, found {value!r}."
        raise ValueError(msg)


def text(name: str, value: object) -> None:
    """Raise unless `value` is a string."""
    if not isinstance(value, str):
        msg = f"Expected `{name}` to be a string, found {value!r}."
        raise TypeError(msg)


def path_of(name: str, value: Any) -> Path:
    """Return `value` as path if it is one."""
    if not isinstance(value, str | PathLike):
        msg = f"Expected `{name}` to be a path, found {value!r}."
        raise TypeError(msg)
    return Path(value)


def folder(name: str, path: str | PathLike, *, new: bool = False) -> None:
    """Raise unless `path` is a folder or can be made one, or, if it is to be `new`, if it exists."""
    path = path_of(name, path)
    if new and path.exists():
        msg = f"Expected `{name}` to be a new path, found {str(path)!r}. Remove it or choose another."
        raise ValueError(msg)
    there = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not there.is_dir():
        msg = f"Expected `{name}` to be a folder, found {str(path)!r}, where {str(there)!r} is a file. Choose another."
        raise ValueError(msg)


def output(name: str, path: str | PathLike, *, overwrite: bool, suffixes: Sequence[str] = (".zarr", ".h5ad")) -> Path:
    """Return the path of a file or store to be written, in a folder that exists."""
    path = path_of(name, path)
    if path.suffix not in suffixes:
        msg = f"Expected `{name}` to end in {' or '.join(map(repr, suffixes))}, found {str(path)!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"Expected `{name}` in a folder that exists, found {str(path)!r}. Make {str(path.parent)!r} first."
        raise ValueError(msg)
    if path.is_dir() and path.suffix != ".zarr":
        msg = f"Expected `{name}` to be a file, found the folder {str(path)!r}. Choose another name."
        raise ValueError(msg)
    if path.exists() and not overwrite:
        msg = f"Expected `{name}` to be a new path, found {str(path)!r}. Choose another, or pass `overwrite=True`."
        raise ValueError(msg)
    return path


def _meant(name: str, names: Iterable[str]) -> str:
    """What a misspelt name may stand for, as a sentence."""
    by_lower = {str(known).lower(): known for known in names}
    close = get_close_matches(name.lower(), by_lower, n=3)
    return f" Did you mean {' or '.join(by_lower[known] for known in close)}?" if close else ""


def no_mudata_on_disk(data: object, out: str | PathLike | None) -> None:
    """Raise if a MuData is to be written piece by piece."""
    if isinstance(data, MuData) and out is not None:
        msg = f"Expected `out` with AnnData only, found {str(out)!r}. Write the result with `write_h5mu`."
        raise ValueError(msg)


def writable(adata: AnnData, *, copy: bool) -> AnnData:
    """Return the object to write to: a copy, or `adata` itself, which is made actual if it is a view."""
    if copy:
        return adata.copy()
    if adata.is_view:
        warnings.warn(
            "Received a view of an AnnData: it becomes a copy before it is written to, and edges of its graphs to "
            "observations outside of the view are gone. Call `.copy()` on the view first to silence this.",
            UserWarning,
            stacklevel=3,
        )
        adata._init_as_actual(adata.copy())
    return adata
