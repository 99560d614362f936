"""Image features on disk, so that the same are never computed twice."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from dask.base import tokenize

from soscope_scverse.im.encoders.base import Encoder
from soscope_scverse.im.reading.source import ImageSource


class FeatureCache:
    """Features of one image by one encoder in a folder: one zarr array for each band of positions.

    A band is found by a hash of the package's version, the image, the encoder with its weights, the width of the
    patch and the positions. It is written beside its place and then moved there, so that an interrupted run leaves
    whole bands only, and the next one goes on from them.

    Parameters
    ----------
    folder
        Is made if it does not exist. Any number of images and encoders can share it.
    source, model, width
        As for :meth:`Encoder.encode`.
    """

    def __init__(self, folder: str | os.PathLike, source: ImageSource, model: Encoder, width: float) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = tokenize(version("soscope-scverse"), source.fingerprint(), model.fingerprint(), float(width))

    def get(self, centres: np.ndarray) -> tuple[np.ndarray, list[str]] | None:
        """Features of these positions, if they are known.

        Parameters
        ----------
        centres
            n_targets x 2 positions (x, y) in pixels of the image.

        Returns
        -------
        tuple or None
            Features (n_targets x n_image_features) and their names; None if they are not known.
        """
        path = self._path(centres)
        if not path.exists():
            return None
        stored: Any = zarr.open_array(path, mode="r")
        return np.asarray(stored[:]), list(stored.attrs["names"])

    def put(self, centres: np.ndarray, features: np.ndarray, names: list[str]) -> None:
        """Keep the features of these positions.

        Parameters
        ----------
        centres
            n_targets x 2 positions (x, y) in pixels of the image.
        features, names
            n_targets x n_image_features, and the names of the features.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        path = self._path(centres)
        unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            zarr.create_array(unfinished, data=features, attributes={"names": list(names)})
            unfinished.rename(path)
        except OSError:
            if not path.exists():  # Else another run was faster, with the same features.
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _path(self, centres: np.ndarray) -> Path:
        return self.folder / f"{tokenize(self._key, np.ascontiguousarray(centres))}.zarr"
