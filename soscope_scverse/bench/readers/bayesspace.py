"""Results of BayesSpace: a SingleCellExperiment of subspots, written to h5ad or to CSV."""

from __future__ import annotations

from os import PathLike

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope_scverse import _read as read
from soscope_scverse._validators import Rules, check_arguments
from soscope_scverse.bench.readers.points import at_subspots, read_result
from soscope_scverse.bench.readers.subspots import LOG_BASE, Subspots
from soscope_scverse.bench.readers.tables import read_table

_RULES: Rules = {"log_base": LOG_BASE}
_PIXELS = (("pxl_col_in_fullres", "pxl_row_in_fullres"), ("imagecol", "imagerow"))
"""Columns of x and y, of BayesSpace 1.12 and newer and before."""
_LATTICE = (("array_col", "array_row"), ("col", "row"))


def read_bayesspace(
    result: str | PathLike | AnnData,
    adata: AnnData,
    *,
    coldata: str | PathLike | None = None,
    log_base: float | None = 2,
) -> AnnData:
    """Read the subspots of BayesSpace into those of the spots.

    BayesSpace divides a Visium spot into six triangles and a square one into nine squares, and lists all first subspots
    before the second ones. They are matched by their positions: a subspot is the mean of those of BayesSpace within
    half the distance between subspots, or the nearest where there is none. On square lattices choose
    ``nsubspots.per.edge`` like the partition of the spots.

    Parameters
    ----------
    result
        What ``enhanceFeatures`` wrote into the enhanced SingleCellExperiment: an AnnData or ``.h5ad``
        (``zellkonverter::writeH5AD(enhanced, X_name = "logcounts")``) or a ``.csv`` with names of genes and subspots
        (``write.csv(as.matrix(logcounts(enhanced)))``, or its transpose) together with `coldata`.
    adata
        Spots with subspots, in full-resolution pixels; with ``obs["array_row"]`` and ``obs["array_col"]`` where
        BayesSpace has positions on the array alone (platform ST).
    coldata
        With a ``.csv``: ``write.csv(colData(enhanced))``.
    log_base
        Base of the logarithm of the values, which is taken back; that of ``logcounts`` is 2. None: they were not
        logarithmised.

    Returns
    -------
    AnnData
        n_subspots x n_genes, see :func:`~soscope_scverse.bench.read_istar`.

    Raises
    ------
    TypeError, ValueError
        If files are missing or do not fit each other, have no positions, or have no values at some of the subspots.

    References
    ----------
    Zhao, E. et al. Spatial transcriptomics at subspot resolution with BayesSpace. Nat. Biotechnol. 39, 1375-1384
    (2021). Files as in https://github.com/edward130603/BayesSpace, version 1.15.3.
    """
    check_arguments(locals(), _RULES)
    subspots = Subspots(adata)
    if coldata is None:
        found = read_result("result", result)
    else:
        found = read_result("result", _from_csv(result, coldata))
    return at_subspots(subspots, _positions(found.obs, subspots.adata), found, log_base, "BayesSpace")


def _from_csv(expression: str | PathLike | AnnData, coldata: str | PathLike) -> AnnData:
    """Return what two files hold: values of genes and subspots in either order, and the columns of the subspots."""
    if isinstance(expression, AnnData):
        msg = "Expected `coldata` with a '.csv' only, found an AnnData as `result`, which has its own. Omit `coldata`."
        raise ValueError(msg)
    x, obs = read_table("result", expression), read_table("coldata", coldata)
    x, obs = x.set_axis(x.index.astype(str)), obs.set_axis(obs.index.astype(str))
    known = set(obs.index)
    x = x if len(known & set(x.index)) >= len(known & set(x.columns.astype(str))) else x.T
    if set(x.index.astype(str)) != known or not x.index.is_unique:
        msg = (
            f"Expected the names of the {len(obs)} rows of `coldata` as rows or columns of `result`, found "
            f"{len(known & set(x.index))} of {len(x)}. Write both from one SingleCellExperiment."
        )
        raise ValueError(msg)
    try:
        values = x.loc[obs.index].to_numpy(float)
    except ValueError:
        msg = f"Expected numbers in {str(expression)!r}, found {sorted({str(kind) for kind in x.dtypes})}."
        raise ValueError(msg) from None
    return AnnData(values, obs=obs, var=pd.DataFrame(index=x.columns.astype(str)))


def _positions(obs: pd.DataFrame, spots: AnnData) -> np.ndarray:
    """Return the positions of the subspots of BayesSpace in pixels."""
    for names in _PIXELS:
        if set(names) <= set(obs):
            return read.xy(read.numbers("positions of BayesSpace", obs[list(names)]))
    lattice = [names for names in _LATTICE if set(names) <= set(obs)]
    array = read.array_index(spots)
    if not lattice or array is None:
        msg = (
            f"Expected positions of BayesSpace, {' or '.join(map(str, (*_PIXELS, *_LATTICE)))}, found {list(obs)}. "
            "Positions on the array need `adata.obs['array_row']` and `adata.obs['array_col']`, too."
        )
        raise ValueError(msg)
    fit = np.linalg.lstsq(_with_one(array), read.positions(spots), rcond=None)[0]
    return _with_one(read.numbers("`coldata`", obs[list(lattice[0])])) @ fit


def _with_one(xy: np.ndarray) -> np.ndarray:
    return np.column_stack([xy, np.ones(len(xy))])
