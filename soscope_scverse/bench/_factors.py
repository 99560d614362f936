"""One section merged by several factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _read as read
from soscope_scverse.bench._compare import compare
from soscope_scverse.bench._simulate import simulate_low_resolution

FACTORS = (2, 3, 4, 5, 6)
"""Those of the paper."""
PAPER_METRICS = ("pearson", "mse", "within_r", "kmeans_ari_3", "kmeans_ari_4")
"""Recovery of components or genes, and of the tissue structure with three and four clusters."""


def compare_factors(
    adata: AnnData,
    image: Any = None,
    *,
    factors: Sequence[int] = FACTORS,
    genes: Sequence[str] | None = None,
    aggregate: Literal["sum", "mean"] = "sum",
    metrics: Any = PAPER_METRICS,
    task: str = "x",
    **kwargs: Any,
) -> pd.DataFrame:
    """Merge a section of a square lattice by several factors, and score how well each method recovers it.

    Parameters
    ----------
    adata
        Spots or beads of a square lattice, see :func:`simulate_low_resolution`.
    image
        Histology image, see :func:`compare`. Image features in `adata` are not used, since parts of a spot differ.
    factors
        Blocks of 2 x 2 to 6 x 6.
    genes
        Features to score. Default: all.
    aggregate
        ``"sum"`` for counts (slide-RNA-seq), ``"mean"`` for principal components (slide-DNA-seq).
    metrics
        See :func:`compare`. Default: those of the paper, and ``within_r``.
    task
        Prefix of the names of the tasks; the factor is added: ``x2``, ``x3``, ...
    **kwargs
        Further arguments of :func:`compare`.

    Returns
    -------
    pandas.DataFrame
        The tables of :func:`compare`, one task per factor, with the column ``factor``.

    Raises
    ------
    TypeError, ValueError
        See :func:`simulate_low_resolution` and :func:`compare`; if there are no factors.

    See Also
    --------
    soscope_scverse.pl.factors : Plot the table.

    References
    ----------
    Li, B., Bao, F., Hou, Y. et al. Tissue characterization at an enhanced resolution across spatial omics platforms
    with deep generative model. Nat. Commun. 15, 6541 (2024), Fig. 4.
    """
    wanted = np.atleast_1d(np.asarray(factors, dtype=object)).tolist()
    if not wanted:
        msg = "Expected at least one factor in `factors`, found none."
        raise ValueError(msg)
    chosen = None if genes is None else read.genes(read.read_anndata(adata), genes)
    merged = [simulate_low_resolution(adata, factor, lattice="square", aggregate=aggregate) for factor in wanted]
    tables = []
    for factor, (low, truth) in zip(wanted, merged, strict=True):
        if chosen is not None:
            low, truth = low[:, chosen].copy(), truth[:, chosen].copy()
        table = compare(low, truth, image, metrics=metrics, task=f"{task}{factor}", **kwargs)
        tables.append(table.assign(factor=factor))
    return pd.concat(tables, ignore_index=True)
