"""What a message can point at: what to do with what was found instead of what was expected."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from typing import Any

import pandas as pd
from anndata import AnnData

from soscope_scverse._columns import marks


def similar(name: str, names: Iterable[str]) -> str:
    """Names that a misspelt one may stand for, as a sentence."""
    by_lower = {str(known).lower(): known for known in names}
    close = get_close_matches(name.lower(), by_lower, n=3)
    return f" Did you mean {' or '.join(by_lower[known] for known in close)}?" if close else ""


def to_anndata(data: object) -> str:
    """What to do with an object that is no AnnData, as a sentence."""
    if isinstance(data, str | PathLike):
        return f" Read it first: `soscope_scverse.read({str(data)!r})`."
    if isinstance(data, list | tuple | Mapping):
        joined = "anndata.concat(..., label='section', index_unique='-')"
        return f" Join sections with `{joined}`, and pass `library_key='section'`."
    return ""


def gene_names(adata: AnnData, missing: Sequence[str], of: str) -> str:
    """Where names are that are not in ``var_names``, or similar names, as a sentence."""
    for name in adata.var:
        if set(missing) <= set(adata.var[name].astype(str)):
            column = f"{of}.var[{name!r}]"
            return f" They are in `{column}`: name them by `{of}.var_names[{column}.isin(genes)]`."
    if len(missing) == 1 and missing[0] in adata.var and marks(adata.var[missing[0]]) is not None:
        return f" It is a column: pass `{of}.var_names[{of}.var[{missing[0]!r}] == 1]`."
    return similar(missing[0], adata.var_names)


def one_of_the_libraries(adata: AnnData, libraries: Collection[str]) -> str:
    """How to choose between the sections of ``uns["spatial"]``, as a sentence."""
    named = [name for name, column in adata.obs.items() if _names_of(column) <= set(libraries)]
    key = f"`library_key={named[0]!r}`" if named else "`library_key`, the column of `adata.obs` with these names"
    first = f"adata.uns['spatial'] = {{{sorted(libraries)[0]!r}: adata.uns['spatial'][{sorted(libraries)[0]!r}]}}"
    return f"Pass {key}, or keep the entry of a single section: `{first}`."


def _names_of(column: pd.Series) -> set[str]:
    return set(column.unique().astype(str)) if column.notna().all() else {""}


def columns_of_positions(columns: Collection[Any]) -> str:
    """Which columns may hold x and y, as a sentence with the call that renames them."""
    for x in map(str, columns):
        for at, letter in enumerate(x):
            y = x[:at] + {"x": "y", "X": "Y"}.get(letter, letter) + x[at + 1 :]
            if y != x and y in columns:
                return f" Rename them: `cells.rename(columns={{{x!r}: 'x', {y!r}: 'y'}})`."
    return ""
