"""Pictures and scale factors in ``uns["spatial"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from soscope_scverse import _validation as validation


def embedded_image(adata: AnnData, library: str | None = None) -> tuple[np.ndarray, float] | None:
    """Return the picture stored in ``uns["spatial"][library]`` and its scale factor, "hires" before "lowres".

    Parameters
    ----------
    adata
        Annotated data with or without ``uns["spatial"]``.
    library
        Section; may be omitted where ``uns["spatial"]`` holds one.

    Returns
    -------
    tuple or None
        The picture and the factor from full-resolution coordinates to its pixels, or None without such a picture.

    Raises
    ------
    TypeError, ValueError
        If ``library`` is omitted and ``uns["spatial"]`` holds several.
    """
    libraries = validation.libraries(validation.spots(adata))
    if library is None and len(libraries) > 1:
        msg = (
            f"Expected one section in `adata.uns['spatial']`, found {sorted(libraries)}. Say which with `library_key`."
        )
        raise ValueError(msg)
    entry = library_entry(adata, library)
    for resolution in ("hires", "lowres"):
        picture = entry.get("images", {}).get(resolution)
        scale = entry.get("scalefactors", {}).get(f"tissue_{resolution}_scalef")
        if picture is not None and scale is not None:
            return picture, float(validation.numbers(f"`tissue_{resolution}_scalef`", scale))
    return None


def library_entry(adata: AnnData, library: str | None = None) -> Mapping[str, Any]:
    """Return ``uns["spatial"][library]``; without ``library`` that of the only section, {} if there is none."""
    libraries = validation.libraries(adata)
    if library is None and len(libraries) == 1:
        (library,) = libraries
    return {} if library is None else libraries.get(library, {})
