"""Hands tiles to Lightning."""

from __future__ import annotations

from typing import cast

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset


class TileDataModule(pl.LightningDataModule):
    """Tiles to train on and, optionally, to validate on.

    Parameters
    ----------
    train, validation
        Batches as :func:`~soscope_scverse.data.tiles.full_tile` makes them.
    """

    def __init__(self, train: list[dict[str, torch.Tensor]], validation: list[dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.n_train = sum(len(tile["x"]) for tile in train)
        self.n_val = sum(len(tile["x"]) for tile in validation)

    def train_dataloader(self) -> DataLoader:
        """One tile a step."""
        return _loader(self.train)

    def val_dataloader(self) -> DataLoader | list:
        """One tile a step; an empty list where nothing is held out, as Lightning expects."""
        return _loader(self.validation) if self.validation else []


def _loader(tiles: list[dict[str, torch.Tensor]]) -> DataLoader:
    # a list is all that a map-style data set needs to be
    return DataLoader(cast("Dataset", tiles), batch_size=None)
