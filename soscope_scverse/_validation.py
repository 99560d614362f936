"""Named checks of user input; each message says what was found, what was expected and what to do."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys


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
    xy = np.asarray(adata.obsm[keys.SPATIAL], dtype=float)
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
