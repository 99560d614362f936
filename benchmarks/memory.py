"""Peak memory of a process, and of a part of it, on Linux."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path
from types import TracebackType
from typing import Self

PROC = Path("/proc/self")


def peak_gb() -> float:
    """Highest resident memory of the process so far, in units of 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class PeakMemory:
    """Context manager that measures how far the resident memory of the process rises above its level at the start.

    The peak is Linux's ``VmHWM``, which is reset at the start, after memory that is no longer used has been returned
    to the system (by glibc). It includes all allocations in main memory, also those of torch and of other threads, and
    none on a GPU. Memory that an allocator retains nevertheless is part of the level at the start.

    Parameters
    ----------
    proc
        Folder of the process in Linux's ``/proc``.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self.proc = proc
        self.mb = float("nan")
        """The rise in units of 10^6 bytes; NaN on other systems."""
        self._start = float("nan")

    def __enter__(self) -> Self:
        gc.collect()
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            (self.proc / "clear_refs").write_text("5")
        except (OSError, AttributeError):
            return self
        self._start = self._resident_mb("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mb = max(self._resident_mb("VmHWM") - self._start, 0)

    def _resident_mb(self, field: str) -> float:
        """Resident memory (VmRSS) or its maximum (VmHWM) in units of 10^6 bytes; NaN if unknown."""
        try:
            lines = (self.proc / "status").read_text().splitlines()
        except OSError:
            return float("nan")
        kib = (float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
        return next(kib, float("nan")) * 1024 / 1e6
