"""Threads of torch: as many as the machine and the job have, whatever other packages have set in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from dask.system import cpu_count

Value = TypeVar("Value")


@contextmanager
def torch_threads(n: int | None = None) -> Iterator[None]:
    """Let torch use `n` threads; afterwards their number is what it was before. Also a decorator.

    By default it is the smallest of what torch was set to (``OMP_NUM_THREADS``, ``torch.set_num_threads``), the
    processors that the process may use, and the quota of its control group. Parallel code of numba, as in
    ``scanpy.pp.calculate_qc_metrics``, sets the threads of OpenMP in the calling thread alone, so a new thread still
    has the number that torch was set to.

    Parameters
    ----------
    n
        Number of threads; None is the default.
    """
    here, given = torch.get_num_threads(), _in_new_thread(torch.get_num_threads)
    torch.set_num_threads(n or min(given, cpu_count()))
    try:
        yield
    finally:
        torch.set_num_threads(here)
        _in_new_thread(torch.set_num_threads, given)


def _in_new_thread(function: Callable[..., Value], *args: object) -> Value:
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(function, *args).result()
