"""Label masks: outlines of cells from arrays of integers, along the edges of the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_STRIP = 2**24  # pixels that are read at once: 128 MiB of 8 byte integers


def mask_outlines(mask: Any, what: str = "`cells`") -> GeoDataFrame:
    """Outlines of the cells of a label mask, by the numbers of their labels.

    Pixel (row, column) covers [column, column + 1) x [row, row + 1), so the area of an outline is its number of pixels.
    ``spatialdata.to_polygons`` connects the centres of pixels instead: it moves cells by half a pixel and fills holes.

    Parameters
    ----------
    mask
        Array of integers, height x width, 0 is background; it is read in strips of rows.
    what
        What messages call it.

    Raises
    ------
    TypeError, ValueError
        If it is no such array or holds no label.
    """
    from geopandas import GeoDataFrame

    _check(mask, what)
    labels, outlines = [], []
    for top, pixels in _strips(mask, what):
        found, shapes = _outlines(pixels, top)
        labels.append(found)
        outlines.append(shapes)
    label_of, outline = np.concatenate(labels), np.concatenate(outlines)
    if not len(label_of):
        msg = f"Expected labels above 0 of cells in {what}, found background (0) alone. Pass the labelled mask."
        raise ValueError(msg)
    order = np.argsort(label_of, kind="stable")
    names, first = np.unique(label_of[order], return_index=True)
    parts = np.split(outline[order], first[1:])  # of cells in several pieces, or in several strips
    joined = np.array([part[0] if len(part) == 1 else shapely.union_all(part) for part in parts])
    return GeoDataFrame(geometry=joined, index=pd.Index(names.astype(str)))


def _check(mask: Any, what: str) -> None:
    """Raise unless `mask` is a matrix of integers."""
    shape, dtype = tuple(mask.shape), np.dtype(mask.dtype)
    if dtype.kind not in "iu":
        advice = "Convert it with `.astype(int)` if it holds the numbers of cells"
        if dtype.kind == "b":
            advice = "Number its cells: `skimage.measure.label(mask)`"
        elif shape[-1] == 2:
            advice = "Pass positions of cells as `pandas.DataFrame(positions, columns=['x', 'y'])`"
        msg = f"Expected a label mask of integers in {what}, found an array of {dtype} of shape {shape}. {advice}."
        raise TypeError(msg)
    if np.ma.is_masked(mask):
        msg = f"Expected a label mask without masked values in {what}, found some. Fill them: `mask.filled(0)`."
        raise ValueError(msg)
    if len(shape) != 2 or 0 in shape:
        advice = "Select one plane" if len(shape) > 2 else "Pass one label for every pixel of the image"
        msg = f"Expected a label mask of height x width in {what}, found an array of shape {shape}. {advice}."
        raise ValueError(msg)


def _strips(mask: Any, what: str) -> Iterator[tuple[int, np.ndarray]]:
    """First row and pixels of strips of a mask, which are as high as some of its chunks."""
    height, width = mask.shape
    chunk = getattr(mask, "chunks", None)
    rows = 1 if chunk is None else int(np.max(chunk[0]))
    rows *= max(1, _STRIP // (rows * width))
    for top in range(0, height, rows):
        try:
            pixels = np.asarray(mask[top : top + rows])
        except Exception as error:  # of whatever the array reads from
            msg = f"Expected {what} to be a whole mask, found rows from {top} that cannot be read: {error}"
            raise ValueError(msg) from error
        if pixels.dtype.kind == "i" and (pixels < 0).any():
            msg = f"Expected labels of at least 0 in {what}, found {pixels.min()}. Background is 0."
            raise ValueError(msg)
        yield top, pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _outlines(pixels: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and outlines of the pieces of cells in pixels from row `top` on: those that are connected by edges."""
    from skimage.measure import label

    pieces, n_pieces = label(pixels, background=0, connectivity=1, return_num=True)
    if not n_pieces:
        return np.empty(0, dtype=pixels.dtype), np.empty(0, dtype=object)
    of_piece = np.zeros(n_pieces + 1, dtype=pixels.dtype)
    of_piece[pieces] = pixels
    corners, piece = _edges(np.pad(pieces, 1))
    order = np.argsort(piece, kind="stable")
    corners = corners[order] + np.array([-1.0, top - 1.0])  # of the padding
    lines = shapely.multilinestrings(shapely.linestrings(corners), indices=piece[order] - 1)
    # an area is built wrongly where pieces touch in a corner; a piece connected by edges has one area, with holes
    return of_piece[1:], shapely.build_area(lines)


def _edges(pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges between pieces, n_edges x 2 x 2 (x, y) from corner to corner, and the piece that each one borders."""
    corners, of_edge = [], []
    for across, axes in ((pieces, [0, 1]), (pieces.T, [1, 0])):
        line, at = np.nonzero(across[:-1] != across[1:])
        for side in (across[:-1], across[1:]):
            piece = side[line, at]
            inside = piece > 0
            y, x, piece = line[inside] + 1, at[inside], piece[inside]
            is_start = np.ones(len(x), dtype=bool)
            is_start[1:] = (np.diff(y) != 0) | (np.diff(x) != 1) | (np.diff(piece) != 0)
            start, stop = np.flatnonzero(is_start), np.flatnonzero(np.roll(is_start, -1))
            ends = [np.column_stack([x[start], y[start]]), np.column_stack([x[stop] + 1, y[stop]])]
            corners.append(np.stack(ends, axis=1)[..., axes])
            of_edge.append(piece[start])
    return np.concatenate(corners), np.concatenate(of_edge)
