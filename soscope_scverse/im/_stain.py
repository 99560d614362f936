"""Normalisation of stains across sections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from skimage.color import rgb2lab

from soscope_scverse.im._tissue import is_tissue
from soscope_scverse.im.reading.opening import open_image
from soscope_scverse.im.reading.source import ImageSource, Recolouring
from soscope_scverse.im.reading.thumbnails import thumbnail


def normalize_stain(image: Any, reference: Any) -> ImageSource:
    """Match the tissue colours of an image to those of a reference.

    In each channel of the CIELAB colour space the mean and standard deviation of the tissue are set to those of the
    reference (Reinhard et al., Color transfer between images, IEEE Computer Graphics and Applications 21, 34, 2001, in
    another opponent colour space). They are estimated from thumbnails and :func:`tissue_mask`. The whole image is
    transformed, glass included, when it is read.

    Parameters
    ----------
    image, reference
        Bright-field images of stained sections, of any kind that :func:`open_image` accepts.

    Returns
    -------
    ImageSource
        The normalised image, for :func:`features` or :func:`open_image`.

    Raises
    ------
    TypeError, ValueError
        If an image cannot be opened, see :func:`open_image`, has no tissue, or consists of several elements.

    Examples
    --------
    >>> images = {name: im.normalize_stain(path, paths["A"]) for name, path in paths.items()}
    >>> im.features(adata, images, library_key="section")
    """
    source = replace(_opened(image, "image"), recolouring=None)
    mean, deviation = _colours(source, "image")
    target_mean, target_deviation = _colours(_opened(reference, "reference"), "reference")
    factor = target_deviation / np.maximum(deviation, 1e-3)
    shift = target_mean - factor * mean
    return replace(source, recolouring=Recolouring(tuple(factor.tolist()), tuple(shift.tolist())))


def _opened(image: Any, name: str) -> ImageSource:
    source = open_image(image)
    if isinstance(source, dict):
        msg = f"Expected one image as `{name}`, found those of the elements {list(source)}. Pass one of them."
        raise ValueError(msg)
    return source


def _colours(source: ImageSource, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the tissue colours in CIELAB."""
    small, _ = thumbnail(source)
    source.release()
    tissue = is_tissue(small)
    if not tissue.any():
        msg = f"Expected tissue in `{name}`, found one colour only. Pass the image of a stained section."
        raise ValueError(msg)
    colours = rgb2lab(small)[tissue]
    return colours.mean(axis=0), colours.std(axis=0)
