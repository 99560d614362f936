"""MuData: several modalities of the same spots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import layers_of

_SAME_POSITION = 1e-5
"""Relative difference up to which positions are the same: single precision, or a few decimals of a text file."""


def columns_apart() -> AbstractContextManager:
    """Return a context in which a MuData that is made or read keeps the columns of its modalities apart."""
    if hasattr(mudata, "set_options"):  # before 0.4
        return mudata.set_options(pull_on_update=False)
    return mudata.settings.override(pull_on_update=False)


def spots_of(data: AnnData | MuData, modalities: Iterable[str] | None = None) -> AnnData:
    """Return an AnnData with the slots of the spots and without profiles; an AnnData is returned unchanged.

    Slots at the top of a MuData take precedence over those of its modalities, and the first modality over the next.

    Parameters
    ----------
    data
        AnnData, or a MuData whose modalities hold the same spots.
    modalities
        Those whose features are concatenated, in this order; None is all.

    Raises
    ------
    ValueError
        If modalities have different positions, and there are none at the top.
    """
    if isinstance(data, AnnData):
        return data
    _check_positions(data)
    obs = pd.DataFrame(index=data.obs_names)
    slots: dict[str, dict] = {"obsm": {}, "obsp": {}, "uns": {}}
    for part in reversed([part for part in data.mod.values() if part.n_obs == data.n_obs]):
        obs = obs.assign(**part.obs.loc[data.obs_names])  # a view loses categories without rows
        ordered = part[data.obs_names]
        for name, slot in slots.items():
            slot.update(getattr(ordered, name))
    for name, slot in slots.items():
        slot.update({key: value for key, value in getattr(data, name).items() if key not in data.mod})
    obs = obs.assign(**data.obs[[column for column in data.obs if ":" not in column]])
    names = data.mod if modalities is None else modalities
    var = pd.DataFrame(index=[f"{name}:{feature}" for name in names for feature in data.mod[name].var_names])
    return AnnData(obs=obs, var=var, **slots)


def _check_positions(data: MuData) -> None:
    """Raise a ValueError if modalities have the same spots at different positions, and none are at the top."""
    if keys.SPATIAL in data.obsm:
        return
    found = {
        name: np.asarray(part[data.obs_names].obsm[keys.SPATIAL])
        for name, part in data.mod.items()
        if part.n_obs == data.n_obs and keys.SPATIAL in part.obsm
    }
    for name, xy in found.items():
        first, expected = next(iter(found.items()))
        if xy.shape == expected.shape and np.allclose(xy, expected, rtol=_SAME_POSITION, equal_nan=True):
            continue
        apart = f"up to {np.abs(xy - expected).max():.4g} apart" if xy.shape == expected.shape else f"{xy.shape}"
        msg = (
            f"Expected the same positions in all modalities, found those of {name!r} and {first!r} {apart}. Store "
            f"those to use as `mdata.obsm['{keys.SPATIAL}']`."
        )
        raise ValueError(msg)


def modality(mdata: MuData, name: str) -> AnnData:
    """Return one modality with the slots of the spots of the whole MuData."""
    part, spots = mdata.mod[name][mdata.obs_names], spots_of(mdata)
    slots = {"obs": spots.obs, "obsm": dict(spots.obsm), "obsp": dict(spots.obsp), "uns": dict(spots.uns)}
    return AnnData(part.X, var=part.var, layers=layers_of(part), **slots)


def joined(modalities: Mapping[str, AnnData]) -> MuData:
    """Return a MuData of modalities: slots of the spots of the first go to the top, the others keep profiles alone."""
    bare = {name: AnnData(part.X, part.obs, part.var, layers=layers_of(part)) for name, part in modalities.items()}
    with columns_apart():
        mdata = MuData(bare)
    spots = next(iter(modalities.values()))
    mdata.obs = spots.obs.copy()
    mdata.obsm.update(spots.obsm)
    mdata.obsp.update(spots.obsp)
    mdata.uns.update(spots.uns)
    return mdata


def split(joint: AnnData, mdata: MuData, modalities: Iterable[str]) -> MuData:
    """Return the MuData of a result whose features are those of the modalities, concatenated."""
    parts, start = {}, 0
    for name in modalities:
        var = mdata.mod[name].var
        parts[name] = joint[:, start : start + len(var)].copy()
        parts[name].obs, parts[name].var = joint.obs.copy(), var.copy()  # a part loses categories without rows
        start += len(var)
    with columns_apart():
        result = MuData(parts)
    result.obsm.update(joint.obsm)
    result.uns.update(joint.uns)
    return result
