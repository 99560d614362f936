"""Readers of user input: each checks what it reads and returns it in the form that the package works on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy.sparse import csr_matrix, issparse

from soscope_scverse import _hints as hints
from soscope_scverse import _keys as keys
from soscope_scverse._array_indices import check_no_indices
from soscope_scverse._arrays import Matrix, in_memory, layers_of, stored, undirected
from soscope_scverse._columns import marks, named_axes, xy_columns
from soscope_scverse._containers.mudata import spots_of
from soscope_scverse._one_section import check_one_section
from soscope_scverse._validators import check_text

logger = logging.getLogger(__name__)

SINGLE_SECTION = "section"
"""Section of all spots where no `library_key` is given."""


@dataclass(frozen=True, eq=False)
class Spots:
    """Spots as the package works on them: made once, by :func:`read_spots`, and not checked again."""

    adata: AnnData
    """The slots of the spots; profiles are read separately."""
    positions: np.ndarray
    """n_spots x 2 (x, y) in full-resolution pixels."""
    sections: np.ndarray
    """n_spots labels; one and the same without `library_key`."""
    library_key: str | None
    array: np.ndarray | None
    """n_spots x 2 integer (``array_col``, ``array_row``), None without them."""
    libraries: Mapping[str, Mapping[str, Any]]
    """``uns["spatial"]``: images and scale factors by section."""

    @property
    def n(self) -> int:
        """Number of spots."""
        return len(self.positions)

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Row numbers of the spots of every section."""
        return {str(name): np.flatnonzero(self.sections == name) for name in np.unique(self.sections)}

    def where(self, section: str) -> str:
        """Return the spots of a section in a message."""
        if self.library_key is None:
            return "without `library_key`"
        return f"where `adata.obs[{self.library_key!r}]` is {section!r}"

    def library(self, library_id: str | None) -> Mapping[str, Any]:
        """Images and scale factors of a section; None is the only one."""
        return _entry(self.libraries, library_id)

    def lattice_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions and array indices of some spots."""
        return self.positions[rows], None if self.array is None else self.array[rows]


def read_spots(adata: object, library_key: str | None = None) -> Spots:
    """Read positions and sections of an AnnData.

    Raises
    ------
    TypeError
        If it is no AnnData, or positions or ``uns["spatial"]`` are of a wrong type.
    ValueError
        If names are not unique, positions or sections are missing or incomplete, or positions are array
        indices.
    """
    adata = read_anndata(adata)
    xy, array = positions(adata), array_index(adata)
    spots = Spots(adata, xy, sections(adata, library_key), library_key, array, libraries(adata))
    check_no_indices(xy, array)
    return spots


def read_sections(adata: object, library_key: str | None = None) -> Spots:
    """Read spots as :func:`read_spots` does, for steps that join the spots of a section.

    Raises
    ------
    TypeError, ValueError
        As :func:`read_spots`, or if several sections are in one.
    """
    spots = read_spots(adata, library_key)
    for name, rows in spots.rows.items():
        check_one_section(spots.adata, spots.positions, spots.array, rows, spots.where(name))
    return spots


def read_model_spots(
    adata: object,
    *,
    features_key: str | None,
    library_key: str | None,
    batch_key: str | None,
    graph_key: str,
    size_factor_key: str | None,
) -> AnnData:
    """Return spots that have every slot that a model needs: positions, sections, batches, subspots, graph, features."""
    spots = read_sections(adata, library_key)
    if features_key is not None:
        check_text("features_key", features_key)
    model_slots(spots.adata, features_key)
    graph(spots, graph_key)
    if batch_key is not None:
        labels(spots.adata, "batch_key", batch_key, "batch")
    if size_factor_key is not None:
        size_factors(spots.adata, size_factor_key)
    return spots.adata


def numbers(what: str, values: Any) -> np.ndarray:
    """Return `values` as a floating-point array unless they are no real numbers or some are masked."""
    with suppress(TypeError, ValueError):
        array = np.asarray(values)
        if array.dtype.kind in "biufO" and not (issparse(values) or np.ma.is_masked(values)):
            return array if array.dtype.kind == "f" else array.astype(float)
    found = f"{type(values).__name__} of {getattr(values, 'dtype', 'mixed types')}"
    msg = f"Expected {what} to be an array of real numbers without a mask, found {found}. Convert it to float first."
    raise TypeError(msg)


def numbers_or_sparse(what: str, values: Any) -> Any:
    """Return a sparse matrix unchanged, and anything else as :func:`numbers` does."""
    return values if issparse(values) else numbers(what, values)


def read_data(data: object) -> AnnData | MuData:
    """Return `data` if it is a MuData, or an AnnData with unique names."""
    if isinstance(data, MuData):
        return data
    if not isinstance(data, AnnData):
        msg = f"Expected an AnnData or a MuData, found {type(data).__name__}.{hints.to_anndata(data)}"
        raise TypeError(msg)
    return read_anndata(data)


def read_anndata(adata: object) -> AnnData:
    """Return `adata` if it is an AnnData with unique names of observations and variables."""
    if not isinstance(adata, AnnData):
        msg = f"Expected an AnnData, found {type(adata).__name__}.{hints.to_anndata(adata)}"
        raise TypeError(msg)
    if not isinstance(adata.obs, pd.DataFrame):
        msg = (
            "Expected an AnnData with its slots in memory, found one of `anndata.experimental.read_lazy`. Call "
            "`adata.to_memory()`."
        )
        raise TypeError(msg)
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            repeated = names[names.duplicated()].unique()
            msg = (
                f"Expected unique `adata.{axis}_names`, found {len(repeated)} that occur more than once "
                f"(first: {repeated[0]!r}). Call `adata.{axis}_names_make_unique()`."
            )
            raise ValueError(msg)
    return adata


def read_mudata(
    mdata: object, modalities: Mapping[str, str], layer: Mapping[str, str | None] | None, named: Iterable[str] = ()
) -> MuData:
    """Return `mdata` if it is a MuData with these modalities, layers and others `named`, all of the same spots."""
    if not isinstance(mdata, MuData):
        msg = f"Expected a MuData, found {type(mdata).__name__}."
        raise TypeError(msg)
    if not isinstance(modalities, Mapping) or not modalities:
        msg = f"Expected the likelihood of each modality, as {{'rna': 'nb', 'prot': 'poisson'}}, found {modalities!r}."
        raise ValueError(msg)
    unknown = [name for name in [*modalities, *(layer or {}), *named] if name not in mdata.mod]
    if unknown:
        msg = f"Expected modalities out of {list(mdata.mod)}, found {unknown}."
        raise ValueError(msg)
    for name in modalities:
        profiles(read_anndata(mdata.mod[name]), (layer or {}).get(name))
        missing = mdata.obs_names.difference(mdata.mod[name].obs_names)
        if len(missing):
            msg = (
                f"Expected the same spots in all modalities, found {len(missing)} of {mdata.n_obs} spots missing in "
                f"{name!r} (first: {missing[0]!r}). Keep the spots that all have, e.g. `muon.pp.intersect_obs(mdata)`."
            )
            raise ValueError(msg)
    return mdata


def by_modality(name: str, value: Any) -> Mapping[str, Any]:
    """Return an argument that is given for each modality of a MuData, {} for None."""
    if value is not None and not isinstance(value, Mapping):
        msg = f"Expected `{name}` of a MuData to be a dict by modality, found {value!r}."
        raise ValueError(msg)
    return value or {}


def positions(adata: AnnData) -> np.ndarray:
    """Return ``obsm["spatial"]`` as n_obs x 2 float64; of a DataFrame the columns that are named for x and y.

    Raises
    ------
    TypeError, ValueError
        If the slot is missing, is not n_obs x 2, has columns of other names, or holds NaN or infinite values.
    """
    what = f"`adata.obsm['{keys.SPATIAL}']`"
    if keys.SPATIAL not in adata.obsm:
        msg = (
            f"Expected spot coordinates in {what}, found only {sorted(adata.obsm)}. "
            f"Store the (x, y) positions in full-resolution pixels there.{_positions_elsewhere(adata)}"
        )
        raise ValueError(msg)
    given = adata.obsm[keys.SPATIAL]
    if isinstance(given, pd.DataFrame):
        given = given[xy_columns(given, what)]
    xy = numbers(what, given).astype(float, copy=False)
    if xy.ndim != 2 or xy.shape[1] != 2:
        flat = xy.ndim == 2 and xy.shape[1] > 2
        advice = f" If the first two are x and y: `adata.obsm['{keys.SPATIAL}'] = {what[1:-1]}[:, :2]`." if flat else ""
        msg = f"Expected {what} to be n_obs x 2 (x, y), found shape {xy.shape}.{advice}"
        raise ValueError(msg)
    bad = ~np.isfinite(xy).all(axis=1)
    if bad.any():
        msg = (
            f"Expected finite coordinates in `adata.obsm['{keys.SPATIAL}']`, found NaN or infinite values for "
            f"{bad.sum()} of {len(bad)} observations (first: {adata.obs_names[bad][0]!r}). "
            "Drop these observations or fill in their positions."
        )
        raise ValueError(msg)
    return xy


def _positions_elsewhere(adata: AnnData) -> str:
    """Where else positions may be, as a sentence."""
    pairs = [[axes.x, axes.y] for axes in named_axes(adata.obs) if "array" not in axes.stem and axes.z is None]
    if pairs:
        return f" `adata.obs` has {pairs[0]}: `adata.obsm['{keys.SPATIAL}'] = adata.obs[{pairs[0]}].to_numpy()`."
    named = [key for key in adata.obsm if keys.SPATIAL in str(key).lower() and np.shape(adata.obsm[key])[1:] == (2,)]
    return f" `adata.obsm[{named[0]!r}]` may hold them." if named else ""


def xy(given: np.ndarray | pd.DataFrame | AnnData) -> np.ndarray:
    """Return `positions`, an array, columns ``x`` and ``y`` or ``obsm["spatial"]``, as n_positions x 2."""
    if isinstance(given, AnnData):
        return positions(read_anndata(given))
    if isinstance(given, pd.DataFrame):
        given = given[xy_columns(given, "`positions`")]
    found = numbers("`positions`", given).astype(float, copy=False)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not np.isfinite(found).all():
        msg = (
            "Expected finite `positions` (x, y): n_positions x 2, a DataFrame with columns 'x' and 'y', or an AnnData "
            f"with `obsm['{keys.SPATIAL}']`; found shape {found.shape}, {(~np.isfinite(found)).sum()} not finite."
        )
        raise ValueError(msg)
    return found


def sections(adata: AnnData, library_key: str | None) -> np.ndarray:
    """Return the section of every observation; one and the same without `library_key`."""
    if library_key is None:
        return np.full(adata.n_obs, SINGLE_SECTION)
    return labels(adata, "library_key", library_key, "section")


def rows_of_section(
    adata: AnnData, library_key: str | None, library_id: str | None, *, of: str = "adata.obs"
) -> np.ndarray:
    """Return the numbers of the observations of one section.

    Parameters
    ----------
    adata
        Spots or subspots.
    library_key
        Column of ``obs`` with the sections.
    library_id
        The section; may be None where there is only one.
    of
        Where the sections are, for the message.

    Raises
    ------
    ValueError
        If there is no such section, or several and none was chosen.
    """
    of_row = sections(adata, library_key)
    there = np.unique(of_row).tolist()
    if library_id is None and len(there) == 1:
        library_id = there[0]
    if library_id not in there:
        where = of if library_key is None else f"{of}[{library_key!r}]"
        msg = f"Expected `library_id` to be one of the sections {there} in `{where}`, found {library_id!r}."
        raise ValueError(msg)
    return np.flatnonzero(of_row == library_id)


def labels(adata: AnnData, name: str, key: str, what: str) -> np.ndarray:
    """Return a column of ``obs`` with the section or batch of every observation, as strings."""
    if not isinstance(key, str) or key not in adata.obs:
        msg = f"Expected `{name}` to be a column of `adata.obs`, found {key!r}; there are {list(adata.obs)}."
        raise ValueError(msg)
    column = adata.obs[key]
    if column.isna().any():
        msg = (
            f"Expected a {what} for every spot in `adata.obs[{key!r}]`, found {column.isna().sum()} NaN. "
            "Fill them in, or drop these spots."
        )
        raise ValueError(msg)
    return column.astype(str).to_numpy()


def subspots(adata: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the subspots, n_spots x n_subspots x 2, and which of them are no padding."""
    if keys.SUBSPOTS not in adata.obsm:
        msg = (
            f"Expected subspots in `adata.obsm['{keys.SUBSPOTS}']`, found only {sorted(adata.obsm)}. "
            "Run `soscope_scverse.pp.subspots` first."
        )
        raise ValueError(msg)
    found = numbers(f"`adata.obsm['{keys.SUBSPOTS}']`", adata.obsm[keys.SUBSPOTS])
    if found.ndim != 3 or found.shape[2] != 2:
        msg = f"Expected `adata.obsm['{keys.SUBSPOTS}']` to be n_spots x n_subspots x 2, found shape {found.shape}."
        raise ValueError(msg)
    padding = np.isnan(found).all(axis=2)
    broken = ~(padding | np.isfinite(found).all(axis=2))
    if broken.any() or padding.all():
        msg = (
            f"Expected finite (x, y) positions or NaN for both in `adata.obsm['{keys.SUBSPOTS}']`, found "
            f"{broken.sum()} of {broken.size} neither, {padding.sum()} padded. Run `soscope_scverse.pp.subspots` again."
        )
        raise ValueError(msg)
    return found, ~padding


def exposures(adata: AnnData) -> np.ndarray:
    """Return the exposures, n_spots x n_subspots, once they fit the positions of the subspots and relative sizes."""
    for key in (keys.SUBSPOTS, keys.EXPOSURE):
        if key not in adata.obsm:
            msg = f"Expected `adata.obsm[{key!r}]`, found only {sorted(adata.obsm)}. Call `pp.subspots(adata)` first."
            raise ValueError(msg)
    record(adata, keys.SUBSPOTS)
    where = numbers(f"`adata.obsm['{keys.SUBSPOTS}']`", adata.obsm[keys.SUBSPOTS])
    exposure = numbers(f"`adata.obsm['{keys.EXPOSURE}']`", adata.obsm[keys.EXPOSURE])
    shape = where.shape
    if len(shape) != 3 or shape[2] != 2 or exposure.shape != shape[:2]:
        msg = (
            f"Expected `adata.obsm['{keys.SUBSPOTS}']` to be n_spots x n_subspots x 2 and "
            f"`adata.obsm['{keys.EXPOSURE}']` n_spots x n_subspots, found {shape} and {exposure.shape}."
        )
        raise ValueError(msg)
    if not (exposure >= 0).all() or not np.allclose(exposure.sum(axis=1), 1, atol=1e-5):
        wrong = ~((exposure >= 0).all(axis=1) & np.isclose(exposure.sum(axis=1), 1, atol=1e-5))
        msg = (
            f"Expected `adata.obsm['{keys.EXPOSURE}']` to be non-negative with rows that sum to 1, found {wrong.sum()} "
            f"of {len(wrong)} that are not (first: {adata.obs_names[wrong][0]!r}). If sections with different numbers "
            f"of subspots were joined, `anndata.concat` cut or padded them: delete `adata.obsm['{keys.SUBSPOTS}']` "
            "and call `pp.subspots` after joining, with `library_key`."
        )
        raise ValueError(msg)
    lost = (exposure > 0) & ~np.isfinite(where).all(axis=2)
    if lost.any():
        msg = (
            f"Expected finite positions in `adata.obsm['{keys.SUBSPOTS}']` where `adata.obsm['{keys.EXPOSURE}']` is "
            f"above 0, found {lost.sum()} that are not. Call `pp.subspots(adata)` again."
        )
        raise ValueError(msg)
    if keys.RELATIVE_CELL_NUMBER in adata.obs:
        size = numbers(f"`adata.obs['{keys.RELATIVE_CELL_NUMBER}']`", adata.obs[keys.RELATIVE_CELL_NUMBER])
        if not ((size > 0) & (size < np.inf)).all():
            msg = (
                f"Expected `adata.obs['{keys.RELATIVE_CELL_NUMBER}']` to be above 0 for every spot. "
                "Drop this column if unknown."
            )
            raise ValueError(msg)
    return exposure


def areas(adata: AnnData, exposure: np.ndarray) -> np.ndarray:
    """Return the areas of the subspots relative to what their spot captured, n_spots x n_subspots, 0 = padding.

    A part of the spot's exposure was captured of every subspot: areas are the exposures where spots tile the tissue.
    Where only the measured shares are known, subspots in a gap are as large as the mean subspot of their spot.

    Parameters
    ----------
    adata
        Spots.
    exposure
        What :func:`exposures` returned for them.

    Raises
    ------
    TypeError, ValueError
        If measured shares or areas do not fit the exposures.
    """
    if keys.MEASURED not in adata.obsm:
        if adata.uns.get(keys.SUBSPOTS, {}).get("capture") is not None:
            msg = (
                f"Expected `adata.obsm['{keys.MEASURED}']` beside subspots with a capture area, found only "
                f"{sorted(adata.obsm)}. Call `pp.subspots(adata)` again."
            )
            raise ValueError(msg)
        return exposure
    there = np.isfinite(np.asarray(adata.obsm[keys.SUBSPOTS], dtype=float)[..., 0])
    measured = np.where(there, _like(adata, keys.MEASURED, exposure), 0)
    if ((exposure > 0) & (measured == 0)).any() or (measured > 1 + 1e-6).any():
        msg = (
            f"Expected `adata.obsm['{keys.MEASURED}']` to be at most 1, and above 0 where "
            f"`adata.obsm['{keys.EXPOSURE}']` is. Call `pp.subspots(adata)` again."
        )
        raise ValueError(msg)
    if (measured[there] == 1).all():
        return exposure
    captured = measured > 0
    if keys.AREA in adata.obsm:
        return np.where(there, _like(adata, keys.AREA, exposure), 0)
    area = np.divide(exposure, measured, out=np.zeros_like(exposure, dtype=float), where=captured)
    mean = area.sum(axis=1, keepdims=True) / captured.sum(axis=1, keepdims=True)
    return np.where(there & ~captured, mean, area)


def _like(adata: AnnData, key: str, exposure: np.ndarray) -> np.ndarray:
    """Return a slot of the shape of the exposures whose values are not negative where there are subspots."""
    values = numbers(f"`adata.obsm[{key!r}]`", adata.obsm[key])
    there = np.isfinite(np.asarray(adata.obsm[keys.SUBSPOTS], dtype=float)[..., 0])
    if values.shape != exposure.shape or not (values[there] >= 0).all() or np.isinf(values[there]).any():
        msg = (
            f"Expected `adata.obsm[{key!r}]` to be finite, non-negative and n_spots x n_subspots = {exposure.shape}, "
            f"found shape {values.shape} and {(~(values >= 0)).sum()} values that are negative or NaN. Call "
            "`pp.subspots(adata)` again."
        )
        raise ValueError(msg)
    return values


def model_slots(adata: AnnData, features_key: str | None) -> np.ndarray:
    """Return the exposures of spots whose subspots and image features are there and fit each other."""
    exposure = exposures(adata)
    areas(adata, exposure)
    if features_key is not None and features_key in adata.obsm:
        record(adata, features_key)
        shape = exposure.shape
        features = numbers(f"`adata.obsm[{features_key!r}]`", adata.obsm[features_key])
        if features.ndim != 3 or features.shape[:2] != shape or not features.size or not np.isfinite(features).all():
            msg = (
                f"Expected `adata.obsm[{features_key!r}]` to be finite and n_spots x n_subspots x n_image_features "
                f"with {shape[0]} x {shape[1]} subspots, found shape {features.shape}. "
                "Call `im.features(adata, image)` again."
            )
            raise ValueError(msg)
    return exposure


def graph(spots: Spots, graph_key: str) -> csr_matrix:
    """Return a graph of the spots without edges of weight 0, loops and directions: n_spots x n_spots weights.

    An edge has the larger of the weights of its two directions. A graph in this form is returned as it is.

    Parameters
    ----------
    spots
        The spots.
    graph_key
        Slot of ``obsp``.

    Raises
    ------
    TypeError, ValueError
        If there is no such slot, it is not n_spots x n_spots, holds other weights than 0 to 1, or has edges between
        sections.
    """
    check_text("graph_key", graph_key)
    adata, slot = spots.adata, f"`adata.obsp[{graph_key!r}]`"
    if graph_key not in adata.obsp:
        to_do = (
            "Call `pp.spot_graph(adata)`."
            if graph_key == keys.SPOT_GRAPH
            else f"Call `pp.spot_graph(adata, key_added={graph_key!r})`, or a function of `squidpy.gr`."
        )
        msg = f"Expected a graph of the spots in {slot}, found {sorted(adata.obsp)}. {to_do}"
        raise ValueError(msg)
    given = adata.obsp[graph_key]
    weights = numbers(slot, stored(given))
    if np.shape(given) != (spots.n, spots.n):
        msg = f"Expected {slot} to be n_spots x n_spots, {spots.n} x {spots.n}, found shape {np.shape(given)}."
        raise ValueError(msg)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        msg = (
            f"Expected finite weights of at least 0 in {slot}, found {wrong.sum()} negative, infinite or NaN. "
            "Make the graph again."
        )
        raise ValueError(msg)
    if weights.max(initial=0) > 1 + _ROUNDING:
        msg = (
            f"Expected weights of at most 1 in {slot}, found up to {weights.max():.4g}. Distances are no weights: use "
            "the connectivities beside them. Divide other weights by their maximum."
        )
        raise ValueError(msg)
    found = undirected(given)
    _check_within_sections(spots, found, slot)
    return found


_ROUNDING = 1e-6
"""Weights of single precision may exceed 1 by this much."""


def _check_within_sections(spots: Spots, found: csr_matrix, slot: str) -> None:
    """Raise a ValueError if edges of a graph join spots of two sections."""
    i, j = found.nonzero()
    apart = np.flatnonzero(spots.sections[i] != spots.sections[j])
    if len(apart):
        first = [(spots.adata.obs_names[row], str(spots.sections[row])) for row in (i[apart[0]], j[apart[0]])]
        msg = (
            f"Expected no edge between sections of `adata.obs[{spots.library_key!r}]` in {slot}, found "
            f"{len(apart) // 2} of {found.nnz // 2} (first: {first[0][0]!r} of {first[0][1]!r} and {first[1][0]!r} of "
            f"{first[1][1]!r}). Make the graph of each section by itself, with `library_key={spots.library_key!r}`."
        )
        raise ValueError(msg)


def size_factors(adata: AnnData, size_factor_key: str) -> np.ndarray:
    """Return a column of ``obs`` with the library size, or another relative size, of every spot; all are above 0."""
    if not isinstance(size_factor_key, str) or size_factor_key not in adata.obs:
        msg = (
            f"Expected `size_factor_key` to be a column of `adata.obs`, found {size_factor_key!r}; there are "
            f"{list(adata.obs)}. Library sizes are `adata.obs['size'] = adata.X.sum(axis=1)`."
        )
        raise ValueError(msg)
    factors = numbers(f"`adata.obs[{size_factor_key!r}]`", adata.obs[size_factor_key].to_numpy())
    wrong = ~((factors > 0) & (factors < np.inf))
    if wrong.any():
        msg = (
            f"Expected finite values above 0 in `adata.obs[{size_factor_key!r}]`, the size factors of the spots, found "
            f"{wrong.sum()} of {len(wrong)} that are not (first: {adata.obs_names[wrong][0]!r}). Drop these spots or "
            "correct the column."
        )
        raise ValueError(msg)
    return factors


def record(adata: AnnData | MuData, key: str) -> Mapping[str, Any]:
    """Return what a step or a run recorded in ``uns[key]``, {} if it is not there."""
    found = adata.uns.get(key, {})
    if not isinstance(found, Mapping):
        msg = f"Expected `adata.uns[{key!r}]` to be a dict, found {type(found).__name__}. Delete it or make it again."
        raise TypeError(msg)
    return found


def validation(adata: AnnData, key: str) -> pd.DataFrame:
    """Return the scores of :func:`~soscope_scverse.tl.validate`, one row for each gene that has any.

    Raises
    ------
    ValueError
        If there are none.
    """
    first = f"{key}_"
    named = {name: name.removeprefix(first) for name in map(str, adata.var) if name.startswith(first)}
    missing = [name for name in ("within_r", "linear_within_r", "p_adjusted", "believed") if first + name not in named]
    if missing:
        there = f"no {[first + name for name in missing]}"
        msg = f"Expected scores of `tl.validate` in `adata.var`, found {there}. Call `tl.validate(adata, image)` first."
        raise ValueError(msg)
    scores = adata.var[list(named)].rename(columns=named)
    return scores[scores["p_adjusted"].notna()]


def array_index(adata: AnnData) -> np.ndarray | None:
    """Return integer (``array_col``, ``array_row``) as n_obs x 2, or None if a column is missing or not integer."""
    if "array_col" not in adata.obs or "array_row" not in adata.obs:
        return None
    values = adata.obs[["array_col", "array_row"]].to_numpy()
    try:
        values = values.astype(float)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        return None
    return values.astype(int)


def libraries(adata: AnnData | MuData) -> dict[str, Any]:
    """Return ``uns["spatial"]``, images and scale factors by section; empty if it is not there.

    Flags beside the sections, such as ``is_single`` of CELLxGENE, are ignored; beside entries with images or scale
    factors, so is everything else. A section whose name has a "/" is found under its name where a file has nested it.
    """
    found = adata.uns.get(keys.SPATIAL, {})
    entries = dict(found) if isinstance(found, Mapping) else {}
    is_section = _holds_section if any(map(_holds_section, entries.values())) else _may_be_section
    entries = {name: entry for name, entry in entries.items() if is_section(entry)}
    entries = {name: part for first, entry in entries.items() for name, part in _sections_in(first, entry)}
    parts = [
        entry.get(name, {}) for entry in entries.values() if isinstance(entry, Mapping) for name in PARTS_OF_SECTION
    ]
    wrong = [thing for thing in [found, *entries.values(), *parts] if not isinstance(thing, Mapping)]
    if wrong:
        msg = (
            f"Expected `adata.uns['{keys.SPATIAL}']` to be a dict of sections, each a dict with the dicts 'images' and "
            f"'scalefactors', found {type(wrong[0]).__name__} instead of one of these. Correct or delete it."
        )
        raise TypeError(msg)
    return entries


PARTS_OF_SECTION = ("images", "scalefactors")
"""What a section in ``uns["spatial"]`` consists of."""


def _may_be_section(entry: Any) -> bool:
    """Whether an entry of ``uns["spatial"]`` is meant as a section: it is no boolean, number or text."""
    if isinstance(entry, np.ndarray):
        return entry.ndim > 0
    return not isinstance(entry, bool | np.bool_ | Number | str | NoneType)


def _sections_in(name: str, entry: Any) -> Iterator[tuple[str, Any]]:
    """Sections of an entry of ``uns["spatial"]``, by their names: files nest what has a "/" in its name."""
    inner = {}
    if isinstance(entry, Mapping):
        inner = {part: value for part, value in entry.items() if part not in PARTS_OF_SECTION and _holds_section(value)}
    if not inner or any(part in entry for part in PARTS_OF_SECTION):
        yield name, {part: value for part, value in entry.items() if part not in inner} if inner else entry
    for part, value in inner.items():
        yield from _sections_in(f"{name}/{part}", value)


def _holds_section(value: Any) -> bool:
    """Whether a value has images or scale factors, or nests a section that has them."""
    if not isinstance(value, Mapping):
        return False
    return any(part in value for part in PARTS_OF_SECTION) or any(_holds_section(one) for one in value.values())


def library_entry(adata: AnnData, library_id: str | None = None) -> Mapping[str, Any]:
    """Return ``uns["spatial"][library_id]``; without `library_id` that of the only section, {} if there is none."""
    return _entry(libraries(adata), library_id)


def _entry(found: Mapping[str, Mapping[str, Any]], library_id: str | None) -> Mapping[str, Any]:
    if library_id is None and len(found) == 1:
        (library_id,) = found
    return {} if library_id is None else found.get(library_id, {})


def profiles(adata: AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer as the AnnData holds it, perhaps on disk."""
    read_anndata(adata)
    if layer is not None and (not isinstance(layer, str) or layer not in adata.layers):
        there = sorted(layers_of(adata))
        other = hints.similar(str(layer), there) if there else " `adata.layers` is empty; omit `layer` for `adata.X`."
        msg = f"Expected `layer` to be one of {there}, found {layer!r}.{other}"
        raise ValueError(msg)
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        msg = "Expected profiles in `adata.X`, found None. Name the layer that holds them with `layer=`."
        raise ValueError(msg)
    if x.shape[0] == 0 or x.shape[1] == 0:
        msg = f"Expected at least one observation and one feature, found a {x.shape[0]} x {x.shape[1]} matrix."
        raise ValueError(msg)
    if np.dtype(x.dtype).kind not in "biuf" or np.ma.is_masked(x):
        masked = f" with {np.ma.count_masked(x)} masked" if np.ma.is_masked(x) else ""
        msg = f"Expected profiles of real numbers, found {x.dtype}{masked}. Convert them to float, fill in masked ones."
        raise TypeError(msg)
    return x


def matrix(adata: AnnData, layer: str | None) -> Matrix:
    """Return the profiles, ``X`` or a layer, as a dense array or CSR matrix."""
    return in_memory(profiles(adata, layer))


def genes(adata: AnnData, names: Sequence[str], *, of: str = "adata") -> list[str]:
    """Return `names` as a list if each is a feature of the argument `of`, named once."""
    read_anndata(adata)
    names = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [names]
    if not all(isinstance(name, str) for name in names):
        wrong = next(name for name in names if not isinstance(name, str))
        msg = (
            f"Expected `genes` to be names out of `{of}.var_names`, found {wrong!r}, {type(wrong).__name__}. Of a mask "
            f"or of row numbers pass the names: `{of}.var_names[...]`."
        )
        raise TypeError(msg)
    if not names:
        msg = "Expected at least one gene in `genes`, found none."
        raise ValueError(msg)
    missing = [name for name in names if name not in adata.var_names]
    if missing:
        msg = (
            f"Expected `genes` to be in `{of}.var_names` ({adata.n_vars} names), {len(missing)} of {len(names)} are "
            f"not: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
            f"{hints.gene_names(adata, missing, of)}"
        )
        raise ValueError(msg)
    if len(set(names)) < len(names):
        msg = f"Expected every gene once in `genes`, found {len(names) - len(set(names))} repeated."
        raise ValueError(msg)
    return names


def highly_variable(adata: AnnData) -> list[str]:
    """Return the features that ``var["highly_variable"]`` marks, as booleans, 0 and 1 or words; missing marks none."""
    column = adata.var["highly_variable"]
    marked = marks(column)
    if marked is None:
        found = f"{column.dtype}, as {column.dropna().iloc[0]!r}"
        msg = f"Expected `adata.var['highly_variable']` to be booleans, found {found}. Name `genes=` instead."
        raise TypeError(msg)
    chosen = adata.var_names[marked == 1].tolist()
    if not chosen:
        msg = "Expected genes marked in `adata.var['highly_variable']`, found none. Name them with `genes=`."
        raise ValueError(msg)
    return chosen


def on_tissue(data: AnnData | MuData, *, keep: bool) -> AnnData | MuData:
    """Return the spots that ``obs["in_tissue"]`` does not mark as off the tissue, or with `keep` all, as they are.

    Spots with a missing value are kept, with a warning.

    Raises
    ------
    TypeError
        If the column has other values than true and false, 1 and 0, or their names.
    ValueError
        If all spots are off the tissue.
    """
    if keep or not isinstance(data, AnnData | MuData):
        return data
    obs = spots_of(data).obs
    if "in_tissue" not in obs:
        return data
    marked = _tissue_marks(obs["in_tissue"])
    off = marked == 0
    if not off.any():
        return data
    if off.all():
        msg = (
            f"Expected spots on the tissue, found `adata.obs['in_tissue']` 0 for all {len(off)} spots. Correct this "
            "column, or use it for none: `keep_off_tissue=True`."
        )
        raise ValueError(msg)
    logger.info("Excluded %d of %d spots with in_tissue == 0 (keep_off_tissue=True keeps them).", off.sum(), len(off))
    return data[~off]


def _tissue_marks(column: pd.Series) -> np.ndarray:
    """Return 1 for spots on the tissue, 0 for those off it, and NaN for missing values, of which it warns."""
    marked = marks(column)
    if marked is None:
        other = [value for value in column.unique() if marks([value]) is None]
        shown = f"{', '.join(map(repr, other[:3]))}{', ...' if len(other) > 3 else ''}"
        msg = (
            f"Expected `adata.obs['in_tissue']` to be booleans or 0 and 1, found {shown} ({column.dtype}). Convert it, "
            f"for example with `adata.obs['in_tissue'] == {other[0]!r}`, or use it for none: `keep_off_tissue=True`."
        )
        raise TypeError(msg)
    if n_missing := int(np.isnan(marked).sum()):
        warnings.warn(
            f"{n_missing} of {len(marked)} spots have no value in `adata.obs['in_tissue']` and count as on the tissue. "
            "Set it to 0 to exclude them, to 1 otherwise.",
            UserWarning,
            stacklevel=2,
        )
    return marked


def feature_types(adata: AnnData) -> np.ndarray:
    """Return the type of every feature, ``var["feature_types"]`` as Space Ranger writes it; without it all are one."""
    if "feature_types" not in adata.var:
        return np.full(adata.n_vars, "")
    return adata.var["feature_types"].astype(str).to_numpy()
