"""Results of SpaHDmap: maps of metagenes on pixels, and the weights of the genes in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _read as read
from soscope_scverse._validators import POSITIVE, Rules, check_arguments, check_path
from soscope_scverse.bench.readers.subspots import LOG_BASE, Subspots, without_log
from soscope_scverse.bench.readers.tables import read_table

_RULES: Rules = {"scale_rate": POSITIVE, "log_base": LOG_BASE}


def read_spahdmap(
    score: str | PathLike,
    metagene: str | PathLike,
    adata: AnnData,
    *,
    origin: Sequence[float],
    scale_rate: float = 1,
    log_base: float | None = math.e,
) -> AnnData:
    """Read the scores of SpaHDmap into the rows of the subspots.

    The expression of a gene at a pixel is the sum of the scores of the metagenes, weighted by the gene, as its function
    ``recovery`` has it; a subspot is the mean of the pixels in a circle within it.

    Parameters
    ----------
    score
        File ``SpaHDmap_score.npy`` of a section, n_metagenes x height x width, which
        ``get_SpaHDmap_score(save_score=True)`` writes.
    metagene
        File ``metagene.csv``, n_genes x n_metagenes with their names.
    adata
        Spots with subspots, in full-resolution pixels.
    origin
        First row and column of the map in the image: ``(section.row_range[0], section.col_range[0])``.
    scale_rate
        Full-resolution pixels per pixel of the image, as it was passed to SpaHDmap.
    log_base
        Base of the logarithm of the counts that SpaHDmap was trained on, which is taken back at the subspots; it takes
        the natural one itself. None: they were not logarithmised.

    Returns
    -------
    AnnData
        n_subspots x n_genes, see :func:`~soscope_scverse.bench.read_istar`.

    Raises
    ------
    TypeError, ValueError
        If files are missing or of other shapes, or have no values at some of the subspots.

    References
    ----------
    Tang, J. et al. The interpretable multimodal dimension reduction framework SpaHDmap enhances resolution in spatial
    transcriptomics. Nat. Cell Biol. (2026), doi:10.1038/s41556-025-01838-z. Files as in
    https://github.com/sldyns/SpaHDmap, March 2026.
    """
    check_arguments(locals(), _RULES)
    subspots = Subspots(adata)
    maps, weights = _scores(score), _metagenes(metagene)
    if maps.ndim != 3 or len(maps) != weights.shape[1]:
        msg = (
            f"Expected scores of n_metagenes x height x width for the {weights.shape[1]} metagenes, found shape "
            f"{maps.shape}. Pass the files of one run."
        )
        raise ValueError(msg)
    first = read.numbers("`origin`", origin).astype(float).ravel()
    if first.shape != (2,) or not np.isfinite(first).all():
        msg = f"Expected `origin` to be the first row and column of the map, found {origin!r}."
        raise ValueError(msg)
    rows, cols = np.indices(maps.shape[1:]).reshape(2, -1)
    xy = (np.column_stack([cols + first[1], rows + first[0]]) + 1) * scale_rate  # it counts pixels from one
    at_subspots = subspots.weights(xy, "SpaHDmap") @ maps.reshape(len(maps), -1).T.astype(float)
    values = without_log(at_subspots @ weights.to_numpy(float).T, log_base)
    return subspots.result(values, weights.index, "SpaHDmap")


def _scores(path: str | PathLike) -> np.ndarray:
    check_path("score", path)
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        msg = f"Expected the scores of SpaHDmap, 'SpaHDmap_score.npy', found {str(path)!r}: {error}"
        raise ValueError(msg) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or not np.isfinite(found).all():
        msg = f"Expected finite numbers in {str(path)!r}, found {getattr(found, 'dtype', type(found).__name__)} or NaN."
        raise ValueError(msg)
    return found


def _metagenes(path: str | PathLike) -> pd.DataFrame:
    table = read_table("metagene", path)
    if (
        not table.size
        or not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes)
        or table.isna().any(axis=None)
    ):
        msg = f"Expected n_genes x n_metagenes numbers in {str(path)!r}, found columns {list(table)[:5]}."
        raise ValueError(msg)
    return table
