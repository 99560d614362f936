"""Chooses the features worth enhancing."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from soscope_scverse import _validation as check
from soscope_scverse._arrays import columns, row_chunks
from soscope_scverse._containers.dispatch import accepts_containers
from soscope_scverse.metrics import morans_i
from soscope_scverse.pp._graphs import equal_library_size


@accepts_containers()
def spatial_genes(
    adata: AnnData,
    n_genes: int = 500,
    *,
    layer: str | None = None,
    n_candidates: int = 2500,
    library_key: str | None = None,
    table_key: str = "table",
    shapes_key: str | None = None,
) -> list[str]:
    """Names of the spatially most variable genes: the highest Moran's I among the most counted.

    Moran's I, over the six nearest neighbours, is that of log1p of counts at equal depth: on raw counts the pattern of
    the depth itself would choose the genes. Data that are not counts are taken as they are. A file-backed matrix is
    read in pieces.

    Parameters
    ----------
    adata
        Spots, with positions in ``obsm["spatial"]``.
    n_genes
        Most genes to return.
    layer
        Layer that holds the profiles; None is ``X``.
    n_candidates
        Number of most counted genes to choose from.
    library_key
        Column of ``obs`` that tells the sections; Moran's I is averaged over them, by their numbers of spots.
    table_key, shapes_key
        Of a SpatialData, as of :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    list of str
        Names, highest Moran's I first; ties go to the more counted gene. Constant genes come last.

    Raises
    ------
    TypeError, ValueError
        If coordinates are missing or profiles are not finite.

    See Also
    --------
    soscope_scverse.metrics.morans_i
    """
    check.given(spatial_genes, locals())
    xy = check.positions(check.anndata(adata))
    sections = check.sections(adata, library_key)
    x = check.profiles(adata, layer)
    total, depth, counts = np.zeros(adata.n_vars), [], True
    for chunk in row_chunks(x):
        check.finite(chunk)
        total += np.asarray(abs(chunk).sum(axis=0)).ravel()
        depth.append(np.asarray(chunk.sum(axis=1)).ravel())
        counts = counts and check.is_counts(chunk)
    candidates = np.argsort(-total, kind="stable")[:n_candidates]
    groups = [np.flatnonzero(sections == section) for section in np.unique(sections)]
    groups = [rows for rows in groups if len(rows) >= 3]
    if not groups:
        return adata.var_names[candidates[:n_genes]].tolist()
    profiles = columns(x, candidates)
    if counts:
        profiles = equal_library_size(profiles, np.concatenate(depth))
    scores = np.stack([morans_i(profiles[rows], xy[rows], n_neighbors=min(6, len(rows) - 1)) for rows in groups])
    constant = np.isnan(scores).all(axis=0)
    scores = np.where(constant, -np.inf, np.average(np.nan_to_num(scores), axis=0, weights=[*map(len, groups)]))
    return adata.var_names[candidates[np.argsort(-scores, kind="stable")[:n_genes]]].tolist()
