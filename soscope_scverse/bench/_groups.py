"""Scores of a comparison by groups of genes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from soscope_scverse._validators import check_columns

_BY = ["task", "method", "metric", "group"]


def scores_by_group(df: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Summarise scores by groups of genes, such as those of biological variability or abundance.

    Scores of a gene are averaged over seeds first.

    Parameters
    ----------
    df
        Table returned by :func:`compare`.
    groups
        Group of every gene, indexed by gene, e.g. ``tl.gene_variability(adata)["variability_group"]``. Genes that are
        not in it or have no group are excluded.

    Returns
    -------
    pandas.DataFrame
        One row per task, method, metric and group.
    ``n_genes``
        Number of genes with a score.
    ``median``, ``q25``, ``q75``
        Median and quartiles over genes.

    Raises
    ------
    TypeError, ValueError
        If `df` is no table of a comparison, or `groups` is no series with groups of some of its genes.

    See Also
    --------
    soscope_scverse.tl.gene_variability : Groups by variability and abundance.
    soscope_scverse.pl.scores_by_group : Box plots of the same.
    """
    table = with_groups(df, groups)
    gene = table.groupby([*_BY, "gene"], observed=True, sort=False)["value"].mean().dropna()
    by_group = gene.groupby(level=_BY, observed=True, sort=False)
    summary = by_group.agg(
        n_genes="size", median="median", q25=lambda x: x.quantile(0.25), q75=lambda x: x.quantile(0.75)
    )
    return summary.reset_index()


def with_groups(df: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Return the rows of genes with a group, with the column ``group``; categories keep their order.

    Raises
    ------
    TypeError, ValueError
        If `df` is no table of a comparison, or `groups` is no series with groups of some of its genes.
    """
    if not isinstance(df, pd.DataFrame) or not isinstance(groups, pd.Series):
        msg = (
            "Expected the table of `bench.compare` and a pandas Series of groups indexed by gene, found "
            f"{type(df).__name__} and {type(groups).__name__}."
        )
        raise TypeError(msg)
    check_columns(df, [*_BY[:-1], "gene", "value"], "bench.compare")
    if not groups.index.is_unique:
        msg = f"Expected one group for every gene, found {int(groups.index.duplicated().sum())} genes repeated."
        raise ValueError(msg)
    known = groups.dropna()
    rows = known.index.get_indexer(df["gene"])
    if not (rows >= 0).any():
        genes = df["gene"].unique()
        msg = (
            f"Expected groups of genes in the table, found none of its {len(genes)} genes (first: {genes[0]!r}) among "
            f"{len(known)} with a group. Index `groups` by gene."
        )
        raise ValueError(msg)
    labels = known.astype("category").array.take(np.maximum(rows, 0))
    return df.assign(group=labels)[rows >= 0]
