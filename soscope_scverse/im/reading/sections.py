"""The images of the sections of a dataset, opened once, with what is known of their spots."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from soscope_scverse import _read as read
from soscope_scverse._read import Spots
from soscope_scverse.im.reading.containers import container_images, is_container
from soscope_scverse.im.reading.embedded import embedded_image
from soscope_scverse.im.reading.opening import open_source
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.pp._graphs import nearest_distance


@dataclass(frozen=True, eq=False)
class SectionImage:
    """Spots of one section and their image."""

    library_id: str | None
    """None where no `library_key` is given."""
    rows: np.ndarray
    """n_spots mask of the spots of the section."""
    positions: np.ndarray
    """n_rows x 2 positions of these spots."""
    source: ImageSource
    scale_factors: Mapping[str, Any]
    """Those of the section in ``uns["spatial"]``."""

    @property
    def name(self) -> str:
        """The section in a message."""
        return "" if self.library_id is None else f" of section {self.library_id!r}"

    @property
    def pitch(self) -> float:
        """Centre-to-centre distance of the spots, NaN for fewer than two."""
        return nearest_distance(self.positions, single=float("nan"))

    @property
    def microns(self) -> float | None:
        """Width of a full-resolution pixel in micrometres, None if it is not known.

        ``microns_per_pixel`` among the scale factors or, without it, as recorded in the image.
        """
        if "microns_per_pixel" not in self.scale_factors:
            return None if self.source.microns is None else self.source.microns * self.source.scale
        try:
            microns = float(self.scale_factors["microns_per_pixel"])
        except (TypeError, ValueError):
            return None
        return microns if 0 < microns < np.inf else None

    @property
    def sized_source(self) -> ImageSource:
        """The image with its pixel size, if it is known."""
        microns = self.microns
        return replace(self.source, microns=None if microns is None else microns / self.source.scale)

    @cached_property
    def radius(self) -> float:
        """Radius of a spot in full-resolution pixels.

        Half of ``spot_diameter_fullres`` or, without it, a quarter of the centre-to-centre distance.
        """
        diameter = self.scale_factors.get("spot_diameter_fullres")
        radius = self.pitch / 4 if diameter is None else float(read.numbers("`spot_diameter_fullres`", diameter)) / 2
        if not 0 < radius < np.inf:
            msg = (
                f"Expected spots of positive size, found a radius of {radius} in a section of {self.rows.sum()} spots. "
                "Check that `library_key` is the column of the sections, or store the diameter of the spots in "
                "full-resolution pixels as "
                "`adata.uns['spatial'][library_id]['scalefactors']['spot_diameter_fullres']`."
            )
            raise ValueError(msg)
        return radius


def open_sections(
    spots: Spots, image: Any, image_scale: float | None, without: Collection[str | None] = ()
) -> list[SectionImage]:
    """Open the image of every section but those in `without`; others as in :func:`~soscope_scverse.im.features`."""
    sections = {None: np.arange(spots.n)} if spots.library_key is None else spots.rows
    opened = []
    for library_id, rows in sections.items():
        if library_id in without:
            continue
        mask = np.zeros(spots.n, dtype=bool)
        mask[rows] = True
        factors = spots.library(library_id).get("scalefactors", {})
        source = section_image(spots.adata, image, image_scale, library_id)
        opened.append(SectionImage(library_id, mask, spots.positions[rows], source, factors))
    return opened


def section_image(adata: Any, image: Any, image_scale: float | None, library_id: str | None) -> ImageSource:
    """Open the image of one section; arguments as in :func:`~soscope_scverse.im.features`."""
    if is_container(image) and len(images := container_images(image)) > 1:
        image = images
    if isinstance(image, Mapping) and not _is_element(image):
        if library_id is None:
            msg = f"Expected `library_key`, the column of `obs`, with a dict of images ({sorted(image)}), found None."
            raise ValueError(msg)
        if library_id not in image:
            msg = f"Expected an image of section {library_id!r} in `image`, found only {sorted(image)}. Add it there."
            raise ValueError(msg)
        image = image[library_id]
    if image is not None:
        return open_source(image, scale=image_scale)
    embedded = embedded_image(adata, library_id)
    if embedded is None:
        name = "" if library_id is None else f" of section {library_id!r}"
        msg = (
            f"Expected an image{name}, found `image` None and no 'hires' or 'lowres' image with its scale factor in "
            "`adata.uns['spatial']`. Pass the image as `image`."
        )
        raise ValueError(msg)
    pixels, scale = embedded
    return open_source(pixels, scale=scale if image_scale is None else image_scale)


def _is_element(image: Any) -> bool:
    """Whether a mapping is a multi-scale image element."""
    return hasattr(image, "children")
