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
_DARK, _BRIGHT = 80, 200
"""The glass is dark if the darker half of the image, by Otsu's threshold of its brightest channel, is below the first
value in its median and the brighter half below the second. Medians of the darker half are 158 and more in H&E and 97
under 60 % of the light, at most 54 in simulated fluorescence; where a stained section has a black margin, the brighter
half is at 228 and more."""
_LEAST_CAPTURED = 0.1
"""Share of what a spot captured that has to lie on tissue where spots have gaps: the gap is scaled to it."""
_MASK_RULES: Rules = {"size": POSITIVE_INTEGER}
_SUBSPOT_RULES: Rules = {"image_scale": POSITIVE.or_(None)}


def tissue_mask(image: Any, *, size: int = _THUMBNAIL) -> tuple[np.ndarray, float]:
    """Separate tissue from glass in a thumbnail, by Otsu's threshold.

    In bright field it is the threshold of the saturation, of a grey image that of the darkness. In fluorescence, where
    glass is dark, it is the threshold of the logarithm of the brightness: of an image that is opened with ``channels``,
    and of others if a large part of them is nearly black; of neither if the rest is nearly white. The image must show
    some glass.

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
    source = open_image(image)
    small, scale = thumbnail(source, size)
    return mask_of(source, small, scale)[0], scale


def mask_of(source: ImageSource, small: np.ndarray, scale: float) -> tuple[np.ndarray, bool]:
    """Mask of the thumbnail of an image, and whether its glass is dark.

    Parameters
    ----------
    source
        The image.
    small, scale
        Its thumbnail, which is white beyond the image, and the factor from full-resolution coordinates to its pixels.
    """
    inside = _inside(source, small.shape[:2], scale)
    if not inside.any() or not has_dark_glass(small[inside], darkest=255 if source.stretches else _DARK):
        return is_tissue(small), False
    signal = log_brightness(small, inside)
    if not np.ptp(signal[inside]):
        return np.zeros(signal.shape, dtype=bool), True
    return inside & (signal > threshold_otsu(signal[inside])), True


def has_dark_glass(pixels: np.ndarray, darkest: float = _DARK) -> bool:
    """Whether pixels, n x 3 uint8, are those of tissue on dark glass, as in fluorescence.

    Parameters
    ----------
    pixels
        Colours.
    darkest
        Highest median of the darker half.
    """
    brightest = pixels.max(axis=1)
    if not np.ptp(brightest):
        return False
    is_bright = brightest > threshold_otsu(brightest)
    return bool(np.median(brightest[~is_bright]) < darkest and np.median(brightest[is_bright]) < _BRIGHT)


def log_brightness(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Logarithm of the brightest channel (height x width), smoothed; black where a pixel is not `inside`."""
    return np.log1p(uniform_filter(np.where(inside, image.max(axis=2), 0).astype(np.float32), 3))


def _inside(source: ImageSource, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Which pixels of a thumbnail of this shape lie in the image."""
    rows, columns = np.indices(shape)
    at = source.to_pixels((np.stack([columns, rows], axis=-1) + 0.5) / scale)
    return np.logical_and.reduce((at >= 0) & (at < [source.width, source.height]), axis=-1)


def is_tissue(image: np.ndarray) -> np.ndarray:
    """Mask (height x width bool) of a small image in bright field in memory, height x width x 3 uint8."""
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

    To be called after ``pp.subspots`` and before :func:`features`. A spot that captured no tissue keeps all.
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
    area = read.areas(adata, exposure)
    valid, least = area > 0, 0 if area is exposure else _LEAST_CAPTURED
    subspots = np.asarray(adata.obsm[keys.SUBSPOTS], dtype=float)
    kept = np.zeros(exposure.shape, dtype=bool)
    for section in open_sections(spots, image, image_scale):
        kept[section.rows] = _on_tissue(section.source, subspots[section.rows])
    kept &= valid
    bare = np.where(kept, exposure, 0).sum(axis=1) <= least
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
