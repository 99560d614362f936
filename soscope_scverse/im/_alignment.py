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
from soscope_scverse.im._tissue import darkness, mask_of
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
_FEW = 0.25
"""Fewer spots than this share on tissue, and most of the tissue beside them, are reported even if nothing fits better.
Of the spots of a whole slide that shows one of several pieces of tissue, or of an image without glass, it is more."""
_ZOOMS = np.geomspace(1 / 16, 16, 161)
_FAR_ZOOMS = np.geomspace(1 / 128, 128, 281)
"""The same steps, where few spots are on tissue: a "lowres" image is up to 100 times smaller than that of Visium HD."""
_ZOOM_STEP = np.log(_ZOOMS[1] / _ZOOMS[0])
_BEST_SCALE = "best scale"
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
        spots), "correlation" (of the staining at a spot, which is the darkness of the image and in fluorescence its
        brightness, with the logarithm of the total count) and "suspected" (whether it fits clearly better than as
        given).
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

    Tissue and glass are separated by :func:`tissue_mask`. More tissue under a spot means darker pixels, in fluorescence
    brighter ones, and more counts, so the correct placement has most spots on tissue and the highest correlation of
    staining with library size.

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
        If another placement fits clearly better, or if few spots lie on tissue. A symmetric section may fit in several
        ways: look at the image.
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
    """Figures of every section and placement, with a warning where another fits clearly better or few are on tissue."""
    log_size = np.log1p(np.maximum(library_size, 0))
    tables, thumbnails = {}, {}
    for section in sections:
        name = section.library_id or ""
        origin = np.minimum(section.source.extent[0], 0)  # a thumbnail begins at the origin of the coordinates
        source = section.source.counted_from(origin)
        small, scale = shrunk(source, _THUMBNAIL)
        # the scale of the thumbnail differs from that of the image, in whose pixels the table is
        radius = section.radius
        tissue = _Tissue.of(source, small, scale, radius)
        zoom = section.source.scale / scale
        sampled = spread(len(section.positions), _MOST_SPOTS)
        sizes = log_size[section.rows][sampled]
        table = _compare(tissue, section.positions[sampled], origin, sizes, _named_scales(section, zoom))
        tables[name] = table.assign(scale=table["scale"] * zoom)
        thumbnails[name] = small, (section.positions - origin) * scale, 2 * radius * scale
        _warn(tables[name], section, tissue)
        if len(sections) > 1:
            section.source.release()
    return Alignment(pd.concat(tables, names=["section", "placement"]), thumbnails)


def _named_scales(section: SectionImage, zoom: float) -> dict[str, float]:
    """Scales to the thumbnail by the factors of the section: of an image of this resolution, and of such positions."""
    factors = {name: float(value) for name, value in section.scale_factors.items() if name.startswith("tissue_")}
    images = {name: factor / zoom for name, factor in factors.items()}
    positions = {f"1 / {name}": section.source.scale / factor / zoom for name, factor in factors.items() if factor > 0}
    return images | positions


@dataclass(frozen=True, eq=False)
class _Tissue:
    """A thumbnail: tissue mask, and staining averaged over the width of a spot."""

    scale: float
    """From full-resolution coordinates to its pixels."""
    mask: np.ndarray
    staining: np.ndarray
    """Darkness, or brightness if the glass is dark."""
    glass_is_dark: bool

    @classmethod
    def of(cls, source: ImageSource, small: np.ndarray, scale: float, radius: float) -> _Tissue:
        mask, is_dark = mask_of(source, small, scale)
        # both grow with the amount of dye: absorbed light exponentially, emitted light linearly
        staining = small.max(axis=2).astype(np.float32) if is_dark else darkness(small)
        return cls(scale, mask, uniform_filter(staining, max(1, round(2 * radius * scale))), is_dark)

    @property
    def size(self) -> np.ndarray:
        """Width and height in pixels."""
        return np.array(self.mask.shape[::-1])

    def fit(self, xy: np.ndarray, library_size: np.ndarray, scale: float) -> dict[str, float]:
        """Figures of spots at these positions, in full-resolution coordinates."""
        at = xy * scale - 0.5
        inside = ((at > -1) & (at < self.size)).all(axis=1)
        on_tissue = map_coordinates(self.mask.astype(np.float32), at.T[::-1], order=0, cval=0)
        staining = map_coordinates(self.staining, at.T[::-1], order=1, mode="nearest")
        varies = inside.sum() > 2 and np.ptp(staining[inside]) > 0 and np.ptp(library_size[inside]) > 0
        correlation = np.corrcoef(staining[inside], library_size[inside])[0, 1] if varies else np.nan
        return {
            "scale": scale,
            "inside": inside.mean(),
            "on_tissue": on_tissue.mean(),
            "covered": self._covered(at),
            "correlation": correlation,
        }

    def _covered(self, at: np.ndarray) -> float:
        """Share of the tissue in the rectangle of the spots."""
        ends = (at.min(0), at.max(0))
        (left, top), (right, bottom) = (np.clip(np.rint(end), 0, self.size).astype(int) for end in ends)
        return self.mask[top : bottom + 1, left : right + 1].sum() / max(self.mask.sum(), 1)


def _compare(
    tissue: _Tissue, positions: np.ndarray, origin: np.ndarray, library_size: np.ndarray, named: dict[str, float]
) -> pd.DataFrame:
    """Figures of all placements; scales are those to the small image, which begins at `origin`."""
    xy, scale = positions - origin, tissue.scale
    rows = {_GIVEN: tissue.fit(xy, library_size, scale)}
    leave = rows[_GIVEN]["inside"] < _INSIDE
    for name, moved in (*_turned(xy, tissue.size / scale), *(_negated(positions, origin) if leave else ())):
        rows[name] = tissue.fit(moved, library_size, scale)
    for name, factor in named.items():
        rows[name] = tissue.fit(xy, library_size, factor)
    are_few = _are_few(rows[_GIVEN])
    zoomed = pd.DataFrame([tissue.fit(xy, library_size, scale * zoom) for zoom in (_FAR_ZOOMS if are_few else _ZOOMS)])
    by_score = zoomed.apply(_score, axis=1)
    if are_few:  # those that fit first, and of these the one whose spots take most of the tissue
        by_score += zoomed["covered"] + 10 * _covers(zoomed)
    rows[_BEST_SCALE] = zoomed.loc[by_score.idxmax()].to_dict()
    table = pd.DataFrame.from_dict(rows, orient="index")
    scores = table.apply(_score, axis=1)
    clearly = scores > scores[_GIVEN] + _CLEARLY
    suspected = (
        clearly
        & _covers(table)
        & (table["correlation"] >= _CORRELATED)
        & (scores.index == _best(table, scores, list(named)))
    )
    return table.assign(suspected=suspected)


def _best(table: pd.DataFrame, scores: pd.Series, named: list[str]) -> str:
    """The placement of the highest score; of a scale, the factor of the section that is nearly as large."""
    best = scores.idxmax()
    if best == _BEST_SCALE:
        steps = (np.log(table.loc[named, "scale"] / table.loc[best, "scale"])).abs() / _ZOOM_STEP
        same = steps[(steps <= 1) & (scores[named] > scores[best] - _CLEARLY)]
        best = best if same.empty else same.idxmin()
    return str(best)


def _are_few(given: Any) -> bool:
    """Whether hardly any spots lie on tissue, by the figures of a placement."""
    return not given["on_tissue"] or bool(given["on_tissue"] < _FEW and given["covered"] < _COVERED)


def _covers(table: pd.DataFrame) -> pd.Series:
    """Whether most spots lie on tissue, and most of the tissue among them."""
    least = {"inside": _INSIDE, "on_tissue": _ON_TISSUE, "covered": _COVERED}
    return (table[list(least)] >= pd.Series(least)).all(axis=1)


def _score(figures: pd.Series) -> float:
    if figures["inside"] < _INSIDE:
        return -1.0
    return figures["on_tissue"] + np.nan_to_num(figures["correlation"])


def _turned(xy: np.ndarray, size: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name, (exchange, *mirror) in _TURNS.items():
        turned = xy[:, ::-1] if exchange else xy
        yield name, np.where(mirror, size - turned, turned)


def _negated(positions: np.ndarray, origin: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Positions with another sign, where it would be above 0."""
    for name, signs in {"x negated": (-1, 1), "y negated": (1, -1), "x and y negated": (-1, -1)}.items():
        if all((positions[:, axis] <= 0).all() for axis in range(2) if signs[axis] < 0):
            yield name, positions * signs - origin


def _warn(table: pd.DataFrame, section: SectionImage, tissue: _Tissue) -> None:
    given = table.loc[_GIVEN]
    staining = "brightness" if tissue.glass_is_dark else "darkness"
    for placement, better in table[table["suspected"]].iterrows():
        msg = (
            f"The spots{section.name} may be misplaced: {given['on_tissue']:.0%} lie on tissue and the correlation of "
            f"{staining} with library size is {given['correlation']:.2f}, but {better['on_tissue']:.0%} and "
            f"{better['correlation']:.2f} with {_named(placement, better['scale'], given['scale'])}. Look at "
            "`pl.alignment(im.check_alignment(...))`."
        )
        warnings.warn(msg, UserWarning, stacklevel=4)
    if table["suspected"].any() or not _are_few(given) or not tissue.mask.any():
        return
    n = len(section.positions)
    msg = (
        f"{round(given['on_tissue'] * n)} of {n} spots{section.name} lie on tissue ({given['on_tissue']:.0%}). "
        f"{_advice(table)} Look at `pl.alignment(im.check_alignment(...))`."
    )
    warnings.warn(msg, UserWarning, stacklevel=4)


def _advice(table: pd.DataFrame) -> str:
    """What puts most spots on tissue, perhaps without a correlation of staining and library size."""
    others = table[_covers(table)]
    if others.empty:
        return (
            "No other scale, order or sign of the coordinates puts most of them there. Check that the image belongs to "
            "these spots, and that `adata.obsm['spatial']` holds x and y in full-resolution pixels."
        )
    named = [name for name in others.index if "tissue_" in name]
    best = _best(others, others.apply(_score, axis=1), named)
    what = _named(best, others.loc[best, "scale"], table.loc[_GIVEN, "scale"])
    return f"{others.loc[best, 'on_tissue']:.0%} would with {what}."


def _named(placement: Any, scale: float, given_scale: float) -> str:
    """A placement in a message."""
    if scale != given_scale:
        factor = f" ({placement})" if placement != _BEST_SCALE else ""
        return f"`image_scale={scale:.3g}`{factor}"
    is_changed = any(word in str(placement) for word in ("exchanged", "mirrored", "negated"))
    return f"the spots with {placement}" if is_changed else f"the spots {placement}"
