"""Progress bars: on standard error, where somebody reads it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.asyncio import tqdm as tqdm_of_terminals
from tqdm.auto import tqdm


def bars_are_readable() -> bool:
    """Whether a progress bar is readable where it is written: on a terminal or in a notebook, not in a file."""
    return sys.stderr.isatty() or tqdm is not tqdm_of_terminals


def progress_bar(of: Iterable | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """Return a progress bar of tqdm, which is not shown where it would not be readable.

    Parameters
    ----------
    of
        What to iterate over, if the bar is not advanced by hand.
    shown
        Whether it is wanted.
    **options
        Of tqdm.
    """
    return tqdm(of, disable=not (shown and bars_are_readable()), **options)


def write_above(line: str) -> None:
    """Write a line to standard error without breaking progress bars."""
    tqdm.write(line, file=sys.stderr)
