"""What subspots have of their spots: columns of ``obs`` and tables of ``obsm``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import issparse

from soscope_scverse import _keys as keys

OF_SUBSPOTS = (
    *(keys.SPOT, keys.SUBSPOT, keys.MEASURED_SHARE, keys.RELATIVE_CELL_NUMBER),
    *("array_row", "array_col"),
)
"""Columns of ``obs`` that say something else of a subspot than of its spot, or are inputs of the package."""
_TABLES_OF_SUBSPOTS = (keys.SPATIAL, keys.IMAGE_FEATURES, keys.LATENT)


def carried_columns(obs: pd.DataFrame, own: Collection[str]) -> pd.DataFrame:
    """Return the columns of the spots that go on to their subspots, under names that the subspots leave free.

    Parameters
    ----------
    obs
        n_spots x n_columns.
    own
        Columns that the subspots have by themselves under the same name and meaning, as that of the sections.
    """
    there = obs.loc[:, [column not in own for column in obs.columns]]
    return there.set_axis(free_names(there.columns, {*OF_SUBSPOTS, *own}), axis=1)


def free_names(names: Iterable[Any], taken: Collection[str]) -> list[Any]:
    """Return names of which none is taken: those of spots that would be become ``"{name}_of_spot"``."""
    names = list(names)
    free: list[Any] = []
    for name in names:
        one = name
        while one in taken or (one != name and (one in names or one in free)):
            one = f"{one}_of_spot"
        free.append(one)
    return free


def check_tables(adata: AnnData, obsm_keys: Sequence[str]) -> list[str]:
    """Return the slots of ``obsm`` that are asked for, once each is a table of the spots.

    Raises
    ------
    ValueError
        If there is no such slot, or it is not n_spots x n_columns.
    """
    asked = [obsm_keys] if isinstance(obsm_keys, str) else list(obsm_keys)
    missing = [key for key in asked if key not in adata.obsm]
    if missing:
        msg = f"Expected `obsm_keys` out of {sorted(adata.obsm)} in `adata.obsm`, found {missing}. Omit these."
        raise ValueError(msg)
    deep = {key: adata.obsm[key].shape for key in asked if len(adata.obsm[key].shape) != 2}
    if deep:
        msg = f"Expected `obsm_keys` of slots that are n_spots x n_columns, found {deep}. Omit these."
        raise ValueError(msg)
    return asked


def carried_tables(adata: AnnData, obsm_keys: Sequence[str], spot: np.ndarray, names: Any) -> dict[str, Any]:
    """Return tables of the spots, a row for every subspot.

    Parameters
    ----------
    adata
        Spots with these slots of ``obsm``.
    obsm_keys
        The slots.
    spot
        n_targets rows of the spots.
    names
        Of the subspots.
    """
    tables = {}
    for key, free in zip(obsm_keys, free_names(obsm_keys, _TABLES_OF_SUBSPOTS), strict=True):
        values = adata.obsm[key]
        if isinstance(values, pd.DataFrame):
            tables[free] = values.iloc[spot].set_axis(names, axis=0)
        else:
            tables[free] = values[spot] if issparse(values) else np.asarray(values)[spot]
    return tables
