"""What columns of tables mean: x and y by their names, marks by their values."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

_AXES = {"x": "x", "y": "y", "z": "z", "col": "x", "column": "x", "row": "y"}
"""Words of a name and the axis that they stand for."""
_GLUED = re.compile(
    r"(?P<before>image|img|pxl|pixel|px|coord|pos|loc|centroid|center|centre|cell|spot|array|grid|new|adj)?"
    r"(?P<axis>x|y|z|col|column|row)"
    r"(?P<after>coord\w*|pos\w*|loc\w*|cent\w*|pixel\w*|pxl|px|um|mm|nm|micron\w*)?"
)
"""Names without a separator, such as ``imagerow`` of Seurat and ``xcoord`` of Slide-seq."""
_NUMBERED = re.compile(r"(?P<stem>.*?)[\W_]*(?P<number>\d+)")
_OF_INDICES = {"array", "grid"}
_MARKS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
_MISSING = {"", "nan", "na", "none", "<na>"}


class Axes(NamedTuple):
    """Columns whose names differ in the axis alone."""

    x: Hashable
    y: Hashable
    z: Hashable | None
    stem: str
    """Their common words."""
    of_array: bool
    """Whether they are named row and column."""


def xy_columns(table: pd.DataFrame, what: str) -> list[Hashable]:
    """Return the names of the columns of `table` with x and y, in this order.

    Known are names with an axis among their words (``x``, ``y_centroid``, ``pxl_col_in_fullres``, ``imagerow``: a row
    is y, a column x), and two columns with successive numbers.

    Parameters
    ----------
    table
        Columns in any order, perhaps with others.
    what
        The table in a message.

    Raises
    ------
    ValueError
        If no pair of columns is named so, or more than one, or if there is a third axis.
    """
    numbered = _numbered(table)
    if numbered:
        return numbered
    found = [axes for axes in named_axes(table) if axes.stem not in _OF_INDICES]
    if len(found) > 1:  # row and column alone are those of the array beside any other pair
        found = [axes for axes in found if axes.stem or not axes.of_array]
    expected = f"Expected {what} to have columns 'x' and 'y' or others named for one x and one y"
    if not found:
        why = "Array indices are no positions." if named_axes(table) else "Rename them."
        msg = f"{expected}, found {list(table)}. {why}"
        raise ValueError(msg)
    pairs = [[axes.x, axes.y] for axes in found]
    if len(pairs) > 1:
        msg = f"{expected}, found {' and '.join(map(str, pairs))}. Keep the pair of positions in pixels."
        raise ValueError(msg)
    if found[0].z is not None:
        msg = f"{expected}, found {[*pairs[0], found[0].z]}. Sections are flat: keep {pairs[0]}."
        raise ValueError(msg)
    return pairs[0]


def named_axes(table: pd.DataFrame) -> list[Axes]:
    """Return all sets of columns that are named for the axes of one kind of position."""
    axes: dict[tuple[str, bool], dict[str, list[Hashable]]] = {}
    for name in table:
        parsed = _parsed(str(name))
        if parsed is not None:
            axis, stem, of_array = parsed
            axes.setdefault((stem, of_array), {}).setdefault(axis, []).append(name)
    return [
        Axes(x, y, z, stem, of_array)
        for (stem, of_array), of in axes.items()
        for x in of.get("x", [])
        for y in of.get("y", [])
        for z in of.get("z", [None])
    ]


def _parsed(name: str) -> tuple[str, str, bool] | None:
    """Axis of a column, the other words of its name, and whether it is named for a row or column."""
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", name)]
    words = [part for part in parts if part in _AXES]
    if len(words) == 1:
        rest = [part for part in parts if part not in _AXES]
        return _AXES[words[0]], " ".join(rest), words[0] not in "xyz"
    match = _GLUED.fullmatch(name.lower())
    if match is None:
        return None
    stem = " ".join(filter(None, [match["before"], match["after"]]))
    return _AXES[match["axis"]], stem, match["axis"] not in "xyz"


def _numbered(table: pd.DataFrame) -> list[Hashable]:
    """Two columns with one name and successive numbers, in their order; none if they are not named so."""
    matches = [_NUMBERED.fullmatch(str(name)) for name in table]
    if len(matches) != 2 or matches[0] is None or matches[1] is None or matches[0]["stem"] != matches[1]["stem"]:
        return []
    numbers = [int(match["number"]) for match in matches if match is not None]
    if abs(numbers[1] - numbers[0]) != 1:
        return []
    return [table.columns[i] for i in np.argsort(numbers)]


def marks(column: Any) -> np.ndarray | None:
    """Return 1 for true, 0 for false and NaN for a missing value; None if there are others.

    Parameters
    ----------
    column
        Booleans, 0 and 1, or their names as strings or categories.
    """
    column = pd.Series(column)
    words = column.astype(object).map(lambda value: str(value).strip().lower())
    found = words.map(_MARKS)
    missing = column.isna() | words.isin(_MISSING)
    return None if (found.isna() & ~missing).any() else found.to_numpy(float)
