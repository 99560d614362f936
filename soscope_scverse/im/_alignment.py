"""The check that spots lie on the tissue: figures for the given placement and for others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.ndimage import map_coordinates, uniform_filter

from soscope_scverse import _read as read
from soscope_scverse._arrays import row_chunks, spread
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._read import read_spots
from soscope_scverse._validators import POSITIVE, Rules, check_arguments, check_finite
from soscope_scverse.im._tissue import darkness, is_tissue
from soscope_scverse.im.reading.sections import SectionImage, open_sections
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.im.reading.thumbnails import shrunk

if TYPE_CHECKING:
    from spatialdata import SpatialData

_GIVEN = "as given"
_THUMBNAIL = 1000
_MOST_SPOTS = 20_000
_INSIDE = 0.95
"""A placement counts if at least this share of the spots is in the image."""
_CLEARLY = 0.15
"""A placement is suspected if its score, share on tissue plus correlation, is better by more than this ..."""
_CORRELATED, _ON_TISSUE, _COVERED = 0.1, 0.75, 0.5
"""... and it has at least this correlation, this share of the spots on tissue, and this share of the tissue inside the
spots: without glass around it, the threshold separates tissue from tissue, and spots shrunk onto a dark area fit."""
_ZOOMS = np.geomspace(1 / 16, 16, 161)
_TURNS = {
    "x and y exchanged": (True, False, False),
    "x mirrored": (False, True, False),
    "y mirrored": (False, False, True),
    "turned by 180 degrees": (False, True, True),
    "turned by 90 degrees": (True, True, False),
    "turned by 270 degrees": (True, False, True),
    "x and y exchanged, turned by 180 degrees": (True, True, True),
}
"""Name to (exchange, then mirror x, mirror y)."""
_RULES: Rules = {"image_scale": POSITIVE.or_(None)}


@dataclass(frozen=True, eq=False)
class Alignment:
    """How well spots and tissue fit, as placed and in other placements; made by :func:`check_alignment`.

    Parameters
    ----------
    table
        One row for each section and placement: "scale" (from coordinates to pixels), "inside" (share of the spots in
        the image), "on_tissue" (share of the spots on tissue), "covered" (share of the tissue in the rectangle of the
        spots), "correlation" (of the darkness of the image at a
        spot with the logarithm of its total count) and "suspected" (whether it fits clearly better than as given).
    thumbnails
        Of each section: the small image, and in its pixels the positions of the spots, n_spots x 2, and their
        diameter.
    """

    table: pd.DataFrame
    thumbnails: dict[str, tuple[np.ndarray, np.ndarray, float]]


@accepts_containers()
def check_alignment(
    adata: AnnData | SpatialData,
    image: Any = None,
    *,
    image_scale: float | None = None,
    library_key: str | None = None,
    layer: str | None = None,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> Alignment:
    """Compare the spots with the tissue under them, in the given placement and in others.

    Tissue and glass are separated by Otsu's threshold of the saturation (of the darkness, if the image is grey). More
    tissue under a spot means darker pixels and more counts, so the correct placement has most spots on tissue and the
    highest correlation of darkness with library size. Made for stained sections in bright field; in fluorescence tissue
    is bright.

    Parameters
    ----------
    adata
        Spots with positions in ``obsm["spatial"]``.
    image, image_scale, library_key
        See :func:`features`.
    layer
        Counts, default ``X``.
    table_key, image_key, shapes_key, coordinate_system
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    Alignment
        Figures of every section and placement, and the input of :func:`~soscope_scverse.pl.alignment`.

    Raises
    ------
    TypeError, ValueError
        If coordinates or counts are missing, or as for :func:`features` if there is no image.

    Warns
    -----
    UserWarning
        If another placement fits clearly better. A symmetric section may fit in several ways: look at the image.
    """
    check_arguments(locals(), _RULES)
    spots = read_spots(adata, library_key)
    return compare_placements(open_sections(spots, image, image_scale), library_sizes(read.profiles(adata, layer)))


def library_sizes(x: Any) -> np.ndarray:
    """Total of every row of a matrix, perhaps on disk; raises a ValueError if it is not finite."""
    total = np.concatenate([np.asarray(chunk.sum(axis=1)).ravel() for chunk in row_chunks(x)]).astype(float)
    check_finite(total)
    return total


def compare_placements(sections: list[SectionImage], library_size: np.ndarray) -> Alignment:
    """Figures of every section and placement, with a warning where another placement fits clearly better."""
    log_size = np.log1p(np.maximum(library_size, 0))
    tables, thumbnails = {}, {}
    for section in sections:
        name = section.library_id or ""
        origin = np.minimum(section.source.extent[0], 0)  # a thumbnail begins at the origin of the coordinates
        small, scale = shrunk(section.source.counted_from(origin), _THUMBNAIL)
        # the scale of the thumbnail differs from that of the image, in whose pixels the table is
        radius = section.radius
        tissue = _Tissue.of(ImageSource(small, "yxc", scale=scale), radius)
        zoom = section.source.scale / scale
        sampled = spread(len(section.positions), _MOST_SPOTS)
        sizes = log_size[section.rows][sampled]
        scales = {name: float(value) / zoom for name, value in section.scale_factors.items() if _is_scale(name)}
        table = _compare(tissue, section.positions[sampled] - origin, sizes, scales)
        tables[name] = table.assign(scale=table["scale"] * zoom)
        thumbnails[name] = small, (section.positions - origin) * scale, 2 * radius * scale
        _warn(tables[name], section)
        if len(sections) > 1:
            section.source.release()
    return Alignment(pd.concat(tables, names=["section", "placement"]), thumbnails)


def _is_scale(name: str) -> bool:
    return name.startswith("tissue_")


@dataclass(frozen=True, eq=False)
class _Tissue:
    """A thumbnail: tissue mask, and darkness averaged over the width of a spot."""

    source: ImageSource
    mask: np.ndarray
    darkness: np.ndarray

    @classmethod
    def of(cls, source: ImageSource, radius: float) -> _Tissue:
        pixels = source.read(0, source.height, 0, source.width)
        size = max(1, round(2 * radius * source.scale))
        return cls(source, is_tissue(pixels), uniform_filter(darkness(pixels), size))

    def fit(self, xy: np.ndarray, library_size: np.ndarray, scale: float) -> dict[str, float]:
        """Figures of spots at these positions, in full-resolution coordinates."""
        at = xy * scale - 0.5
        inside = ((at > -1) & (at < [self.source.width, self.source.height])).all(axis=1)
        on_tissue = map_coordinates(self.mask.astype(np.float32), at.T[::-1], order=0, cval=0)
        darkness = map_coordinates(self.darkness, at.T[::-1], order=1, mode="nearest")
        varies = inside.sum() > 2 and np.ptp(darkness[inside]) > 0 and np.ptp(library_size[inside]) > 0
        correlation = np.corrcoef(darkness[inside], library_size[inside])[0, 1] if varies else np.nan
        return {
            "scale": scale,
            "inside": inside.mean(),
            "on_tissue": on_tissue.mean(),
            "covered": self._covered(at),
            "correlation": correlation,
        }

    def _covered(self, at: np.ndarray) -> float:
        """Share of the tissue in the rectangle of the spots."""
        size = [self.source.width, self.source.height]
        (left, top), (right, bottom) = (np.clip(np.rint(end), 0, size).astype(int) for end in (at.min(0), at.max(0)))
        return self.mask[top : bottom + 1, left : right + 1].sum() / max(self.mask.sum(), 1)


def _compare(tissue: _Tissue, xy: np.ndarray, library_size: np.ndarray, named: dict[str, float]) -> pd.DataFrame:
    """Figures of all placements; scales are those to the small image."""
    source = tissue.source
    size = np.array([source.width, source.height]) / source.scale
    rows = {_GIVEN: tissue.fit(xy, library_size, source.scale)}
    for name, turned in _turned(xy, size):
        rows[name] = tissue.fit(turned, library_size, source.scale)
    for name, scale in named.items():
        rows[name] = tissue.fit(xy, library_size, scale)
    zoomed = [tissue.fit(xy, library_size, source.scale * zoom) for zoom in _ZOOMS]
    rows["best scale"] = max(zoomed, key=lambda figures: _score(pd.Series(figures)))
    table = pd.DataFrame.from_dict(rows, orient="index")
    scores = table.apply(_score, axis=1)
    best = scores.idxmax()
    clearly = scores > scores[_GIVEN] + _CLEARLY
    least = {"correlation": _CORRELATED, "on_tissue": _ON_TISSUE, "covered": _COVERED}
    fits = (table[list(least)] >= pd.Series(least)).all(axis=1)
    return table.assign(suspected=clearly & fits & (scores.index == best))


def _score(figures: pd.Series) -> float:
    if figures["inside"] < _INSIDE:
        return -1.0
    return figures["on_tissue"] + np.nan_to_num(figures["correlation"])


def _turned(xy: np.ndarray, size: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name, (exchange, *mirror) in _TURNS.items():
        turned = xy[:, ::-1] if exchange else xy
        yield name, np.where(mirror, size - turned, turned)


def _warn(table: pd.DataFrame, section: SectionImage) -> None:
    given = table.loc[_GIVEN]
    for placement, better in table[table["suspected"]].iterrows():
        what = (
            f"`image_scale={better['scale']:.3g}`"
            if better["scale"] != given["scale"]
            else f"the spots with {placement}"
            if "exchanged" in str(placement) or "mirrored" in str(placement)
            else f"the spots {placement}"
        )
        warnings.warn(
            f"The spots{section.name} may be misplaced: {given['on_tissue']:.0%} lie on tissue and the correlation of "
            f"darkness with library size is {given['correlation']:.2f}, but {better['on_tissue']:.0%} and "
            f"{better['correlation']:.2f} with {what}. Look at `pl.alignment(im.check_alignment(...))`.",
            UserWarning,
            stacklevel=4,
        )
