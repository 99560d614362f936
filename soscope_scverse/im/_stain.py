"""Sections stained alike."""

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
    """Give the tissue of an image the colours of a reference, pixel by pixel as it is read.

    Mean and standard deviation of the tissue become those of the reference in each channel of the CIELAB colour space,
    as told by thumbnails and :func:`tissue_mask` (Reinhard et al., Color transfer between images, IEEE Computer
    Graphics and Applications 21, 34, 2001, who use another space of opponent colours). Glass changes with the tissue.

    Parameters
    ----------
    image, reference
        Stained sections in bright field, of any kind that :func:`open_image` takes.

    Returns
    -------
    ImageSource
        The image, to be passed to :func:`features` or again to :func:`open_image`.

    Raises
    ------
    TypeError, ValueError
        If an image cannot be opened, see :func:`open_image`, or has no tissue.

    Examples
    --------
    >>> images = {name: im.normalize_stain(path, paths["A"]) for name, path in paths.items()}
    >>> im.features(adata, images, library_key="section")
    """
    source = replace(open_image(image), recolouring=None)
    mean, deviation = _colours(source, "image")
    wanted_mean, wanted_deviation = _colours(open_image(reference), "reference")
    factor = wanted_deviation / np.maximum(deviation, 1e-3)
    shift = wanted_mean - factor * mean
    return replace(source, recolouring=Recolouring(tuple(factor.tolist()), tuple(shift.tolist())))


def _colours(source: ImageSource, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the tissue in CIELAB."""
    small, _ = thumbnail(source)
    tissue = is_tissue(small)
    if not tissue.any():
        msg = f"Expected tissue in `{name}`, found one colour only. Pass the image of a stained section."
        raise ValueError(msg)
    colours = rgb2lab(small)[tissue]
    return colours.mean(axis=0), colours.std(axis=0)
