"""Where raw counts are, when the profiles are none: what a message can point at."""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import issparse

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import in_memory, is_counts, layers_of, stored

_N_ROWS = 200
"""Rows that are looked at: a layer without a fraction in as many spots holds counts."""
_ROUNDING = 0.01
"""Largest distance from an integer that is a rounding error: exp(log1p(x)) - 1 in float32 is off by 1e-7 of x."""


def advice_on_counts(adata: AnnData, layer: str | None) -> str:
    """Return what to do where the profiles are no counts, by what else `adata` holds.

    Parameters
    ----------
    adata
        Spots.
    layer
        Layer that was read; None is ``X``.
    """
    if keys.RESULT in adata.uns:
        return "`adata` is a result of `tl.enhance`: pass its spots instead."
    layers = [name for name, values in layers_of(adata).items() if name != layer and _holds_counts(values)]
    if layers:
        return f"`adata.layers[{layers[0]!r}]` holds counts: pass `layer={layers[0]!r}`."
    if layer is not None and _holds_counts(adata.X):
        return "`adata.X` holds counts: omit `layer`."
    if adata.raw is not None and _holds_counts(adata.raw.X):
        if adata.var_names.isin(adata.raw.var_names).all():
            copied = "adata.layers['counts'] = adata.raw[:, adata.var_names].X"
            return f"`adata.raw` holds counts: `{copied}`, and pass `layer='counts'`."
        return "`adata.raw` holds counts: pass `adata.raw.to_adata()`."
    x = adata.X if layer is None else adata.layers[layer]
    if _rounds_to_counts(x):
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        return f"They are integers but for rounding: `{where} = {where}.{'rint' if issparse(x) else 'round'}()`."
    return "Pass the counts with `layer=`."


def _first_rows(x: Any) -> Any:
    return in_memory(x[:_N_ROWS])


def _holds_counts(x: Any) -> bool:
    """Whether profiles are counts, and not all 0."""
    if x is None or np.dtype(x.dtype).kind not in "iuf":
        return False
    rows = _first_rows(x)
    return is_counts(rows) and bool(stored(rows).any())


def _rounds_to_counts(x: Any) -> bool:
    values = stored(_first_rows(x)).astype(float)
    if not np.isfinite(values).all():
        return False
    integers = np.round(values)
    return bool((np.abs(values - integers) < _ROUNDING).all() and (integers >= 0).all() and integers.any())
