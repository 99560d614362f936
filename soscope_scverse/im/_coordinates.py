"""The check that positions lie in the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._read import read_spots
from soscope_scverse._validators import POSITIVE, Rules, check_arguments
from soscope_scverse.im.reading.sections import SectionImage, open_sections
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.pp._graphs import nearest_distance

_RULES: Rules = {"image_scale": POSITIVE.or_(None)}


def check_coordinates(
    adata: AnnData,
    image: Any = None,
    *,
    image_scale: float | None = None,
    library_key: str | None = None,
) -> None:
    """Check that coordinates and image belong together, before any long work.

    No pixel is read, unless the range of uint16 or an opacity has to be recognised from a sample.

    Checks the subspots in ``obsm["subspots"]`` if there are any, else the spots in ``obsm["spatial"]``. They may leave
    the image by up to the centre-to-centre distance of the spots, as subspots of spots at its border do.

    Parameters
    ----------
    adata, image, image_scale, library_key
        See :func:`features`.

    Raises
    ------
    TypeError, ValueError
        If positions leave the image. The message states how many, the scale factor that would fit, if one does, and
        whether exchanging x and y, or another sign, would.
    """
    check_arguments(locals(), _RULES)
    spots = read_spots(spots_of(read.read_data(adata)), library_key)
    subspots = read.subspots(spots.adata) if keys.SUBSPOTS in spots.adata.obsm else None
    check_inside(open_sections(spots, image, image_scale), subspots)


def check_inside(sections: Iterable[SectionImage], subspots: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Raise a ValueError if subspots, or spots without them, leave the image of their section.

    Parameters
    ----------
    sections
        Spots and images.
    subspots
        Positions, n_spots x n_subspots x 2, and which of them are no padding.
    """
    for section in sections:
        if subspots is None:
            xy = section.positions
        else:
            xy = subspots[0][subspots[1] & section.rows[:, None]]
        _check_section(section, xy)


def _check_section(section: SectionImage, xy: np.ndarray) -> None:
    source, margin = section.source, nearest_distance(section.positions, single=0.0)
    n_outside = _n_outside(xy, source, margin)
    if not n_outside:
        return
    pixels = source.to_pixels(xy)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    moved = f" plus {source.offset}" if any(source.offset) else ""
    hints = _hints(section, xy, margin) or ["check that the image belongs to these coordinates, or drop the spots"]
    msg = (
        f"Expected all positions{section.name} in the image, found {n_outside} of {len(xy)} outside: coordinates times "
        f"{source.scale:g}{moved} run over x = {left:.0f} to {right:.0f} and y = {top:.0f} to {bottom:.0f}, "
        f"the image is {source.width} wide and {source.height} high. What to do: {'; '.join(hints)}."
    )
    raise ValueError(msg)


def _n_outside(xy: np.ndarray, source: ImageSource, margin: float) -> int:
    pixels, margin = source.to_pixels(xy), margin * source.scale
    return int(((pixels < -margin) | (pixels > np.array([source.width, source.height]) + margin)).any(axis=1).sum())


def _hints(section: SectionImage, xy: np.ndarray, margin: float) -> list[str]:
    source, factors = section.source, _named_factors(section)
    changes = dict(_changes(xy, margin))
    hints = [f"{change}, which would fit" for change, moved in changes.items() if not _n_outside(moved, source, margin)]
    name = _fitting(xy, source, margin, factors)
    if name is not None:
        hints.append(f"pass `image_scale={factors[name]:g}`, the `{name}` in `uns['spatial']`, which would fit")
    if hints:
        return hints
    for change, moved in changes.items():
        name = _fitting(moved, source, margin, factors)
        if name is not None:
            both = f"{change} and pass `image_scale={factors[name]:g}`, the `{name}` in `uns['spatial']`"
            return [f"{both}, which would fit together"]
    return _general_fit(xy, source)


def _changes(xy: np.ndarray, margin: float) -> Iterator[tuple[str, np.ndarray]]:
    """Positions with the axes exchanged, and with another sign where it is the wrong one."""
    yield "exchange x and y", xy[:, ::-1]
    for name, signs in {"x": (-1, 1), "y": (1, -1), "x and y": (-1, -1)}.items():
        if all((xy[:, axis] <= margin).all() for axis in range(2) if signs[axis] < 0):
            yield f"change the sign of {name}", xy * signs


def _named_factors(section: SectionImage) -> dict[str, float]:
    """Scale factors of the section."""
    found = section.scale_factors.items()
    return {name: float(factor) for name, factor in found if name.startswith("tissue_") and float(factor) > 0}


def _fitting(xy: np.ndarray, source: ImageSource, margin: float, factors: dict[str, float]) -> str | None:
    """Name of the largest factor with which positions lie in the image."""
    fitting = [
        name
        for name, factor in factors.items()
        if not _n_outside(xy, replace(source, scale=factor, offset=(0.0, 0.0), turn=None), margin)
    ]
    return max(fitting, key=factors.__getitem__, default=None)


def _general_fit(xy: np.ndarray, source: ImageSource) -> list[str]:
    """A scale at which both axes would just fill the image, if they agree on one."""
    extent = xy.max(axis=0)
    if (extent <= 0).any():
        return []
    factors = np.array([source.width, source.height]) / extent
    if factors.max() > 1.3 * factors.min():
        return []
    return [
        f"pass `image_scale`, the pixels of this image for one of the coordinates, here at most {factors.min():.3g}"
    ]
