"""Files and folders: complete or absent, and told from changed ones."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNFINISHED = ".part"


@contextmanager
def completed(path: Path) -> Iterator[Path]:
    """Place beside `path` to write to, which replaces what is at `path` when the block ends and goes if it fails."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{_UNFINISHED}{path.suffix}")
    try:
        yield part
        if part.is_dir():
            _remove(path)  # a folder does not replace another one
        part.replace(path)
    finally:
        _remove(part)


def remove_unfinished(path: Path) -> None:
    """Remove what runs that were killed left beside `path`; no other process may be writing to it."""
    for part in path.parent.glob(f".{path.stem}.*{_UNFINISHED}{path.suffix}"):
        _remove(part)


def file_state(path: Path) -> tuple[Any, ...]:
    """What changes with a file, as far as can be told without reading it."""
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for seconds in (0, 0.1, 0.5, 2):  # threads of a writer that failed may be at work in it for a moment
        time.sleep(seconds)
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
    shutil.rmtree(path)
