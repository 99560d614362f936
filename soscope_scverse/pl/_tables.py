"""Tables that plots are drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from soscope_scverse._validators import check_columns


def check_table(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise unless `table` has these columns and at least one row, as `source` returns it."""
    check_columns(table, columns, source)
    if table.empty:
        msg = f"Expected the table returned by `{source}`, found no rows."
        raise ValueError(msg)


def chosen_metrics(df: pd.DataFrame, metric: Sequence[str] | str | None) -> list[str]:
    """Return the metrics of a table of scores to plot; None is all.

    Raises
    ------
    ValueError
        If there are none, or a metric is not in the table.
    """
    known = df["metric"].unique().tolist()
    names = known if metric is None else [metric] if isinstance(metric, str) else list(metric)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        msg = f"Expected `metric` to be among those of the table, {known}, found {unknown or 'none'}."
        raise ValueError(msg)
    return names
