"""One section as it is drawn: its places in their true shape, over its image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.transforms import Affine2DBase, AffineDeltaTransform

from soscope_scverse import _keys as keys
from soscope_scverse import _validation as check
from soscope_scverse._read import library_entry
from soscope_scverse.im import embedded_image, thumbnail
from soscope_scverse.im.reading.sections import section_image
from soscope_scverse.pp._outlines import spot_outline, subspot_outline

_THUMBNAIL = 2000
_CIRCLE = np.linspace(0, 2 * np.pi, 32, endpoint=False)


class Outlines(NamedTuple):
    """Spots or subspots of one section."""

    rows: np.ndarray
    """Their row numbers."""
    xy: np.ndarray
    """n_places x 2, full-resolution pixels."""
    corners: np.ndarray
    """Outline around the position, n_corners x 2."""
    tile: bool
    """Whether the outlines meet, as cells of a lattice do."""


class Image(NamedTuple):
    """A small image and where it lies."""

    pixels: np.ndarray
    """height x width x 3 uint8."""
    extent: tuple[float, float, float, float]
    """Left, right, bottom and top in full-resolution pixels."""


def places(adata: AnnData, library_key: str | None, library_id: str | None) -> Outlines:
    """The spots or, where ``obs`` tells their spot, subspots of the section to draw."""
    is_shown = check.section_rows(check.anndata(adata), library_key, library_id)
    shown = adata if is_shown.all() else adata[is_shown]
    if keys.SPOT in adata.obs:
        corners, diameter = subspot_outline(shown)
    else:
        entry = library_entry(adata, _library(adata, library_key, library_id))
        corners, diameter = spot_outline(shown, entry.get("scalefactors", {}).get("spot_diameter_fullres"))
    tile = corners is not None
    if corners is None:
        corners = float(diameter) / 2 * np.column_stack([np.cos(_CIRCLE), np.sin(_CIRCLE)])
    return Outlines(np.flatnonzero(is_shown), check.positions(shown), corners, tile)


def background_image(
    sections: Sequence[AnnData], image: Any, image_scale: float | None, library_key: str | None, library_id: str | None
) -> Image | None:
    """The image given by the user, or that in ``uns["spatial"]`` of the first section that has one."""
    if image is False:
        return None
    library_id = _library(sections[0], library_key, library_id)
    holder = next((section for section in sections if embedded_image(section, library_id) is not None), None)
    if image is None and holder is None:
        return None
    source = section_image(sections[0] if holder is None else holder, image, image_scale, library_id)
    left, top = source.extent[0]
    pixels, scale = thumbnail(source.counted_from(source.extent[0]), _THUMBNAIL)
    height, width = pixels.shape[:2]
    return Image(pixels, (left, left + width / scale, top + height / scale, top))


def _library(adata: AnnData, library_key: str | None, library_id: str | None) -> str | None:
    """Name of the section in ``uns["spatial"]``."""
    return library_id if library_key is None or library_id is not None else str(adata.obs[library_key].iloc[0])


def draw_positions(ax: Axes, drawn: Outlines, values: np.ndarray, *, alpha: float, **colours: Any) -> PolyCollection:
    """Draw every place in its shape, coloured by its value; NaN is left out.

    One outline is drawn at all positions, as pixels even in vector files, so that 10^6 places take seconds.
    """
    shapes = PolyCollection(
        [drawn.corners],
        offsets=drawn.xy,
        offset_transform=ax.transData,
        transform=AffineDeltaTransform(cast("Affine2DBase", ax.transData)),
        array=np.ma.masked_invalid(values),
        linewidth=0,
        antialiased=not drawn.tile,  # else the image shines through where outlines meet
        rasterized=True,
        **colours,
    )
    if alpha < 1:
        shapes.set_agg_filter(partial(_translucent, alpha=alpha))
    ax.add_collection(shapes, autolim=False)
    return shapes


def _translucent(pixels: np.ndarray, dpi: float, alpha: float) -> tuple[np.ndarray, int, int]:
    """Fade a drawing as a whole: outlines overlap by parts of a pixel, where opacities of their own would add up."""
    return pixels * (1, 1, 1, alpha), 0, 0


def frame(shown: Sequence[Outlines]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest (x, y) of what is shown, with a margin."""
    low = np.min([drawn.xy.min(axis=0) + drawn.corners.min(axis=0) for drawn in shown], axis=0)
    high = np.max([drawn.xy.max(axis=0) + drawn.corners.max(axis=0) for drawn in shown], axis=0)
    margin = 0.02 * (high - low).max()
    return low - margin, high + margin


def panel_size(limits: tuple[np.ndarray, np.ndarray], width: float = 3.6) -> tuple[float, float]:
    """Width and height in inches of a panel with these limits and a title."""
    across, down = limits[1] - limits[0]
    return width, width * float(np.clip(down / across, 0.4, 2.0)) + 0.3


def set_up(
    ax: Axes, limits: tuple[np.ndarray, np.ndarray], under: Image | None, image_alpha: float, title: str
) -> None:
    """Give the Axes their limits, y pointing down as in an image, and the image."""
    if under is not None:
        ax.imshow(under.pixels, extent=under.extent, alpha=image_alpha, zorder=0)
    (left, top), (right, bottom) = limits
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=10, parse_math=False)  # names of features may hold a dollar sign
