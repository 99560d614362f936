"""Widths of the image patches that describe the subspots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soscope_scverse import _read as read
from soscope_scverse.im.encoders.base import PATCH_IN_PITCHES, Encoder
from soscope_scverse.im.reading.sections import SectionImage
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.pp._graphs import nearest_distance

_MOST_IMAGES = 10
"""Largest width of a patch in widths of the image."""


def radius_widths(
    sections: list[SectionImage],
    subspots: np.ndarray,
    valid: np.ndarray,
    context: float | Sequence[float] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the patch in spot radii, and in full-resolution pixels, n_sections x n_contexts."""
    radii = np.array([section.radius for section in sections])
    if context is None:
        xy = [subspots[valid & section.rows[:, None]] for section in sections]
        pitches = np.array([nearest_distance(one, single=np.nan) for one in xy])
        context = PATCH_IN_PITCHES * _median(pitches / radii)
    contexts = _positive_widths("context", "in spot radii", context)
    return contexts, np.outer(radii, contexts)


def micron_widths(
    sections: list[SectionImage],
    context: float | Sequence[float] | None,
    context_um: float | Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the patch in micrometres, and in full-resolution pixels, n_sections x n_contexts."""
    if context is not None:
        msg = f"Expected one of `context` and `context_um`, found {context} and {context_um}. Omit one of them."
        raise ValueError(msg)
    contexts = _positive_widths("context_um", "in micrometres", context_um)
    return contexts, np.outer([1 / _microns_per_pixel(section) for section in sections], contexts)


def _positive_widths(name: str, unit: str, context: float | Sequence[float]) -> np.ndarray:
    widths = np.atleast_1d(read.numbers(f"`{name}`", context))
    if widths.ndim != 1 or not widths.size or not ((widths > 0) & (widths < np.inf)).all():
        msg = f"Expected a positive `{name}` {unit}, found {context}. Pass the width of a subspot's patch."
        raise ValueError(msg)
    return widths


def _microns_per_pixel(section: SectionImage) -> float:
    """Size of a full-resolution pixel."""
    if section.microns is None:
        msg = (
            "Expected a pixel size for `context_um`, found none in the image and only "
            f"{dict(section.scale_factors)} in `adata.uns['spatial'][library_id]['scalefactors']`. Store the "
            "micrometres of a full-resolution pixel there as 'microns_per_pixel', or use `context`."
        )
        raise ValueError(msg)
    return section.microns


def check_widths(sections: list[SectionImage], widths: np.ndarray) -> None:
    """Raise a ValueError for patches that are implausibly wide."""
    for section, of_section in zip(sections, widths, strict=True):
        side, widest = max(section.source.height, section.source.width), of_section.max() * section.source.scale
        if widest > _MOST_IMAGES * side:
            msg = (
                f"Expected patches at most {_MOST_IMAGES} times as wide as the image, found {widest:.3g} pixels "
                f"for an image of {side}. Choose a smaller `context`, or check `image_scale`."
            )
            raise ValueError(msg)


def level(section: SectionImage, width: float, model: Encoder) -> ImageSource:
    """The level of an image that suffices for patches of a width in full-resolution pixels."""
    return model.level(section.sized_source, width * section.source.scale)


def coarsest_microns(sections: list[SectionImage]) -> float | None:
    """Largest width of a pixel of the images in micrometres; None where one is not known."""
    sizes = [section.sized_source.microns for section in sections]
    known = [size for size in sizes if size is not None]
    return max(known) if known and len(known) == len(sizes) else None


def patch_pixels(model: Encoder, sections: list[SectionImage], widths: np.ndarray) -> np.ndarray:
    """Widths of the patches in pixels of the levels that are read, n_sections x n_contexts."""
    pixels = np.empty_like(widths)
    for (i, j), width in np.ndenumerate(widths):
        pixels[i, j] = width * level(sections[i], width, model).scale
    return pixels


def _median(values: np.ndarray) -> float:
    """Median of what is not NaN, NaN if all is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")
