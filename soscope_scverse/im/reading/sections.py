"""Every section with its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from scipy.spatial import KDTree

from soscope_scverse import _validation as validation
from soscope_scverse.im.reading.embedded import embedded_image, library_entry
from soscope_scverse.im.reading.opening import open_image
from soscope_scverse.im.reading.source import ImageSource


@dataclass(frozen=True, eq=False)
class Section:
    """Spots of one section and their image."""

    library_id: str | None
    rows: np.ndarray
    source: ImageSource


def open_sections(adata: AnnData, image: Any, image_scale: float | None, library_key: str | None) -> list[Section]:
    """Open the image of every section; arguments as for :func:`features`."""
    if library_key is None:
        return [Section(None, np.ones(adata.n_obs, dtype=bool), section_image(adata, image, image_scale, None))]
    labels = validation.sections(adata, library_key)
    return [
        Section(library_id, labels == library_id, section_image(adata, image, image_scale, library_id))
        for library_id in np.unique(labels)
    ]


def section_image(adata: AnnData, image: Any, image_scale: float | None, library_id: str | None) -> ImageSource:
    """Open the image of one section; arguments as for :func:`features`."""
    if isinstance(image, Mapping) and not _is_element(image):
        if library_id is None:
            msg = f"Expected `library_key`, the column of `obs`, with a dict of images ({sorted(image)}), found None."
            raise ValueError(msg)
        if library_id not in image:
            msg = f"Expected an image of section {library_id!r} in `image`, found only {sorted(image)}. Add it there."
            raise ValueError(msg)
        image = image[library_id]
    if image is not None:
        return open_image(image, scale=image_scale)
    embedded = embedded_image(adata, library_id)
    if embedded is None:
        name = "" if library_id is None else f" of section {library_id!r}"
        msg = (
            f"Expected an image{name}, found `image` None and no 'hires' or 'lowres' image with its scale factor in "
            "`adata.uns['spatial']`. Pass the image as `image`."
        )
        raise ValueError(msg)
    pixels, scale = embedded
    return open_image(pixels, scale=scale if image_scale is None else image_scale)


def _is_element(image: Any) -> bool:
    """A multi-scale element is a mapping too."""
    return hasattr(image, "children")


def spot_radius(adata: AnnData, section: Section) -> float:
    """Radius of the spots of a section in full-resolution pixels."""
    diameter = library_entry(adata, section.library_id).get("scalefactors", {}).get("spot_diameter_fullres")
    if diameter is None:
        radius = pitch(validation.positions(adata)[section.rows]) / 4
    else:
        radius = float(validation.numbers("`spot_diameter_fullres`", diameter)) / 2
    if not 0 < radius < np.inf:
        msg = (
            f"Expected spots of positive size, found a radius of {radius} in a section of {section.rows.sum()} spots. "
            "Check that `library_key` is the column of the sections, or store the diameter of the spots in "
            "full-resolution pixels as `adata.uns['spatial'][library]['scalefactors']['spot_diameter_fullres']`."
        )
        raise ValueError(msg)
    return radius


def pitch(positions: np.ndarray) -> float:
    """Median distance of the nearest neighbours, NaN of fewer than two positions."""
    if len(positions) < 2:
        return float("nan")
    distance, _ = KDTree(positions).query(positions, k=2)
    return float(np.median(distance[:, 1]))
