"""Tables of other tools: text with a name in the first column of every row."""

from __future__ import annotations

import zlib
from os import PathLike
from pathlib import Path

import pandas as pd

from soscope_scverse._validators import check_path


def read_table(argument: str, path: str | PathLike) -> pd.DataFrame:
    """Return a table with names of rows, gzipped or not, separated by commas, or by tabs in ``.tsv`` and ``.txt``.

    Raises
    ------
    TypeError, ValueError
        If it is no path of a file, or the file holds no table.
    """
    check_path(argument, path)
    if not Path(path).is_file():
        msg = f"Expected `{argument}` to be a '.csv' file that exists, found {str(path)!r}."
        raise ValueError(msg)
    by_tab = {".tsv", ".txt"} & set(Path(path).suffixes)
    try:
        return pd.read_csv(path, index_col=0, sep="\t" if by_tab else ",")
    except (OSError, ValueError, EOFError, zlib.error) as error:  # pandas' own errors are ValueErrors
        msg = f"Expected `{argument}` to be a table of text, '.csv' or '.tsv', found {str(path)!r}: {error}"
        raise ValueError(msg) from error
