"""Biological variability and abundance of genes, and groups by either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix, diags

from soscope_scverse import _read as read
from soscope_scverse._arrays import Matrix
from soscope_scverse._validators import check_counts

LABELS = ("low", "medium", "high")
"""Three groups, as in the paper."""

_FEWEST_GENES = 10
_KNOTS, _DEGREE = 4, 2
"""A quadratic spline of three pieces: the variance of log counts first rises with their mean and then falls."""


def gene_variability(adata: AnnData, *, layer: str | None = None, labels: Sequence[str] = LABELS) -> pd.DataFrame:
    """Split the variance of every gene into a trend over its mean and the rest, its biological variability.

    Counts are divided by the library size, multiplied by the median library size and logarithmised. The trend is a
    regression spline of the variance over the mean of all genes: the variance of a gene of that mean without biology of
    its own.

    Parameters
    ----------
    adata
        Observations with counts. Pass all genes, or at least a few hundred: the trend is theirs.
    layer
        Layer with the counts; None is ``X``.
    labels
        Names of the groups of equal size, from low to high.

    Returns
    -------
    pandas.DataFrame
        One row per gene, indexed by its name.
    ``mean``, ``variance``, ``trend``
        Of the log counts.
    ``variability``
        Variance minus trend; negative for genes that vary less than others of their mean.
    ``abundance``
        Sum of the counts.
    ``variability_group``, ``abundance_group``
        One of `labels`.

    Raises
    ------
    TypeError, ValueError
        If profiles are not counts, there are less than ten genes with counts, or labels are no distinct names.

    See Also
    --------
    soscope_scverse.bench.scores_by_group : Scores of a comparison by these groups.
    soscope_scverse.pl.gene_variability : Plot the table.

    References
    ----------
    Lun, A. T. L., McCarthy, D. J. & Marioni, J. C. A step-by-step workflow for low-level analysis of single-cell
    RNA-seq data with Bioconductor. F1000Research 5, 2122 (2016).
    """
    names = [labels] if isinstance(labels, str) else list(labels or ())
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        msg = f"Expected `labels` to be at least two different names, found {labels!r}."
        raise ValueError(msg)
    counts = read.matrix(read.read_anndata(adata), layer)
    check_counts(counts, "nb")
    abundance = np.asarray(counts.sum(axis=0), dtype=float).ravel()
    if len(names) > (n_found := int((abundance > 0).sum())) or n_found < _FEWEST_GENES:
        msg = (
            f"Expected at least {max(_FEWEST_GENES, len(names))} genes with counts, found {n_found}. The trend needs "
            "the genes that are not of interest, too: pass all of them."
        )
        raise ValueError(msg)
    mean, variance = _of_log_counts(counts)
    trend = _trend(mean, variance)
    table = {
        "mean": mean,
        "variance": variance,
        "trend": trend,
        "variability": variance - trend,
        "abundance": abundance,
    }
    frame = pd.DataFrame(table, index=adata.var_names)
    for column in ("variability", "abundance"):
        rank = frame[column].rank(method="first")
        frame[f"{column}_group"] = pd.qcut(rank, len(names), labels=names)
    return frame


def _of_log_counts(counts: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every gene over the log counts per median library size."""
    from sklearn.utils.sparsefuncs import mean_variance_axis

    total = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    scale = np.divide(np.median(total[total > 0]), total, out=np.zeros_like(total), where=total > 0)
    log_counts = csr_matrix(diags(scale) @ csr_matrix(counts, dtype=float)).log1p()
    return mean_variance_axis(log_counts, axis=0)


def _trend(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Expected variance of genes of these means; those without counts have none."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import SplineTransformer

    there = mean > 0
    spline = SplineTransformer(_KNOTS, degree=_DEGREE, knots="quantile", extrapolation="constant")
    model = make_pipeline(spline, LinearRegression())
    x = np.log(np.where(there, mean, 1))[:, None]  # means are spread over orders of magnitude
    return np.where(there, np.clip(model.fit(x[there], variance[there]).predict(x), 0, None), 0)
