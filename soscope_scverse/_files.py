"""Files and folders that are written atomically: complete or absent; and their state, to detect changes."""

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
def unfinished(path: Path) -> Iterator[Path]:
    """Yield an unused path in the folder of `path`; what is written there is removed when the block ends.

    Use it to prepare parts of `path` on the same disk, e.g. elements of a store, and move them from there by renaming.
    """
    part = _beside(path)
    try:
        yield part
    finally:
        _remove(part)


@contextmanager
def completed(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a path to write a file or folder to; it is renamed to `path` when the block ends, and removed if it fails.

    Parameters
    ----------
    path
        The file or folder to write.
    replace
        Whether an existing file or folder is replaced; otherwise it is kept, and what was written is discarded.

    Yields
    ------
    pathlib.Path
        In the same folder, with the same suffix.
    """
    with unfinished(path) as part:
        yield part
        if not replace:
            _rename_unless_exists(part, path)
        elif part.is_dir() and path.exists():
            with unfinished(path) as old:  # a folder cannot replace another one in one step
                path.rename(old)
                try:
                    part.rename(path)
                except BaseException:
                    old.rename(path)
                    raise
        else:
            part.replace(path)


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder if it does not exist; if it is new and the block fails, it is removed."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            _remove(path)
        raise


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left beside `path`; no other process may be writing to it."""
    for part in path.parent.glob(f".{path.stem}.*{_UNFINISHED}{path.suffix}"):
        _remove(part)


def file_state(path: Path) -> tuple[Any, ...]:
    """Return path, size and date of a file, which change with its content."""
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{_UNFINISHED}{path.suffix}")


def _rename_unless_exists(part: Path, path: Path) -> None:
    if path.is_file():
        return
    try:
        part.rename(path)
    except OSError:
        if not path.exists():
            raise


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for seconds in (0, 0.1, 0.5, 2):  # threads of a failed writer may write to it for a moment
        time.sleep(seconds)
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
    shutil.rmtree(path)
