"""Hands tiles to Lightning."""

from __future__ import annotations

import copy

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from soscope_scverse.data.tiles import Tiles, contiguous_groups


class TileDataModule(pl.LightningDataModule):
    """Tiles to train on, cut anew every epoch, and tiles to validate on.

    Parameters
    ----------
    tiles
        The section.
    batch_size
        Most spots of a tile.
    validation
        The section with molecules held out, to be scored; None scores nothing.
    seed
        Of the borders between tiles and of their order.
    """

    def __init__(self, tiles: Tiles, batch_size: int, validation: Tiles | None, seed: int) -> None:
        super().__init__()
        self.tiles = tiles
        self.validation = validation
        self.batch_size = batch_size
        self.rng = np.random.default_rng(seed)
        self.n_batches = len(self._groups(tiles, None))
        self.n_train = tiles.n_spots
        self.n_val = 0 if validation is None else validation.n_spots
        self._whole = tiles.tile() if self.n_batches == 1 else None

    def without_validation(self) -> TileDataModule:
        """The same tiles, nothing to score."""
        data = copy.copy(self)
        data.validation, data.n_val = None, 0
        return data

    def train_dataloader(self) -> DataLoader:
        """One tile a step."""
        if self._whole is not None:
            return DataLoader(_TileDataset(self.tiles, [], whole=self._whole), batch_size=None)
        groups = self._groups(self.tiles, self.rng)
        order = self.rng.permutation(len(groups))
        return DataLoader(_TileDataset(self.tiles, [groups[i] for i in order]), batch_size=None)

    def val_dataloader(self) -> DataLoader | list:
        """One tile a step; an empty list where nothing is held out, as Lightning expects."""
        if self.validation is None:
            return []
        return DataLoader(_TileDataset(self.validation, self._groups(self.validation, None)), batch_size=None)

    def _groups(self, tiles: Tiles, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Contiguous groups; small sections share a tile."""
        packed: list[list[np.ndarray]] = []
        room = 0
        for group in contiguous_groups(tiles.section.spatial, tiles.section.sections, self.batch_size, rng):
            if len(group) > room:
                packed.append([])
                room = self.batch_size
            packed[-1].append(group)
            room -= len(group)
        return [np.concatenate(groups) for groups in packed]


class _TileDataset(Dataset):
    """Tiles made when they are asked for."""

    def __init__(self, tiles: Tiles, groups: list[np.ndarray], whole: dict[str, torch.Tensor] | None = None) -> None:
        self.tiles = tiles
        self.groups = groups
        self.whole = whole

    def __len__(self) -> int:
        return 1 if self.whole is not None else len(self.groups)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        return self.tiles.tile(self.groups[index]) if self.whole is None else self.whole
