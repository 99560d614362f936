"""Results at positions, as TESLA and FineST write them: an AnnData with a row for every position."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path

import anndata as ad
import numpy as np
from anndata import AnnData

from soscope_scverse import _keys as keys
from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._validators import POSITIVE, Rules, check_arguments, check_path
from soscope_scverse.bench.readers.subspots import LOG_BASE, Subspots, check_finite_values, without_log

_RULES: Rules = {"log_base": LOG_BASE}
_TESLA_RULES: Rules = {**_RULES, "scale": POSITIVE}


def read_tesla(
    result: str | PathLike | AnnData, adata: AnnData, *, scale: float = 1, log_base: float | None = math.e
) -> AnnData:
    """Read the superpixels of TESLA into the rows of the subspots.

    Parameters
    ----------
    result
        What ``TESLA.imputation`` returned, or its ``.h5ad``: superpixels with ``obs["x"]``, the row, and ``obs["y"]``,
        the column in the image.
    adata
        Spots with subspots, in full-resolution pixels.
    scale
        Full-resolution pixels per pixel of the image that TESLA was given.
    log_base
        Base of the logarithm of the values, which is taken back before superpixels are averaged; the tutorial of TESLA
        takes the natural one. None: they were not logarithmised.

    Returns
    -------
    AnnData
        n_subspots x n_genes, see :func:`~soscope_scverse.bench.read_istar`.

    Raises
    ------
    TypeError, ValueError
        If the file is missing or no h5ad, or it has no such columns, or no values at some of the subspots.

    References
    ----------
    Hu, J. et al. Deciphering tumor ecosystems at super resolution from spatial transcriptomics with TESLA. Cell Syst.
    (2023), doi:10.1016/j.cels.2023.03.008. Files as in https://github.com/jianhuupenn/TESLA, March 2024.
    """
    check_arguments(locals(), _TESLA_RULES)
    subspots, found = Subspots(adata), read_result("result", result)
    missing = [name for name in ("x", "y") if name not in found.obs]
    if missing:
        msg = f"Expected superpixels of TESLA with columns 'x' and 'y' of `obs`, found {list(found.obs)}."
        raise ValueError(msg)
    xy = read.xy(read.numbers("positions of TESLA", found.obs[["y", "x"]])) * scale
    return at_subspots(subspots, xy, found, log_base, "TESLA")


def read_finest(result: str | PathLike | AnnData, adata: AnnData, *, log_base: float | None = math.e) -> AnnData:
    """Read the sub-spots or cells of FineST into the rows of the subspots.

    Parameters
    ----------
    result
        AnnData of FineST or its ``.h5ad``, e.g. ``adata_imput_all_subspot.h5ad``, with positions in
        ``obsm["spatial"]``, or in ``obs["x"]`` and ``obs["y"]``.
    adata
        Spots with subspots, in full-resolution pixels.
    log_base
        Base of the logarithm of the values, see :func:`~soscope_scverse.bench.read_tesla`; FineST takes the natural
        one.

    Returns
    -------
    AnnData
        n_subspots x n_genes, see :func:`~soscope_scverse.bench.read_istar`.

    Raises
    ------
    TypeError, ValueError
        If the file is missing or no h5ad, or it has no positions, or no values at some of the subspots.

    References
    ----------
    Li, L. et al. FineST: contrastive learning integrates histology and spatial transcriptomics for nuclei-resolved
    ligand-receptor analysis. Nat. Commun. 17, 4645 (2026). Files as in https://github.com/StatBiomed/FineST, August
    2026.
    """
    check_arguments(locals(), _RULES)
    subspots, found = Subspots(adata), read_result("result", result)
    if keys.SPATIAL not in found.obsm and {"x", "y"} <= set(found.obs):
        found.obsm[keys.SPATIAL] = read.numbers("positions of FineST", found.obs[["x", "y"]])
    return at_subspots(subspots, read.positions(found), found, log_base, "FineST")


def read_result(argument: str, result: str | PathLike | AnnData) -> AnnData:
    """Return an AnnData, or a copy of it without anything but names, positions and profiles.

    Raises
    ------
    TypeError, ValueError
        If it is neither an AnnData nor a path of an h5ad file that can be read.
    """
    if isinstance(result, AnnData):
        found = result
    else:
        check_path(argument, result)
        if Path(result).suffix != ".h5ad" or not Path(result).is_file():
            msg = f"Expected `{argument}` to be an AnnData or an '.h5ad' file that exists, found {str(result)!r}."
            raise ValueError(msg)
        try:
            found = ad.read_h5ad(result)
        except (OSError, KeyError) as error:
            msg = f"Expected `{argument}` to be an '.h5ad' file, found {str(result)!r}, which cannot be read: {error}"
            raise ValueError(msg) from error
    slots = {key: found.obsm[key] for key in (keys.SPATIAL,) if key in found.obsm}
    names = [str(row) for row in range(found.n_obs)]  # positions are what counts, names may occur more than once
    bare = AnnData(found.X, obs=found.obs.set_axis(names), var=found.var[[]], obsm=slots)
    read.profiles(bare, None)
    return bare


def at_subspots(subspots: Subspots, xy: np.ndarray, found: AnnData, log_base: float | None, name: str) -> AnnData:
    """Return the mean of the positions in every subspot."""
    values = dense(found.X).astype(float)
    check_finite_values(values, name)
    return subspots.result(subspots.weights(xy, name) @ without_log(values, log_base), found.var_names, name)
