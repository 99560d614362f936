"""Drawing of one section: spots or subspots in their true shape over the histology image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Affine2DBase, AffineDeltaTransform
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse.im import embedded_image, thumbnail
from soscope_scverse.im.reading.sections import section_image
from soscope_scverse.pp._capture import VISIUM_PITCH, is_space_ranger
from soscope_scverse.pp._closing import closed_tiles
from soscope_scverse.pp._lattice import lattice_or_none
from soscope_scverse.pp._outlines import (
    Outline,
    capture_area,
    lattice_centres,
    spot_outline,
    spot_tile,
    subspot_outline,
)

_THUMBNAIL = 2000
"""Longest side of a background image in pixels."""
IMAGE_ALPHA = 0.5
"""Default opacity of the image over white."""
_OVER_IMAGE = 0.6
"""Opacity of maps over an image."""
_SCALE_BAR = 0.25
"""Largest length of the scale bar over the width of the panel."""
_LINE = 0.06
"""Width of the outline of a capture area over its diameter."""
_LINES = (0.2, 0.8)
"""Least and largest width of this outline in points."""
_OPAQUE = 6
"""Diameter in points from which this outline is opaque."""
_OPACITIES = (0.4, 0.9)
"""Least and largest opacity of this outline."""
_HALO = 0.8
"""Opacity of the dark border of this outline, over that of the outline."""
_CIRCLE = np.linspace(0, 2 * np.pi, 32, endpoint=False)


class Shapes(NamedTuple):
    """Spots or subspots of one section."""

    rows: np.ndarray
    """Row numbers in the AnnData."""
    positions: np.ndarray
    """n_shapes x 2 centres (x, y) in full-resolution pixels."""
    corners: np.ndarray
    """n_corners x 2 outline that all have, relative to the centre."""
    tiles: bool
    """Whether the shapes tile the section, as the cells of a lattice do."""
    own: list[np.ndarray] | None = None
    """Outlines of their own, where the spots lie off their lattice and the same outline would leave slits."""


class Captured(NamedTuple):
    """What the spots of one section captured."""

    positions: np.ndarray
    """n_spots x 2 centres (x, y) in full-resolution pixels."""
    corners: np.ndarray
    """n_corners x 2 outline, relative to the centre."""


class Background(NamedTuple):
    """A downsampled image and its location."""

    pixels: np.ndarray
    """height x width x 3 uint8."""
    extent: tuple[float, float, float, float]
    """Left, right, bottom and top in full-resolution pixels."""
    microns: float | None = None
    """Width of a full-resolution pixel in micrometres, if the image records it."""


def shapes_of_section(
    adata: AnnData,
    library_key: str | None,
    library_id: str | None,
    *,
    captured: Captured | None = None,
    beside: AnnData | None = None,
) -> Shapes:
    """Return the shapes of one section: subspots if ``obs["spot"]`` exists, spots otherwise.

    Spots `beside` subspots that are tiles are the cells of their lattice, and so are spots without gaps. Others have
    the shape of what they `captured` where that is known, or are circles of their diameter.
    """
    rows = _rows(read.read_anndata(adata), library_key, library_id)
    section = adata if len(rows) == adata.n_obs else adata[rows]
    if keys.SPOT in adata.obs:
        return _outlined(rows, section, subspot_outline(section))
    if beside is not None:
        tile = spot_tile(section, beside[_rows(beside, library_key, library_id)])
        if tile.corners is not None:
            return _outlined(rows, section, tile)
    if captured is not None:
        return Shapes(rows, read.positions(section), captured.corners, tiles=False)
    entry = read.library_entry(adata, _library_id(adata, library_key, library_id))
    diameter = entry.get("scalefactors", {}).get("spot_diameter_fullres")
    return _outlined(rows, section, spot_outline(section, diameter))


def shapes_side_by_side(
    sections: Sequence[AnnData],
    enhanced: int,
    captured: Captured | None,
    library_key: str | None,
    library_id: str | None,
) -> list[Shapes]:
    """Return the shapes of one section in several AnnData; spots are tiles if those of number `enhanced` are."""
    first = shapes_of_section(sections[enhanced], library_key, library_id)
    beside = sections[enhanced] if first.tiles else None
    return [
        first
        if i == enhanced
        else shapes_of_section(section, library_key, library_id, captured=captured, beside=beside)
        for i, section in enumerate(sections)
    ]


def _outlined(rows: np.ndarray, section: AnnData, outline: Outline) -> Shapes:
    """Shapes with this outline; slits between tiles are closed."""
    xy = read.positions(section)
    if outline.corners is None:
        return Shapes(rows, xy, _circle(outline.diameter), tiles=False)
    own = closed_tiles(xy, outline.corners, outline.slit, outline.pitch)
    larger = 1 if own else 1 + 2 * outline.slit / np.ptp(outline.corners, axis=0).min()  # hairlines
    return Shapes(rows, xy, outline.corners * larger, tiles=True, own=own)


def _circle(diameter: float) -> np.ndarray:
    return float(diameter) / 2 * np.column_stack([np.cos(_CIRCLE), np.sin(_CIRCLE)])


def captured_of_section(
    enhanced: AnnData, adata: AnnData | None, library_key: str | None, library_id: str | None
) -> Captured | None:
    """Return what the spots of one section captured; None where they tile the tissue, or it is unknown.

    Parameters
    ----------
    enhanced
        Subspots, whose result records it.
    adata
        Their spots. Without them, positions of spots are known from subspots on a lattice only.
    library_key, library_id
        Column of ``obs`` with the sections, and the section.
    """
    if keys.SPOT not in enhanced.obs:
        return None
    section = enhanced[_rows(enhanced, library_key, library_id)]
    spots = None
    if adata is not None:
        of_section = adata[_rows(adata, library_key, library_id)]
        spots = of_section[of_section.obs_names.isin(section.obs[keys.SPOT].astype(str))]
    area = capture_area(section, spots)
    centres = lattice_centres(section) if spots is None else read.positions(spots)
    if area is None or centres is None:
        return None
    return Captured(centres, area.corners if area.shape == "square" else _circle(area.diameter))


def _rows(adata: AnnData, library_key: str | None, library_id: str | None) -> np.ndarray:
    """Row numbers of the section to draw; several sections in ``uns["spatial"]`` require a `library_key`."""
    if library_key is not None:
        return read.rows_of_section(adata, library_key, library_id)
    names = sorted(read.libraries(adata))
    if library_id is not None or len(names) > 1:
        found = f"`library_id` {library_id!r}" if library_id is not None else f"the sections {names} in `uns`"
        msg = (
            f"Expected `library_key`, the column of `obs` with the sections, found None with {found}. "
            "Pass it, and the section to draw as `library_id`."
        )
        raise ValueError(msg)
    return np.arange(adata.n_obs)


def _library_id(adata: AnnData, library_key: str | None, library_id: str | None) -> str | None:
    """Name of the section in ``uns["spatial"]``."""
    return library_id if library_key is None or library_id is not None else str(adata.obs[library_key].iloc[0])


def background_image(
    sections: Sequence[AnnData], image: Any, image_scale: float | None, library_key: str | None, library_id: str | None
) -> Background | None:
    """Return the image passed by the user, or the one in ``uns["spatial"]`` of the first of `sections` that has one."""
    if image is False:
        return None
    library_id = _library_id(sections[0], library_key, library_id)
    holder = next((section for section in sections if embedded_image(section, library_id) is not None), None)
    if image is None and holder is None:
        return None
    source = section_image(sections[0] if holder is None else holder, image, image_scale, library_id)
    left, top = source.extent[0]
    pixels, scale = thumbnail(source.counted_from(source.extent[0]), _THUMBNAIL)
    height, width = pixels.shape[:2]
    microns = None if source.microns is None else source.microns * source.scale
    return Background(pixels, (left, left + width / scale, top + height / scale, top), microns)


def map_alpha(alpha: float | None, background: Background | None) -> float:
    """Return the opacity of maps: the image below remains visible by default."""
    return (_OVER_IMAGE if background is not None else 1.0) if alpha is None else alpha


def microns_per_pixel(
    adata: AnnData, background: Background | None, library_key: str | None, library_id: str | None
) -> float | None:
    """Return the width of a full-resolution pixel of one section in micrometres; None if unknown.

    Parameters
    ----------
    adata
        Spots.
    background
        Image of the section.
    library_key, library_id
        Column of ``obs`` with the sections, and the section.
    """
    factors = read.library_entry(adata, _library_id(adata, library_key, library_id)).get("scalefactors", {})
    if "microns_per_pixel" in factors:
        return float(factors["microns_per_pixel"])
    if background is not None and background.microns is not None:
        return background.microns
    section, diameter = adata[_rows(adata, library_key, library_id)], factors.get("spot_diameter_fullres")
    lattice = lattice_or_none(read.positions(section), read.array_index(section))
    if diameter is None or lattice is None or not is_space_ranger(lattice, float(diameter)):
        return None
    return VISIUM_PITCH / lattice.pitch


def draw_scale_bar(ax: Axes, limits: tuple[np.ndarray, np.ndarray], microns: float | None) -> None:
    """Draw a bar of a round length, at most a quarter of the panel, where the pixel size is known."""
    if microns is None:
        return
    widest = _SCALE_BAR * float(limits[1][0] - limits[0][0]) * microns
    unit = 10.0 ** np.floor(np.log10(widest))
    length = next(factor * unit for factor in (5, 2, 1) if factor * unit <= widest)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    bar = AnchoredSizeBar(
        ax.transData,
        length / microns,
        label,
        loc="lower left",
        pad=0.3,
        borderpad=0.4,
        sep=3,
        size_vertical=0.006 * float(limits[1][1] - limits[0][1]),
        fontproperties=FontProperties(size=8),
    )
    bar.patch.set(alpha=0.8, linewidth=0)
    ax.add_artist(bar)


def draw_shapes(ax: Axes, shapes: Shapes, values: np.ndarray, *, alpha: float, **colours: Any) -> PolyCollection:
    """Draw all shapes, coloured by their values; shapes with NaN are not drawn.

    Where it fits, a single outline is drawn at all positions, and it is rasterised also in vector files, so that 10^6
    shapes take seconds.
    """
    collection = PolyCollection(
        shapes.own or [shapes.corners],
        offsets=shapes.positions,
        offset_transform=ax.transData,
        transform=AffineDeltaTransform(cast("Affine2DBase", ax.transData)),
        array=np.ma.masked_invalid(values),
        linewidth=0,
        antialiased=not shapes.tiles,  # otherwise the image is visible between adjacent shapes
        rasterized=True,
        **colours,
    )
    if alpha < 1:
        collection.set_agg_filter(partial(_translucent, alpha=alpha))
    ax.add_collection(collection, autolim=False)
    return collection


def draw_captured(ax: Axes, captured: Captured | None) -> None:
    """Outline what the spots captured, in lines that are thin and faint where the spots are small."""
    if captured is None:
        return
    corners = np.vstack([captured.corners, captured.corners[:1]])
    points = np.ptp(captured.corners, axis=0).max() * _points_per_unit(ax)
    width, alpha = float(np.clip(points * _LINE, *_LINES)), float(np.clip(points / _OPAQUE, *_OPACITIES))
    outlines = PathCollection(
        [Path(corners, closed=True)],
        offsets=captured.positions,
        offset_transform=ax.transData,
        facecolors="none",
        edgecolors="white",
        linewidths=width,
        alpha=alpha,
        path_effects=[withStroke(linewidth=2 * width, foreground="black", alpha=_HALO * alpha)],
        rasterized=True,
    )
    outlines.set_transform(AffineDeltaTransform(cast("Affine2DBase", ax.transData)))
    ax.add_collection(outlines, autolim=False)


def _points_per_unit(ax: Axes) -> float:
    """Points on paper per unit of the data, whose aspect is equal."""
    width, height = (float(side) / ax.figure.dpi * 72 for side in ax.get_window_extent().size)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    return float(min(width / abs(right - left), height / abs(top - bottom)))


def _translucent(pixels: np.ndarray, dpi: float, alpha: float) -> tuple[np.ndarray, int, int]:
    """Apply the opacity to the rendered layer: shapes overlap by fractions of a pixel, where opacities would add up.

    The opacity is limited, not multiplied: matplotlib applies the filter of a PolyCollection twice.
    """
    return np.minimum(pixels, (1, 1, 1, alpha)), 0, 0


def axis_limits(sections: Sequence[Shapes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and largest (x, y) of all shapes, with a margin."""
    low = np.min([shapes.positions.min(axis=0) + shapes.corners.min(axis=0) for shapes in sections], axis=0)
    high = np.max([shapes.positions.max(axis=0) + shapes.corners.max(axis=0) for shapes in sections], axis=0)
    margin = 0.02 * (high - low).max()
    return low - margin, high + margin


def panel_size(limits: tuple[np.ndarray, np.ndarray], width: float = 3.6) -> tuple[float, float]:
    """Return width and height in inches of a panel with these limits and a title."""
    across, down = limits[1] - limits[0]
    return width, width * float(np.clip(down / across, 0.4, 2.0)) + 0.3


def prepare_panel(
    ax: Axes, limits: tuple[np.ndarray, np.ndarray], background: Background | None, image_alpha: float, title: str
) -> None:
    """Set limits, with y pointing down as in an image, and title of the Axes, and draw the background image."""
    if background is not None:
        ax.imshow(background.pixels, extent=background.extent, alpha=image_alpha, zorder=0)
    (left, top), (right, bottom) = limits
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=10, parse_math=False)  # feature names may contain a dollar sign
