"""Recognition of several sections in one table, by what no single section has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _keys as keys

_SHARE = 0.25
"""Share of the spots that repeat a position or a name in every pair of sections that overlap by more than a corner."""
_INDEX_SHARE = 0.05
"""The same for array indices, of which a section has each once."""
_MOST_SECTIONS = 100
_FEWEST_PAIRS = 6
"""Pairs of spots with one name that a map of one section to another is fitted to: three determine it."""
_MAP_ERROR = 0.1
"""Error of that map relative to the spread of the positions: 0.03 for ten rows of spots 0.1 pitches off their places,
about 1 for names that do not correspond."""
_LINE = 0.05
"""Ratio of the extents below which spots are a line: those of one row or column."""
_SUFFIX = re.compile(r"(?P<stem>.+)[-_.:/| ](?P<tag>[^-_.:/| ]+)")
_PREFIX = re.compile(r"(?P<tag>[^-_.:/| ]+)[-_.:/| ](?P<stem>.+)")


class Evidence(NamedTuple):
    """That some rows are several sections."""

    text: str
    """What was found."""
    identity: pd.Series
    """What every section has at most once, by row."""
    to_make: str = ""
    """How to make a column of the sections."""


def check_one_section(adata: AnnData, xy: np.ndarray, array: np.ndarray | None, rows: np.ndarray, where: str) -> None:
    """Raise a ValueError if some spots are those of several sections, which names the column that separates them.

    Parameters
    ----------
    adata
        All spots, for their names and columns.
    xy
        n_spots x 2 positions.
    array
        n_spots x 2 array indices, or None.
    rows
        Row numbers of the spots that should be one section.
    where
        These spots in the message.
    """
    if {keys.SPOT, keys.SUBSPOT} <= set(adata.obs):  # subspots have names and lattices of their own
        return
    names = pd.Series(adata.obs_names[rows].astype(str))
    found = _of_places(xy[rows], None if array is None else array[rows])
    by_name = next(_of_names(names, xy[rows]), None) if found is not None or array is None else None
    found = found or by_name
    if found is not None:
        columns = separating_columns(adata.obs.iloc[rows], lambda label: not _repeats(found.identity, label).any())
        advice = advice_on_sections(columns, "" if by_name is None else by_name.to_make)
        msg = f"Expected one section {where}, found {found.text}. {advice}"
        raise ValueError(msg)


def advice_on_sections(columns: list[str], to_make: str = "") -> str:
    """Return how to name the sections: by one of these columns or, if there is none, by one to be made."""
    if columns:
        others = f" (or another of {columns})" if len(columns) > 1 else ""
        return f"Name the column of `adata.obs` with the sections: `library_key={columns[0]!r}`{others}."
    to_make = to_make or "label them when joining, `anndata.concat({'a': a, 'b': b}, label='section')`"
    return f"Name a column of `adata.obs` with the sections by `library_key`; to make one: {to_make}."


def separating_columns(obs: pd.DataFrame, separates: Callable[[pd.Series], bool]) -> list[str]:
    """Return columns of labels whose groups are single sections, those with the fewest labels first."""
    found: list[tuple[int, int, str]] = []
    for name in obs:
        column = obs[name]
        if pd.api.types.is_float_dtype(column) or column.isna().any():
            continue
        label = column.astype(str)
        n_labels = label.nunique()
        if 2 <= n_labels <= min(_MOST_SECTIONS, len(obs) / 2) and separates(label):
            found.append((n_labels, len(found), str(name)))
    return [name for *_, name in sorted(found)]


def _of_places(xy: np.ndarray, array: np.ndarray | None) -> Evidence | None:
    """Array indices or positions that occur more than once."""
    for values, least, what in (
        (array, _INDEX_SHARE, "with the array indices of another"),
        (xy, _SHARE, "at the position of another"),
    ):
        if values is None or not _is_plane(values):
            continue
        place = _as_series(values)
        repeated = place.duplicated(keep=False)
        if repeated.mean() >= least and place.nunique() * _MOST_SECTIONS >= len(place):
            return Evidence(f"{repeated.sum()} of {len(xy)} spots {what}", place)
    return None


def _of_names(names: pd.Series, xy: np.ndarray) -> Iterator[Evidence]:
    """Names that are the same but for a suffix or prefix, at positions that correspond."""
    for pattern in (_SUFFIX, _PREFIX):
        stem, tag = _parts(names, pattern)
        repeated = stem.notna() & stem.duplicated(keep=False)
        if repeated.mean() >= _SHARE and 1 < tag[repeated].nunique() <= _MOST_SECTIONS:
            first, second = tag[repeated].value_counts().index[:2]
            a, b = (pd.Series(names.index[tag == label], index=stem[tag == label]) for label in (first, second))
            if _correspond(a, b, xy):
                text = f"{repeated.sum()} of {len(xy)} names that differ by {first!r} and {second!r} alone"
                yield Evidence(text, stem.fillna(names), _to_make(names[repeated].iloc[0], stem[repeated].iloc[0]))
    stem, _ = _parts(names, _SUFFIX)  # of `obs_names_make_unique`, which leaves the first of a name
    again = stem.isin(names)
    a, b = pd.Series(names.index, index=names), pd.Series(names.index[again], index=stem[again])
    if 2 * again.mean() >= _SHARE and not b.index.has_duplicates and _correspond(a, b, xy):
        yield Evidence(f"{again.sum()} of {len(xy)} names that are another with a suffix", stem.where(again, names))


def _parts(names: pd.Series, pattern: re.Pattern[str]) -> tuple[pd.Series, pd.Series]:
    """Stems and tags of names, None for names without."""
    matches = [pattern.fullmatch(name) for name in names]  # several times as fast as `str.extract`
    stem, tag = ([match and match[part] for match in matches] for part in ("stem", "tag"))
    return pd.Series(stem, names.index, dtype=object), pd.Series(tag, names.index, dtype=object)


def _to_make(name: str, stem: str) -> str:
    """How to make a column of what a name has beside its stem."""
    if name.startswith(stem):
        return f"`adata.obs['section'] = adata.obs_names.str.rsplit({name[len(stem)]!r}, n=1).str[1]`"
    return f"`adata.obs['section'] = adata.obs_names.str.split({name[-len(stem) - 1]!r}, n=1).str[0]`"


def _correspond(a: pd.Series, b: pd.Series, xy: np.ndarray) -> bool:
    """Whether rows of one name are at positions that a linear map takes to each other, in two dimensions."""
    if a.index.has_duplicates or b.index.has_duplicates:
        return False
    common = a.index.intersection(b.index)
    if len(common) < _FEWEST_PAIRS:
        return False
    source, target = xy[a[common]], xy[b[common]]
    if not (_is_plane(source) and _is_plane(target)):
        return False
    design = np.column_stack([source, np.ones(len(source))])
    error = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return bool(error.std() <= _MAP_ERROR * target.std(axis=0).max())


def _is_plane(xy: np.ndarray) -> bool:
    """Whether positions or indices extend in two dimensions."""
    size = np.linalg.svd(np.cov(xy.T), compute_uv=False) if len(xy) > 2 else np.zeros(2)
    return bool(size[1] > _LINE**2 * size[0])


def _as_series(values: np.ndarray) -> pd.Series:
    """Rows of two columns as one value each."""
    return pd.DataFrame(values).groupby([0, 1], sort=False).ngroup()


def _repeats(identity: pd.Series, label: pd.Series) -> np.ndarray:
    """Which rows repeat what is there once in a section."""
    return pd.DataFrame({"identity": identity.to_numpy(), "label": label.to_numpy()}).duplicated().to_numpy()
