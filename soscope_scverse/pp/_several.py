"""Lattices of all sections, once it is clear that each has one."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from soscope_scverse import _keys as keys
from soscope_scverse._arrays import spread
from soscope_scverse._one_section import advice_on_sections, separating_columns
from soscope_scverse._read import Spots
from soscope_scverse.pp._lattice import (
    LOW_SUPPORT,
    Lattice,
    find_lattice,
    is_one_array,
    lattice_or_none,
    n_sampled,
    shared_steps,
)

_N_NEIGHBORS = 36  # three times as many as of one lattice: up to three sections in one frame
_COMMON = 0.8  # share of the most frequent step from which a step is one of every section
_NEAR = 0.6  # pitches; a lattice shifted into the gaps of another is at most 0.58 (hexagonal) or 0.71 (square) away
_NEAR_SHARE = 0.05  # of the spots; of one lattice with a jitter of 0.09 pitches 0.6 %, of real sections none
_VERY_NEAR = 0.2  # the same where half of the spots are missing, so that the shortest shared step is three pitches long
_WELL_SHARED = 0.5  # share of the spots from which the steps of a lattice start unless it has gaps or is turned
_N_MEASURED = 20_000  # spots whose nearest neighbour is measured
_FEWEST = 30  # spots; two rows of fewer could be two sections
_SHIFTED = 0.3  # share of the spots from which a step leads to the other section: half of them, if both are complete
_BOTH = 0.1  # share of the spots with a step forwards and backwards, if it leads from one section to the other


def section_lattices(spots: Spots, kind: Literal["auto", "square", "hex"]) -> dict[str, Lattice]:
    """Return the lattice of every section.

    Raises
    ------
    ValueError
        If a section has none or several, or one that is elongated since rows of spots may be missing; the message
        names it, and what to do.
    """
    check_single_lattices(spots)
    found = {}
    for name, rows in spots.rows.items():
        try:
            found[name] = find_lattice(*spots.lattice_of(rows), kind)
        except ValueError as error:
            raise ValueError(f"{error}{_what_to_do(spots, name)}") from None
        if kind == "auto" and found[name].array_steps is None and found[name].is_elongated:
            raise ValueError(_of_missing_rows(found[name], spots.where(name)))
    return found


def _of_missing_rows(lattice: Lattice, where: str) -> str:
    """Message on a lattice of which rows or columns may be missing, so that parts of its cells have a wrong shape."""
    steps = " and ".join(f"{length:.4g}" for length in np.linalg.norm(lattice.basis, axis=1))
    return (
        f"Expected spots on a square or hexagonal lattice {where}, found steps of {steps} between neighbours: rows or "
        "columns of spots may be missing. Add their array indices (`array_row` and `array_col` in `adata.obs`), "
        "or pass the partition to `pp.subspots` with `positions=` (n_spots x n_subspots x 2). Spots that are as long "
        "and wide as these steps need `pp.subspots(geometry='square')`."
    )


def check_single_lattices(spots: Spots) -> None:
    """Raise a ValueError if spots of one section lie on several lattices, one over the other."""
    for name, rows in spots.rows.items():
        xy = spots.positions[rows]
        if holds_several(xy) and not is_one_array(*spots.lattice_of(rows)):
            columns = separating_columns(spots.adata.obs.iloc[rows], partial(_separates, xy))
            advice = advice_on_sections(columns)
            msg = f"Expected one section {spots.where(name)}, found several lattices, one over the other. {advice}"
            msg += (
                " Spots of one section, of which others are missing, need unique `array_row` and `array_col` instead."
            )
            raise ValueError(msg)


def is_partitioned(spots: Spots) -> bool:
    """Whether spots have subspots, so that they need no lattice; tables joined afterwards have no record of them."""
    return keys.SUBSPOTS in spots.adata.obsm and keys.SUBSPOTS in spots.adata.uns


def _separates(xy: np.ndarray, label: pd.Series) -> bool:
    """Whether spots of every label lie on a single lattice."""
    groups = [xy[label == value] for value in label.unique()]
    return all(lattice_or_none(group, None) is not None and not holds_several(group) for group in groups)


def holds_several(xy: np.ndarray) -> bool:
    """Whether spots lie on several lattices, one over the other, as those of several sections in one table do.

    Then many spots are nearer to another than any step that all sections share. Spots of a single lattice are not, and
    those that lie irregularly, such as cells, share no steps.
    """
    step, start = shared_steps(xy, LOW_SUPPORT, _N_NEIGHBORS)
    if len(xy) < _FEWEST or not len(step):
        return False
    length, number = np.linalg.norm(step, axis=1), np.array([len(rows) for rows in start])
    if _leads_across(xy, step, length, start):
        return True
    common = number >= _COMMON * number.max()
    places = pd.DataFrame(xy).drop_duplicates().to_numpy()
    near = cKDTree(places).query(places[spread(len(places), _N_MEASURED)], k=2)[0][:, 1] / length[common].min()
    well_shared = number.max() >= _WELL_SHARED * n_sampled(xy)
    return bool((near < (_NEAR if well_shared else _VERY_NEAR)).mean() >= _NEAR_SHARE)


def _leads_across(xy: np.ndarray, step: np.ndarray, length: np.ndarray, start: list[np.ndarray]) -> bool:
    """Whether the shortest step is far shorter than those in other directions, and no spot has it on both sides."""
    first = int(length.argmin())
    back = int(np.linalg.norm(step + step[first], axis=1).argmin())
    if min(len(start[first]), len(start[back])) < _SHIFTED * n_sampled(xy):
        return False
    across = np.abs(step[:, 0] * step[first, 1] - step[:, 1] * step[first, 0]) > 0.3 * length * length[first]
    if (length[across] * _NEAR < length[first]).any() or np.linalg.norm(step[back] + step[first]) > 0.3 * length[first]:
        return False
    return len(np.intersect1d(start[first], start[back])) <= _BOTH * len(np.union1d(start[first], start[back]))


def _what_to_do(spots: Spots, section: str) -> str:
    """What to do about a section without a lattice, as a sentence."""
    if spots.library_key is not None:
        column = f"adata.obs[{spots.library_key!r}]"
        return f" They are section {section!r}; without it: `adata[{column} != {section!r}].copy()`."
    columns = separating_columns(spots.adata.obs, lambda label: True)
    return f" Several sections need the column of `adata.obs` that separates them as `library_key`{_out_of(columns)}."


def _out_of(columns: list[str]) -> str:
    return f", which may be one of {columns}" if columns else ""
