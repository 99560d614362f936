"""Tiles for Lightning: which spots make a step, and which process takes them."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from soscope_scverse._arrays import Matrix, dense
from soscope_scverse.model._tiles import Tiles, contiguous_groups


class HeldOut(NamedTuple):
    """Molecules that are held out of the profiles for validation."""

    x: Matrix
    """n_spots x n_features."""
    odds: float
    """Odds of a molecule to be held out."""


class TileDataModule(pl.LightningDataModule):
    """Tiles to train on, partitioned anew for every pass over the spots, and tiles to validate on.

    The number of spots of a step depends neither on the memory of a device nor on the number of devices: smaller tiles
    are distributed over the processes, and each accumulates its gradients. A pass has ``n_steps`` steps of
    ``n_accumulated`` tiles per process, and ``n_epochs`` epochs of Lightning. The tiles of an epoch follow from its
    number and the seed alone.

    Parameters
    ----------
    tiles
        The section.
    batch_size
        Largest number of spots of a tile.
    held_out
        Molecules to validate on; None for no validation.
    seed
        Of the borders between tiles and of their order.
    n_processes
        Processes that share the tiles.
    step_spots
        Spots of a step, where there are as many; fewer make the gradients too noisy.
    epoch_steps
        Most steps of an epoch of Lightning; longer passes take several epochs, so that history and checkpoints are
        updated in between.
    """

    def __init__(
        self,
        tiles: Tiles,
        batch_size: int,
        held_out: HeldOut | None = None,
        *,
        seed: int,
        n_processes: int = 1,
        step_spots: int = 2048,
        epoch_steps: int = 10,
    ) -> None:
        super().__init__()
        self.tiles = tiles
        self.held_out = held_out
        self.whole: dict[str, torch.Tensor] | None = None
        self.seed = seed
        self.n_processes = n_processes
        self.n_train = tiles.n_spots
        self.n_val = 0 if held_out is None else tiles.n_spots
        step_spots = min(max(batch_size, step_spots), tiles.n_spots)
        self.n_steps = math.ceil(tiles.n_spots / step_spots)
        tiles_of_a_step = n_processes * math.ceil(step_spots / (batch_size * n_processes))
        self.tile_spots = math.ceil(tiles.n_spots / (self.n_steps * tiles_of_a_step))
        self.most_spots = min(batch_size, math.ceil(step_spots / n_processes))
        self.n_tiles = len(self._groups(None))
        self.n_accumulated = math.ceil(self.n_tiles / (self.n_steps * n_processes))
        self.epoch_tiles = epoch_steps * self.n_accumulated * n_processes
        self.n_epochs = math.ceil(self.n_tiles / self.epoch_tiles)
        self._pass: tuple[int, list[np.ndarray]] | None = None

    def without_validation(self) -> TileDataModule:
        """Return the same tiles without validation."""
        data = copy.copy(self)
        data.held_out, data.n_val = None, 0
        return data

    def setup(self, stage: str) -> None:
        """Let all processes partition the section in the same way."""
        if self.trainer:
            self.seed = self.trainer.strategy.broadcast(self.seed)

    def teardown(self, stage: str) -> None:
        """Release the section: the model keeps the trainer, and the trainer this module and its loaders."""
        del self.tiles
        self.held_out = self.whole = self._pass = None

    def train_dataloader(self) -> DataLoader:
        """Return a loader of the tiles of the current epoch, one per batch."""
        assert self.trainer is not None
        return self.epoch(self.trainer.current_epoch)

    def epoch(self, number: int) -> DataLoader:
        """Return a loader of the tiles of an epoch, one per batch."""
        turn, part = divmod(number, self.n_epochs)
        if self._pass is None or self._pass[0] != turn:
            rng = np.random.default_rng([self.seed, turn])
            groups = self._groups(None if self.n_tiles == 1 else rng)
            self._pass = turn, [groups[i] for i in rng.permutation(len(groups))]
        first = part * self.epoch_tiles
        return self._loader(self._pass[1][first : first + self.epoch_tiles])

    def val_dataloader(self) -> DataLoader | list:
        """Return a loader of the tiles to validate on; an empty list, as Lightning expects, if nothing is held out."""
        return [] if self.held_out is None else self._loader(self._groups(None), scored=True)

    def tile(self, own: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the batch of some spots; that of all spots is computed once."""
        if len(own) < self.tiles.n_spots:
            return self.tiles.tile(own)
        if self.whole is None:
            self.whole = self.tiles.tile()
        return dict(self.whole)

    def _loader(self, groups: list[np.ndarray], *, scored: bool = False) -> DataLoader:
        tiles = _TileDataset(self, groups, scored)
        rank = self.trainer.global_rank if self.trainer else 0
        sampler: DistributedSampler = DistributedSampler(tiles, self.n_processes, rank, shuffle=False)
        # its own generator: a loader draws a seed for workers even without any
        return DataLoader(tiles, batch_size=None, sampler=sampler, generator=torch.Generator())

    def _groups(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Contiguous groups of about equal size; small sections share a tile."""
        section = self.tiles.section
        n_spots = dict(zip(*np.unique(section.sections, return_counts=True), strict=True))
        packed: list[list[np.ndarray]] = []
        room = 0
        for group in contiguous_groups(section.spatial, section.sections, self.tile_spots, rng):
            is_section = len(group) == n_spots[section.sections[group[0]]]
            if not is_section or len(group) > room:
                packed.append([])
                room = self.most_spots if is_section else 0
            packed[-1].append(group)
            room -= len(group)
        return [np.concatenate(groups) for groups in packed]


class _TileDataset(Dataset):
    """Tiles on demand; those to validate on have ``x_held_out`` and ``held_out_odds``.

    Parameters
    ----------
    data
        Makes the tiles.
    groups
        Rows of the spots of every tile.
    scored
        Whether to validate on these tiles.
    """

    def __init__(self, data: TileDataModule, groups: list[np.ndarray], scored: bool) -> None:
        self.data = data
        self.groups = groups
        self.scored = scored

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        own = np.sort(self.groups[index])
        tile = self.data.tile(own)
        if self.scored and self.data.held_out is not None:
            tile["x_held_out"] = torch.as_tensor(dense(self.data.held_out.x[own]), dtype=torch.float32)
            tile["held_out_odds"] = torch.tensor(self.data.held_out.odds)
        return tile
