"""An open file that is shared by everything that reads from it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """What a decoder returns for a file."""

    def close(self) -> None:
        """Close the file."""


_Opened = TypeVar("_Opened", bound=Closable)


class SharedFile(Generic[_Opened]):
    """An image file that is opened once, at its first use, and closed when nothing refers to it any more.

    It is pickled as its path and opened again where it is unpickled.

    Parameters
    ----------
    opener
        Function or class that opens a path. It must be importable, for pickling.
    path
        The file.
    """

    def __init__(self, opener: Callable[[Path], _Opened], path: Path) -> None:
        self.path = path.absolute()
        self.lock = RLock()
        """Held while only one thread may use the file."""
        self._opener = opener
        self._opened: _Opened | None = None
        self._finalizer: weakref.finalize | None = None

    @property
    def file(self) -> _Opened:
        """The open file."""
        with self.lock:
            if self._opened is None:
                self._opened = self._opener(self.path)
                self._finalizer = weakref.finalize(self, self._opened.close)
            return self._opened

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self.lock:
            self._opened = None
            if self._finalizer is not None:
                self._finalizer()

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the file if the block raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedFile, (self._opener, self.path)
