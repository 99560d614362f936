"""Communication of the processes of a distributed run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed


class Processes(NamedTuple):
    """The processes that share the work; a single one by default."""

    rank: int = 0
    """Of this process."""
    n: int = 1
    """Number of processes."""
    device: torch.device = torch.device("cpu")
    """Device for communication; some backends send tensors of a GPU only."""

    @classmethod
    def of_group(cls, device: torch.device) -> Processes:
        """Return the processes of torch's default group."""
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def takes(self, turn: int) -> bool:
        """Whether this process does the piece of work number `turn`."""
        return turn % self.n == self.rank

    def add_up(self, values: np.ndarray) -> np.ndarray:
        """Sum over all processes, on all of them."""
        if self.n == 1:
            return values
        total = torch.as_tensor(values, device=self.device)
        distributed.all_reduce(total)
        return total.cpu().numpy()

    def to_first(self, values: Tensor | None, turn: int, shape: tuple[int, ...]) -> Tensor | None:
        """Send float32 values from the process that computed them to the first one; None on all others."""
        source = turn % self.n
        if source == 0:
            return values if self.is_first else None
        if self.is_first:
            received = torch.empty(shape, device=self.device)
            distributed.recv(received, source)
            return received
        if values is not None:
            distributed.send(values.contiguous(), 0)
        return None

    def from_first(self, values: np.ndarray) -> None:
        """Overwrite an array of every process by that of the first one."""
        if self.n > 1:
            sent = torch.as_tensor(values, device=self.device)
            distributed.broadcast(sent, 0)
            values[...] = sent.cpu().numpy()

    def wait(self) -> None:
        """Wait for all processes."""
        if self.n > 1:
            distributed.barrier()
