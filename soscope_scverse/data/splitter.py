"""Hands tiles to Lightning."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from soscope_scverse.data.tiles import Tiles, contiguous_groups


class HeldOut(NamedTuple):
    """Molecules that are held out of the profiles, to be scored."""

    x: np.ndarray
    """n_spots x n_features."""
    odds: float
    """Of a molecule to be held out."""


class TileDataModule(pl.LightningDataModule):
    """Tiles to train on, cut anew every epoch, and tiles to validate on.

    Parameters
    ----------
    tiles
        The section.
    batch_size
        Most spots of a tile.
    held_out
        What validation scores; None scores nothing.
    seed
        Of the borders between tiles and of their order.
    """

    def __init__(self, tiles: Tiles, batch_size: int, held_out: HeldOut | None, seed: int) -> None:
        super().__init__()
        self.tiles = tiles
        self.held_out = held_out
        self.batch_size = batch_size
        self.rng = np.random.default_rng(seed)
        self.n_batches = len(self._groups(None))
        self.n_train = tiles.n_spots
        self.n_val = 0 if held_out is None else tiles.n_spots
        self._whole = [tiles.tile()] if self.n_batches == 1 else None

    def without_validation(self) -> TileDataModule:
        """The same tiles, nothing to score."""
        data = copy.copy(self)
        data.held_out, data.n_val = None, 0
        return data

    def train_dataloader(self) -> DataLoader:
        """One tile a step."""
        if self._whole is not None:
            # a list is all that a map-style data set needs to be
            return DataLoader(cast("Dataset", self._whole), batch_size=None)
        groups = self._groups(self.rng)
        order = self.rng.permutation(len(groups))
        return DataLoader(_TileDataset(self.tiles, [groups[i] for i in order]), batch_size=None)

    def val_dataloader(self) -> DataLoader | list:
        """One tile a step; an empty list where nothing is held out, as Lightning expects."""
        if self.held_out is None:
            return []
        return DataLoader(_TileDataset(self.tiles, self._groups(None), self.held_out), batch_size=None)

    def _groups(self, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Contiguous groups; small sections share a tile."""
        packed: list[list[np.ndarray]] = []
        room = 0
        section = self.tiles.section
        for group in contiguous_groups(section.spatial, section.sections, self.batch_size, rng):
            if len(group) > room:
                packed.append([])
                room = self.batch_size
            packed[-1].append(group)
            room -= len(group)
        return [np.concatenate(groups) for groups in packed]


class _TileDataset(Dataset):
    """Tiles made when they are asked for; those to be scored have ``x_held_out`` and ``held_out_odds``."""

    def __init__(self, tiles: Tiles, groups: list[np.ndarray], held_out: HeldOut | None = None) -> None:
        self.tiles = tiles
        self.groups = groups
        self.held_out = held_out

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        own = np.sort(self.groups[index])
        tile = self.tiles.tile(own)
        if self.held_out is not None:
            tile["x_held_out"] = torch.as_tensor(self.held_out.x[own], dtype=torch.float32)
            tile["held_out_odds"] = torch.tensor(self.held_out.odds)
        return tile
