"""Activity of genes from peaks of chromatin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

from soscope_scverse import _read as read
from soscope_scverse._arrays import dense
from soscope_scverse._validators import NON_NEGATIVE_INTEGER, Choice, Rules, check_arguments, check_finite

_RULES: Rules = {"upstream": NON_NEGATIVE_INTEGER, "repressive": Choice((False, True))}
_LOG_SCALE = 10
"""Factor of the scaled counts under the logarithm, as in the published code."""
_COLUMNS = ("chrom", "start", "end")


def gene_activity(
    adata: AnnData,
    genes: Mapping[str, Sequence[str] | str] | pd.DataFrame,
    *,
    upstream: int = 2000,
    repressive: bool = False,
) -> AnnData:
    r"""Sum the peaks of every gene, and score its activity.

    .. math:: a = \pm \log(1 + 10 \, u), \qquad u = \frac{x - \min x}{\max x - \min x}

    for the sum x of the peaks of a gene, over all observations; with the negative sign for marks that repress, such as
    H3K27me3.

    Parameters
    ----------
    adata
        n_obs x n_peaks, spots or enhanced subspots. Peaks are named ``chr1:43160000-43164999`` (also with "-" or "_"
        between the three), if `genes` is a table.
    genes
        Peaks by gene, or a table of genes, indexed by their names, with columns ``chrom``, ``start``, ``end`` and
        optionally ``strand`` ("+" or "-"), whose peaks are those that overlap the body of the gene or the bases
        upstream of it. Positions are those of BED: from 0, without the end.
    upstream
        Number of bases before the start of a gene whose peaks count as its own, on its strand; on both sides without
        ``strand``. Not used with peaks by gene.
    repressive
        Whether a peak means that the gene is silent.

    Returns
    -------
    AnnData
        n_obs x n_genes: ``X`` with the activities, 0 for genes that are the same everywhere, ``layers["counts"]`` with
        the sums, ``var["n_peaks"]``, and ``obs``, ``obsm`` and ``uns`` of `adata`. Genes without a peak are excluded.

    Raises
    ------
    TypeError, ValueError
        If `genes` is neither, peaks are unknown or have no such names, no gene has a peak, or values are NaN or
        infinite.

    References
    ----------
    Li, B., Bao, F., Hou, Y. et al. Tissue characterization at an enhanced resolution across spatial omics platforms
    with deep generative model. Nat. Commun. 15, 6541 (2024), Fig. 3d.
    """
    check_arguments(locals(), _RULES)
    x = read.matrix(read.read_anndata(adata), None)
    check_finite(x, "`adata`")
    if isinstance(genes, pd.DataFrame):
        members = _overlaps(adata.var_names, genes, upstream)
        names = genes.index.astype(str)
    elif isinstance(genes, Mapping) and genes:
        members = {i: _peaks(adata, peaks) for i, peaks in enumerate(genes.values())}
        names = pd.Index(genes).astype(str)
    else:
        msg = f"Expected `genes` to be a dict of peaks by gene or a table of genes, found {genes!r}."
        raise TypeError(msg)
    found = [i for i, peaks in members.items() if len(peaks)]
    if not found:
        msg = (
            f"Expected peaks of at least one of the {len(names)} genes, found none among {adata.n_vars} peaks (first: "
            f"{adata.var_names[0]!r}). Are both of one genome, with chromosomes of the same names?"
        )
        raise ValueError(msg)
    rows = np.concatenate([members[i] for i in found])
    of = np.repeat(np.arange(len(found)), [len(members[i]) for i in found])
    counts = x @ csr_matrix((np.ones(len(rows)), (rows, of)), shape=(adata.n_vars, len(found)))
    activity = _scores(dense(counts), repressive)
    n_peaks = pd.DataFrame({"n_peaks": np.bincount(of)}, index=names[found])
    return AnnData(
        activity,
        obs=adata.obs.copy(),
        var=n_peaks,
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
        layers={"counts": counts},
    )


def _scores(counts: np.ndarray, repressive: bool) -> np.ndarray:
    span = np.ptp(counts, axis=0)
    unit = (counts - counts.min(axis=0)) / np.where(span > 0, span, 1)
    return (-1 if repressive else 1) * np.log1p(_LOG_SCALE * unit)


def _peaks(adata: AnnData, peaks: Sequence[str] | str) -> np.ndarray:
    names = [peaks] if isinstance(peaks, str) else list(() if peaks is None else peaks)
    return adata.var_names.get_indexer(read.genes(adata, names)) if names else np.empty(0, dtype=int)


class _Intervals(NamedTuple):
    """Intervals of a genome, each from `start` to before `end`."""

    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray


def _overlaps(peaks: pd.Index, genes: pd.DataFrame, upstream: int) -> dict[int, np.ndarray]:
    """Numbers of the peaks of every gene, by the number of the gene."""
    at, reach = _peak_intervals(peaks), _gene_intervals(genes, upstream)
    by_chrom = {chrom: np.flatnonzero(at.chrom == chrom) for chrom in np.unique(at.chrom)}
    members = {}
    for i, (chrom, start, end) in enumerate(zip(*reach, strict=True)):
        there = by_chrom.get(chrom, np.empty(0, dtype=int))
        members[i] = there[(at.start[there] < end) & (at.end[there] > start)]
    return members


def _peak_intervals(peaks: pd.Index) -> _Intervals:
    parts = pd.Series(peaks.astype(str)).str.extract(r"^(.+?)[:_-](\d+)[_-](\d+)$")
    bad = parts.isna().any(axis=1).to_numpy()
    if bad.any():
        msg = (
            f"Expected peaks with names as 'chr1:43160000-43164999', found {bad.sum()} others (first: "
            f"{peaks[bad][0]!r}). Rename them, or pass a dict of peaks by gene."
        )
        raise ValueError(msg)
    return _Intervals(parts[0].to_numpy(str), parts[1].to_numpy(int), parts[2].to_numpy(int))


def _gene_intervals(genes: pd.DataFrame, upstream: int) -> _Intervals:
    """Bodies of the genes with the bases upstream."""
    missing = [column for column in _COLUMNS if column not in genes]
    if missing or not genes.index.is_unique:
        found = f"no {missing} in {list(genes)}" if missing else "names that occur more than once"
        msg = f"Expected `genes` to have columns {list(_COLUMNS)} and one row per gene, found {found}."
        raise ValueError(msg)
    start, end = (read.numbers(f"`genes[{name!r}]`", genes[name]) for name in _COLUMNS[1:])
    if not (start <= end).all():
        msg = f"Expected `genes` with start <= end, found {(~(start <= end)).sum()} others."
        raise ValueError(msg)
    strand = genes["strand"].astype(str).to_numpy() if "strand" in genes else np.full(len(genes), "")
    before, after = np.where(strand == "-", 0, upstream), np.where(strand == "+", 0, upstream)
    return _Intervals(genes["chrom"].astype(str).to_numpy(), start - before, end + after)
