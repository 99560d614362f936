"""Patches of the image around the subspots, for networks and pipelines of the user."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from PIL import Image

from soscope_scverse import _read as read
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._files import completed
from soscope_scverse._read import read_spots
from soscope_scverse._validators import POSITIVE, POSITIVE_INTEGER, Rules, check_arguments, check_output
from soscope_scverse.im._coordinates import check_inside
from soscope_scverse.im._widths import check_widths, micron_widths, radius_widths
from soscope_scverse.im.encoders.base import read_patches
from soscope_scverse.im.reading.sections import open_sections
from soscope_scverse.im.reading.source import ImageSource

if TYPE_CHECKING:
    import zarr
    from dask.array import Array
    from spatialdata import SpatialData

_RULES: Rules = {"pixels": POSITIVE_INTEGER.or_(None), "image_scale": POSITIVE.or_(None)}
_BLOCK_VALUES = 50_000_000
"""Values of a block of patches: 50 MB."""


@accepts_containers()
def patches(
    adata: AnnData | MuData | SpatialData,
    image: Any = None,
    *,
    image_scale: float | None = None,
    library_key: str | None = None,
    context: float | None = None,
    context_um: float | None = None,
    pixels: int | None = None,
    out: str | PathLike | None = None,
    overwrite: bool = False,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> Array | zarr.Array:
    """Patches of the image around all subspots, read when they are needed or written to disk.

    For networks and pipelines that read patches, as that of the paper. Features that are made of them are used with
    ``obsm["subspot_features"]`` and ``encoder="precomputed"``; :func:`features` needs no patches.

    Parameters
    ----------
    adata, image, image_scale, library_key
        See :func:`features`.
    context, context_um
        Width of the square patch in spot radii or in micrometres, see :func:`features`. The paper uses 10 radii.
    pixels
        Width of the patches in pixels, to which they are rescaled; the coarsest sufficient level of a pyramid is read.
        Default: unscaled patches of the full resolution, whose width is the same in all sections.
    out, overwrite
        ``.zarr`` array to write to, and whether to replace an existing one.
    table_key, image_key, shapes_key, coordinate_system
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    dask.array.Array or zarr.Array
        n_targets x pixels x pixels x 3, uint8, RGB, in the order of the subspots without padding: spot by spot, the C
        order of ``obsm["subspots"]``. With `out` the zarr array. Tissue beyond the border of the image is mirrored.

    Raises
    ------
    TypeError, ValueError
        If subspots or images are missing or invalid, coordinates leave the image, `out` cannot be written to, or
        sections differ in the width of their patches and `pixels` is not given.

    Examples
    --------
    >>> sos.pp.subspots(adata)  # doctest: +SKIP
    >>> patches = sos.im.patches(adata, image, context=10, pixels=299)  # doctest: +SKIP
    >>> batch = patches[:64].compute()  # doctest: +SKIP
    """
    check_arguments(locals(), _RULES)
    if out is not None:
        check_output("out", out, overwrite=overwrite, suffixes=(".zarr",))
    spots = read_spots(spots_of(read.read_data(adata)), library_key)
    subspots, valid = read.subspots(spots.adata)
    sections = open_sections(spots, image, image_scale)
    check_inside(sections, (subspots, valid))
    if context_um is None:
        widths = radius_widths(sections, subspots, valid, context)[1]
    else:
        widths = micron_widths(sections, context, context_um)[1]
    check_widths(sections, widths)
    parts, targets = [], []
    for section, (width, *others) in zip(sections, widths, strict=True):
        if others:
            msg = f"Expected one width of the patches, found {1 + len(others)}. Call this function for each."
            raise ValueError(msg)
        source = section.source
        source = source if pixels is None else source.coarsened(width * source.scale / pixels)
        inside = valid & section.rows[:, None]
        parts.append(_Cutter(source, source.to_pixels(subspots[inside]), width * source.scale, pixels))
        targets.append(np.flatnonzero(inside[valid]))
    sizes = sorted({part.shape[0] for part in parts})
    if len(sizes) > 1:
        msg = f"Expected patches of one width, found {sizes} pixels in different sections. Choose it with `pixels=`."
        raise ValueError(msg)
    lazy = _in_order(parts, targets)
    return lazy if out is None else _written(lazy, Path(out))


class _Cutter:
    """Patches of one section.

    Parameters
    ----------
    source
        The image.
    centres
        n_targets x 2 in its pixels.
    width
        Of the patches in its pixels.
    pixels
        Width to rescale to; None is unscaled.
    """

    def __init__(self, source: ImageSource, centres: np.ndarray, width: float, pixels: int | None) -> None:
        self.source = source
        self.size = max(1, round(width))
        self.corners = np.rint(centres - self.size / 2).astype(int)
        self.shape = (pixels or self.size, pixels or self.size, 3)

    def cut(self, rows: slice) -> np.ndarray:
        """Read some of the patches."""
        corners = self.corners[rows]
        cut = np.empty((len(corners), *self.shape), np.uint8)
        for index, patch in read_patches(self.source, corners, self.size):
            cut[index] = patch if patch.shape == self.shape else _rescaled(patch, self.shape[0])
        return cut

    def blocks(self) -> Iterator[slice]:
        """Yield rows of about equal memory."""
        size = max(1, _BLOCK_VALUES // int(np.prod(self.shape)))
        for start in range(0, len(self.corners), size):
            yield slice(start, min(start + size, len(self.corners)))


def _rescaled(patch: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.BILINEAR))


def _in_order(parts: list[_Cutter], targets: list[np.ndarray]) -> Array:
    """Patches of all sections as one lazy array, in the order of the subspots."""
    from dask import array, delayed

    blocks = [
        array.from_delayed(delayed(part.cut, pure=False)(rows), (rows.stop - rows.start, *part.shape), np.uint8)
        for part in parts
        for rows in part.blocks()
    ]
    lazy = array.concatenate(blocks)
    order = np.argsort(np.concatenate(targets), kind="stable")
    return lazy if (order == np.arange(len(order))).all() else lazy[order]


def _written(lazy: Array, path: Path) -> zarr.Array:
    """Write the patches block by block to a new zarr array."""
    import zarr

    with completed(path) as part:
        chunks = (lazy.chunks[0][0], *lazy.shape[1:])
        stored = zarr.create_array(part, shape=lazy.shape, dtype=np.uint8, chunks=chunks)
        start = 0
        for block in lazy.blocks:
            stored[start : start + len(block)] = block.compute(scheduler="synchronous")
            start += len(block)
    return zarr.open_array(path, mode="r")
