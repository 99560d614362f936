"""Warnings of a run, recorded with its result."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """Collect the distinct messages of the UserWarnings of a block; warnings are shown or raised as usual."""
    messages: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def record(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, UserWarning) and str(message) not in messages:
                messages.append(str(message))
            show(message, category, *args, **kwargs)

        warnings.showwarning = record
        yield messages
