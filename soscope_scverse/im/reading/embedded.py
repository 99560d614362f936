"""Images that are stored in ``uns["spatial"]``."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from soscope_scverse import _hints as hints
from soscope_scverse import _read as read


def embedded_image(adata: AnnData, library_id: str | None = None) -> tuple[np.ndarray, float] | None:
    """Return the image stored in ``uns["spatial"][library_id]`` and its scale factor, "hires" before "lowres".

    Parameters
    ----------
    adata
        Annotated data with or without ``uns["spatial"]``.
    library_id
        Section; may be omitted where ``uns["spatial"]`` holds one.

    Returns
    -------
    tuple or None
        The image and the factor from full-resolution coordinates to its pixels, or None without such an image.

    Raises
    ------
    TypeError, ValueError
        If ``library_id`` is omitted and ``uns["spatial"]`` holds several.
    """
    libraries = read.libraries(read.read_data(adata))
    if library_id is None and len(libraries) > 1:
        msg = (
            f"Expected one section in `adata.uns['spatial']`, found {sorted(libraries)}. "
            f"{hints.one_of_the_libraries(adata, libraries)}"
        )
        raise ValueError(msg)
    entry = read.library_entry(adata, library_id)
    for resolution in ("hires", "lowres"):
        image = entry.get("images", {}).get(resolution)
        scale = entry.get("scalefactors", {}).get(f"tissue_{resolution}_scalef")
        if image is not None and scale is not None:
            return image, float(read.numbers(f"`tissue_{resolution}_scalef`", scale))
    return None
