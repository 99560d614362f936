"""MuData: several modalities of the same spots."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

import mudata
import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse._arrays import layers_of
from soscope_scverse._slots import handed_back

Function = TypeVar("Function", bound=Callable[..., Any])


def columns_apart() -> AbstractContextManager:
    """Context in which a MuData that is made or read does not copy the columns of its modalities to the top."""
    if hasattr(mudata, "set_options"):  # before 0.4
        return mudata.set_options(pull_on_update=False)
    return mudata.settings.override(pull_on_update=False)


def spots_of(data: AnnData | MuData, modalities: Iterable[str] | None = None) -> AnnData:
    """What the data say of their spots, without profiles; an AnnData says it itself.

    Slots at the top of a MuData win over those of its modalities, and the first modality over the next.

    Parameters
    ----------
    data
        AnnData, or a MuData whose modalities hold the same spots.
    modalities
        Those whose features stand side by side, in this order; None is all.
    """
    if isinstance(data, AnnData):
        return data
    obs = pd.DataFrame(index=data.obs_names)
    slots: dict[str, dict] = {"obsm": {}, "obsp": {}, "uns": {}}
    for part in reversed([part[data.obs_names] for part in data.mod.values() if part.n_obs == data.n_obs]):
        obs = obs.assign(**part.obs)
        for name, slot in slots.items():
            slot.update(getattr(part, name))
    for name, slot in slots.items():
        slot.update({key: value for key, value in getattr(data, name).items() if key not in data.mod})
    obs = obs.assign(**data.obs[[column for column in data.obs if ":" not in column]])
    names = data.mod if modalities is None else modalities
    var = pd.DataFrame(index=[f"{name}:{feature}" for name in names for feature in data.mod[name].var_names])
    return AnnData(obs=obs, var=var, **slots)


def modality(mdata: MuData, name: str) -> AnnData:
    """One modality, with what the MuData says of the spots."""
    part, spots = mdata.mod[name][mdata.obs_names], spots_of(mdata)
    slots = {"obs": spots.obs, "obsm": dict(spots.obsm), "obsp": dict(spots.obsp), "uns": dict(spots.uns)}
    return AnnData(part.X, var=part.var, layers=layers_of(part), **slots)


def joined(modalities: Mapping[str, AnnData]) -> MuData:
    """MuData of modalities; what the first says of the spots goes to the top, and the others keep profiles alone."""
    bare = {name: AnnData(part.X, part.obs, part.var, layers=layers_of(part)) for name, part in modalities.items()}
    with columns_apart():
        mdata = MuData(bare)
    spots = next(iter(modalities.values()))
    mdata.obs = spots.obs.copy()
    mdata.obsm.update(spots.obsm)
    mdata.obsp.update(spots.obsp)
    mdata.uns.update(spots.uns)
    return mdata


def accepts_mudata(function: Function) -> Function:
    """Let a function that writes slots of the spots work on MuData: it sees the spots, and the slots go to the top."""
    parameters = inspect.signature(function).parameters
    first = next(iter(parameters))

    @wraps(function)
    def wrapper(*args: Any, copy: bool = False, **kwargs: Any) -> Any:
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
        data = arguments.pop(first, None)
        if not isinstance(data, MuData):
            return function(*args, copy=copy, **kwargs)
        data = data.copy() if copy else data
        spots = spots_of(data)
        with handed_back(spots, data):
            function(spots, **arguments)
        return data if copy else None

    return wrapper  # type: ignore[return-value]


def split(joint: AnnData, mdata: MuData, modalities: Iterable[str]) -> MuData:
    """MuData of a result that has the features of the modalities side by side."""
    parts, start = {}, 0
    for name in modalities:
        var = mdata.mod[name].var
        parts[name] = joint[:, start : start + len(var)].copy()
        parts[name].var = var.copy()
        start += len(var)
    with columns_apart():
        result = MuData(parts)
    result.obsm.update(joint.obsm)
    result.uns.update(joint.uns)
    return result
