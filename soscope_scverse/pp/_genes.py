"""Choice of the features to enhance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from soscope_scverse import _read as read
from soscope_scverse._arrays import columns, is_counts, row_chunks
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse._read import Spots, read_spots
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
    file-backed matrix is read in chunks.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``.
    n_genes
        Largest number of genes to return.
    layer
        Layer that holds the profiles; None is ``X``.
    n_candidates
        Number of genes with the highest counts to choose from.
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
    spots = read_spots(adata, library_key)
    return rank_genes(spots, read.profiles(adata, layer), n_genes, n_candidates=n_candidates)


def rank_genes(spots: Spots, x: Any, n_genes: int, *, n_candidates: int = N_CANDIDATES) -> list[str]:
    """Names of the spatially most variable genes of profiles `x`, perhaps on disk; see :func:`spatial_genes`."""
    names = spots.adata.var_names
    total, library_size, all_counts = np.zeros(len(names)), [], True
    for chunk in row_chunks(x):
        check_finite(chunk)
        total += np.asarray(abs(chunk).sum(axis=0)).ravel()
        library_size.append(np.asarray(chunk.sum(axis=1)).ravel())
        all_counts = all_counts and is_counts(chunk)
    candidates = np.argsort(-total, kind="stable")[:n_candidates]
    groups = [rows for rows in spots.rows.values() if len(rows) >= 3]
    if not groups:
        return names[candidates[:n_genes]].tolist()
    profiles = columns(x, candidates)
    if all_counts:
        profiles = equal_library_size(profiles, np.concatenate(library_size))
    scores = np.stack(
        [morans_i(profiles[rows], spots.positions[rows], n_neighbors=min(6, len(rows) - 1)) for rows in groups]
    )
    constant = np.isnan(scores).all(axis=0)
    scores = np.where(constant, -np.inf, np.average(np.nan_to_num(scores), axis=0, weights=[*map(len, groups)]))
    return names[candidates[np.argsort(-scores, kind="stable")[:n_genes]]].tolist()
