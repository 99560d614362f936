"""Cache of image features on disk."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dask.base import tokenize

from soscope_scverse._files import completed
from soscope_scverse.im.encoders.base import Encoder
from soscope_scverse.im.reading.source import ImageSource


class FeatureCache:
    """Cache of the features of one image by one encoder: a folder with one zarr array for each band of positions.

    A band is identified by a hash of the package version, the image, the encoder with its weights, the width of the
    patch and the positions. Bands are written atomically, so an interrupted run leaves complete bands only and can be
    resumed.

    Parameters
    ----------
    folder
        The folder, created if it does not exist. It can be shared by several images and encoders.
    source
        The image.
    model
        The encoder.
    width
        Width of the patch in pixels of the image.
    """

    def __init__(self, folder: str | os.PathLike, source: ImageSource, model: Encoder, width: float) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = tokenize(version("soscope-scverse"), source.fingerprint(), model.fingerprint(), float(width))

    def get(self, centres: np.ndarray) -> tuple[np.ndarray, list[str]] | None:
        """Return the cached features of these positions.

        Parameters
        ----------
        centres
            n_targets x 2 positions (x, y) in pixels of the image.

        Returns
        -------
        tuple or None
            Features (n_targets x n_image_features) and their names; None if they are not in the cache.
        """
        path = self._path(centres)
        if not path.exists():
            return None
        stored: Any = zarr.open_array(path, mode="r")
        return np.asarray(stored[:]), list(stored.attrs["names"])

    def put(self, centres: np.ndarray, features: np.ndarray, names: list[str]) -> None:
        """Write the features of these positions to the cache.

        Parameters
        ----------
        centres
            n_targets x 2 positions (x, y) in pixels of the image.
        features
            n_targets x n_image_features.
        names
            Names of the features.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        with completed(self._path(centres), replace=False) as part:  # a concurrent run writes the same features
            zarr.create_array(part, data=features, attributes={"names": list(names)})

    def _path(self, centres: np.ndarray) -> Path:
        return self.folder / f"{tokenize(self._key, np.ascontiguousarray(centres))}.zarr"
