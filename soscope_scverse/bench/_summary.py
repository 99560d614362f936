"""Tables of scores, from every gene and run to one row for each method."""

from __future__ import annotations

import pandas as pd

from soscope_scverse._validators import check_columns

_RUN = ("task", "method", "seed", "metric")


def summary(df: pd.DataFrame) -> pd.DataFrame:
    """Median over genes of every metric, with its mean and spread over the seeds.

    Parameters
    ----------
    df
        Table returned by :func:`~soscope_scverse.bench.compare`, or several such tables, concatenated.

    Returns
    -------
    pandas.DataFrame
        One row per task, method and metric, in their order in `df`, with the columns below.
    ``task``, ``method``, ``metric``
        Names.
    ``value``
        Median over genes, averaged over the seeds. NaN if a run diverged.
    ``spread``
        Standard deviation over the seeds of the median over genes. NaN with a single run.
    ``n_runs``
        Number of seeds; 1 for methods without a seed.

    Raises
    ------
    TypeError, ValueError
        If `df` is not a table or lacks a column.

    Examples
    --------
    >>> table = summary(compare(low, truth, "section.tif", seeds=range(5)))  # doctest: +SKIP
    >>> table.pivot(index="method", columns="metric", values="value")  # doctest: +SKIP
    """
    check_columns(df, (*_RUN, "value"), "bench.compare")
    runs = df.groupby(list(_RUN), sort=False, dropna=False)["value"].median()
    groups = runs.groupby(["task", "method", "metric"], sort=False)
    found = groups.agg(
        value=lambda run: run.mean(skipna=False), spread=lambda run: run.std(skipna=False), n_runs="size"
    )
    return found.reset_index()
