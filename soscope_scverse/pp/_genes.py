"""Choice of the features to enhance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import hstack, issparse

from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix, columns, is_counts, row_chunks
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._read import Spots, read_sections
from soscope_scverse._validators import POSITIVE_INTEGER, Rules, check_arguments, check_finite
from soscope_scverse.metrics import morans_i
from soscope_scverse.pp._graphs import equal_library_size

if TYPE_CHECKING:
    from spatialdata import SpatialData

N_CANDIDATES = 2500
"""Genes with the highest counts among which Moran's I chooses."""
_RULES: Rules = {"n_genes": POSITIVE_INTEGER, "n_candidates": POSITIVE_INTEGER}


@accepts_containers()
def spatial_genes(
    adata: AnnData | SpatialData,
    n_genes: int = 500,
    *,
    layer: str | None = None,
    n_candidates: int = N_CANDIDATES,
    library_key: str | None = None,
    table_key: str = "table",
    shapes_key: str | None = None,
) -> list[str]:
    """Names of the spatially most variable genes: the highest Moran's I among those with the highest counts.

    Moran's I, over the six nearest neighbours, is computed on log1p of counts at equal library size: on raw counts the
    pattern of the library size itself would choose the genes. Data that are not counts are used unchanged. A
    file-backed matrix is read in chunks. Features of several types (``var["feature_types"]``, such as genes and
    antibodies) have a library size and candidates by type.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``.
    n_genes
        Largest number of genes to return.
    layer
        Layer that holds the profiles; None is ``X``.
    n_candidates
        Number of genes with the highest counts to choose from, of every type of features.
    library_key
        Column of ``obs`` with the sections; Moran's I is averaged over them, weighted by their numbers of spots.
    table_key, shapes_key
        Elements of a SpatialData, see :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    list of str
        Names, highest Moran's I first; ties are broken by the total count. Constant genes come last.

    Raises
    ------
    TypeError, ValueError
        If coordinates are missing or profiles are not finite.

    See Also
    --------
    soscope_scverse.metrics.morans_i
    """
    check_arguments(locals(), _RULES)
    spots = read_sections(adata, library_key)
    warn_feature_types(spots.adata, spots.adata.var_names)
    return rank_genes(spots, read.profiles(adata, layer), n_genes, n_candidates=n_candidates)


def rank_genes(spots: Spots, x: Any, n_genes: int, *, n_candidates: int = N_CANDIDATES) -> list[str]:
    """Names of the spatially most variable genes of profiles `x`, perhaps on disk; see :func:`spatial_genes`."""
    names = spots.adata.var_names
    type_of = np.unique(read.feature_types(spots.adata), return_inverse=True)[1]
    total, sizes, all_counts = np.zeros(len(names)), [], True
    for chunk in row_chunks(x):
        check_finite(chunk)
        total += np.asarray(abs(chunk).sum(axis=0)).ravel()
        sizes.append(_library_sizes(chunk, type_of))
        all_counts = all_counts and is_counts(chunk)
    order = np.argsort(-total, kind="stable")
    candidates = order[_rank_in_type(type_of[order]) < n_candidates]
    groups = [rows for rows in spots.rows.values() if len(rows) >= 3]
    if not groups:
        return names[candidates[:n_genes]].tolist()
    profiles = columns(x, candidates)
    if all_counts:
        profiles = _equal_library_sizes(profiles, np.concatenate(sizes), type_of[candidates])
    scores = np.stack(
        [morans_i(profiles[rows], spots.positions[rows], n_neighbors=min(6, len(rows) - 1)) for rows in groups]
    )
    constant = np.isnan(scores).all(axis=0)
    scores = np.where(constant, -np.inf, np.average(np.nan_to_num(scores), axis=0, weights=[*map(len, groups)]))
    return names[candidates[np.argsort(-scores, kind="stable")[:n_genes]]].tolist()


def warn_feature_types(adata: AnnData, names: Sequence[str]) -> None:
    """Warn if features of several types, such as genes and antibodies, are modelled as one."""
    of_names = read.feature_types(adata)[adata.var_names.get_indexer(names)]
    types, number = np.unique(of_names, return_counts=True)
    if len(types) > 1:
        found = ", ".join(f"{n} {str(name)!r}" for name, n in zip(types, number, strict=True))
        warnings.warn(
            f"Found several types in `adata.var['feature_types']`: {found}. Their library sizes differ: "
            f"keep one type, `adata[:, adata.var['feature_types'] == {str(types[number.argmax()])!r}]`, or pass a "
            "`mudata.MuData` with a modality for each type.",
            UserWarning,
            stacklevel=3,
        )


def _library_sizes(x: Matrix, type_of: np.ndarray) -> np.ndarray:
    """Total of every row over the features of each type, n_rows x n_types."""
    n_types = int(type_of.max(initial=0)) + 1
    if n_types == 1:
        return np.asarray(x.sum(axis=1)).reshape(-1, 1)
    return np.column_stack([np.asarray(x[:, type_of == i].sum(axis=1)).ravel() for i in range(n_types)])


def _rank_in_type(types: np.ndarray) -> np.ndarray:
    """How many features of the same type come before each."""
    return pd.Series(types).groupby(types).cumcount().to_numpy()


def _equal_library_sizes(x: Matrix, sizes: np.ndarray, type_of: np.ndarray) -> Matrix:
    """log1p of counts at equal library size, that of the type of each feature."""
    if sizes.shape[1] == 1:
        return equal_library_size(x, sizes[:, 0])
    parts, places = [], []
    for i, size in enumerate(sizes.T):
        columns_of_type = np.flatnonzero(type_of == i)
        if len(columns_of_type):
            parts.append(equal_library_size(x[:, columns_of_type], size))
            places.append(columns_of_type)
    joined = hstack(parts, format="csr") if issparse(parts[0]) else np.hstack(parts)
    return joined[:, np.argsort(np.concatenate(places))]
