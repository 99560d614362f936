"""Masks of the tissue, and subspots on tissue only."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.ndimage import uniform_filter
from skimage.filters import threshold_otsu

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._containers.slots import writable
from soscope_scverse._read import read_spots
from soscope_scverse._validators import POSITIVE, POSITIVE_INTEGER, Rules, check_arguments
from soscope_scverse.im.reading.opening import open_image
from soscope_scverse.im.reading.sections import open_sections
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.im.reading.thumbnails import thumbnail

_THUMBNAIL = 1000
_COLOURED = 0.05
"""Least range of the saturation of a colour image."""
_MASK_RULES: Rules = {"size": POSITIVE_INTEGER}
_SUBSPOT_RULES: Rules = {"image_scale": POSITIVE.or_(None)}


def tissue_mask(image: Any, *, size: int = _THUMBNAIL) -> tuple[np.ndarray, float]:
    """Separate tissue from glass in a thumbnail, by Otsu's threshold of the saturation.

    For a grey image it is the threshold of the darkness. Made for stained sections in bright field with some glass
    around them.

    Parameters
    ----------
    image
        Image of any kind that :func:`open_image` takes.
    size
        Longest side of the mask in pixels, at most.

    Returns
    -------
    tuple
        The mask, height x width bool, True on tissue, and the factor from full-resolution coordinates to its pixels.

    Raises
    ------
    TypeError, ValueError
        If the image cannot be opened, see :func:`open_image`.
    """
    check_arguments(locals(), _MASK_RULES)
    small, scale = thumbnail(open_image(image), size)
    return is_tissue(small), scale


def is_tissue(image: np.ndarray) -> np.ndarray:
    """Mask (height x width bool) of a small image in memory, height x width x 3 uint8."""
    brightest = image.max(axis=2).astype(np.float32)
    saturation = uniform_filter((brightest - image.min(axis=2)) / np.maximum(brightest, 1), 3)
    contrast = saturation if np.ptp(saturation) > _COLOURED else darkness(image)
    if not np.ptp(contrast):
        return np.zeros(contrast.shape, dtype=bool)
    return contrast > threshold_otsu(contrast)


def darkness(image: np.ndarray) -> np.ndarray:
    """Mean optical density (height x width) of an image, height x width x 3 uint8."""
    return -np.log10(np.maximum(image.astype(np.float32), 1) / 255).mean(axis=2)


def mask_subspots(
    adata: AnnData,
    image: Any = None,
    *,
    image_scale: float | None = None,
    library_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Exclude the subspots off the tissue, and assign their share of the spot to those on it.

    To be called after ``pp.subspots`` and before :func:`features`. A spot without any subspot on tissue keeps all.
    The image must show some glass: without it the threshold separates dark from pale tissue.

    Parameters
    ----------
    adata
        Spots with ``obsm["subspots"]`` and ``obsm["subspot_exposure"]``.
    image, image_scale, library_key
        See :func:`features`.
    copy
        Return a changed copy instead of writing to `adata`.

    Returns
    -------
    AnnData or None
        None, or with ``copy`` the changed copy. Written are the slots below.
    ``obsm["subspots"]``
        NaN for subspots off the tissue, see :func:`tissue_mask`.
    ``obsm["subspot_exposure"]``
        0 for these; those of the remaining subspots are rescaled to sum to 1, and so are ``obsm["subspot_area"]``.

    Raises
    ------
    TypeError, ValueError
        If there are no subspots, or if image features of the subspots lie in `adata` already.

    Warns
    -----
    UserWarning
        If spots have no subspot on tissue.
    """
    check_arguments(locals(), _SUBSPOT_RULES)
    spots = read_spots(adata, library_key)
    missing = [key for key in (keys.SUBSPOTS, keys.EXPOSURE) if key not in adata.obsm]
    if missing or keys.FEATURES in adata.obsm:
        msg = (
            f"Expected `adata.obsm['{keys.SUBSPOTS}']` and `adata.obsm['{keys.EXPOSURE}']`, and no image features yet, "
            f"found {sorted(adata.obsm)}. Call `pp.subspots`, `im.mask_subspots` and `im.features` in this order."
        )
        raise ValueError(msg)
    exposure = read.exposures(adata)
    valid = read.areas(adata, exposure) > 0
    subspots = np.asarray(adata.obsm[keys.SUBSPOTS], dtype=float)
    kept = np.zeros(exposure.shape, dtype=bool)
    for section in open_sections(spots, image, image_scale):
        kept[section.rows] = _on_tissue(section.source, subspots[section.rows])
    kept &= valid
    bare = np.logical_not((kept & (exposure > 0)).any(axis=1))
    if bare.any():
        warnings.warn(
            f"{bare.sum()} of {adata.n_obs} spots have no subspot on tissue (first: {adata.obs_names[bare][0]!r}); "
            "they keep all of them. Consider dropping these spots, or look at "
            "`pl.alignment(im.check_alignment(adata, image))`.",
            UserWarning,
            stacklevel=2,
        )
    kept[bare] = valid[bare]
    shares = np.where(kept, exposure, 0)
    adata = writable(adata, copy=copy)
    adata.obsm[keys.SUBSPOTS] = np.where(kept[..., None], subspots, np.nan)
    adata.obsm[keys.EXPOSURE] = shares / shares.sum(axis=1, keepdims=True)
    if keys.AREA in adata.obsm:
        adata.obsm[keys.AREA] = adata.obsm[keys.AREA] / shares.sum(axis=1, keepdims=True)
    return adata if copy else None


def _on_tissue(source: ImageSource, positions: np.ndarray) -> np.ndarray:
    """Whether positions (... x 2, NaN = padding) lie on tissue; beyond the image there is none."""
    mask, scale = tissue_mask(source)
    at = np.floor(np.nan_to_num(positions, nan=-1) * scale).astype(int)
    inside = ((at >= 0) & (at < mask.shape[::-1])).all(axis=-1)
    x, y = np.moveaxis(np.where(inside[..., None], at, 0), -1, 0)
    return inside & mask[y, x]
