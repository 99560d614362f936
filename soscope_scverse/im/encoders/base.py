"""What an image encoder is, and encoders of whole patches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import numpy as np
from dask.base import tokenize

from soscope_scverse.im.reading.source import ImageSource

PatchFunction: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""uint8 patches (n_patches x height x width x 3) to features (n_patches x n_image_features)."""

PATCH_IN_PITCHES = 4
"""Default width of a patch in centre-to-centre distances of the subspots."""
_Item = TypeVar("_Item")
_SQUARE_PIXELS = 4096


class Encoder(ABC):
    """Computes image features of the tissue around positions."""

    name: str
    needs_colour: bool = False
    """Whether it was trained on colour images: a greyscale image then raises a warning."""

    @property
    def pixels(self) -> float:
        """Width of a patch in pixels that suffices; default: infinite, the full resolution.

        Of an image pyramid the coarsest level is read on which patches are at least as wide.
        """
        return float("inf")

    def level(self, source: ImageSource, width: float) -> ImageSource:
        """Return the level of an image pyramid to read; default: the coarsest with at least ``pixels`` in a patch.

        Parameters
        ----------
        source
            The image.
        width
            Width of the patch in pixels of the image.

        Returns
        -------
        ImageSource
            The level, or the image itself.
        """
        return source.coarsened(width / self.pixels)

    def at_resolution(self, microns: float | None) -> Encoder:
        """Return the encoder for images of this resolution; called once, before anything is encoded.

        Parameters
        ----------
        microns
            Width in micrometres of the pixels of the image, the largest of all sections; None if one is not known.

        Returns
        -------
        Encoder
            The encoder itself, or one whose features differ.
        """
        return self

    @abstractmethod
    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Compute the features of the square patch around every position.

        Parameters
        ----------
        source
            The image.
        centres
            n_targets x 2 positions (x, y) in pixels of the image; pixel i covers i to i + 1.
        width
            Width of the patch in pixels of the image.

        Returns
        -------
        tuple
            Features (n_targets x n_image_features float32, finite) and their names.
        """

    def anchored(self, origin: np.ndarray) -> Encoder:
        """Return the encoder for a section that is encoded in parts, so that the parts agree.

        Parameters
        ----------
        origin
            Minimum x and y of all positions of the section, rounded down to integers.

        Returns
        -------
        Encoder
            The encoder itself, or, if it computes features on a grid, one whose grid starts at ``origin``.
        """
        return self

    def record(self) -> dict[str, Any]:
        """Return what is recorded of the encoder beside its name, in types that files can hold.

        Returns
        -------
        dict
            By default nothing. What is named like an option of the encoder is passed to it again by
            :func:`features_at`.
        """
        return {}

    def dense(self) -> Encoder:
        """Return the encoder that averages a feature map, for ``im.features(mode="dense")``.

        Returns
        -------
        Encoder
            A :class:`DenseEncoder` of this one.

        Raises
        ------
        ValueError
            If the encoder has no convolutional feature map.
        """
        msg = (
            f"Expected an encoder with a convolutional feature map for `mode='dense'`, found {self.name!r}. Those are "
            "'timm:NAME' with `layers`, 'inception_v3' and a `torch.nn.Module` that returns n x n_image_features x h x "
            "w. Use one of them, or `mode='patch'`."
        )
        raise ValueError(msg)

    def fingerprint(self) -> str:
        """Return a hash that identifies the encoder and its parameters, for a cache on disk.

        Returns
        -------
        str
            By default the hash of the class and the attributes of the encoder.
        """
        return tokenize(type(self).__module__, type(self).__qualname__, self.name, vars(self))


class PatchEncoder(Encoder):
    """Features of whole patches, one row for each; patches are mirrored at the border of the image.

    Parameters
    ----------
    batch_size
        Number of patches that are described at once.

    Raises
    ------
    ValueError
        If ``batch_size`` is not positive.
    """

    def __init__(self, batch_size: int = 64) -> None:
        if batch_size < 1:
            msg = f"Expected a `batch_size` of at least 1, found {batch_size}. Pass the number of patches of a batch."
            raise ValueError(msg)
        self.batch_size = batch_size

    @abstractmethod
    def describe(self, patches: np.ndarray) -> np.ndarray:
        """Compute the features of prepared patches.

        Parameters
        ----------
        patches
            n_patches x height x width x 3, uint8, as :meth:`prepare` returns them.

        Returns
        -------
        numpy.ndarray
            n_patches x n_image_features, finite.
        """

    def prepare(self, patch: np.ndarray) -> np.ndarray:
        """Prepare a patch for :meth:`describe`; by default it is unchanged.

        Parameters
        ----------
        patch
            size x size x 3, uint8, RGB; ``size`` is the width of the patch in pixels of the image.

        Returns
        -------
        numpy.ndarray
            The prepared patch, of the same shape for all patches.
        """
        return patch

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Read the patches and describe them in batches; see :meth:`Encoder.encode`.

        Raises
        ------
        ValueError
            If :meth:`describe` does not return one row of finite numbers for each patch.
        """
        size = max(1, round(width))
        corners = np.rint(centres - size / 2).astype(int)
        order, encoded = [], []
        for indices, patches in _ahead(self._batches(source, corners, size)):
            order.extend(indices)
            encoded.append(self._described(patches))
        features = np.concatenate(encoded)
        features[order] = features.copy()
        return features, [f"{self.name}_{i}" for i in range(features.shape[1])]

    def _batches(self, source: ImageSource, corners: np.ndarray, size: int) -> Iterator[tuple[list[int], np.ndarray]]:
        patches = read_patches(source, corners, size)
        while batch := [(index, self.prepare(patch)) for index, patch in islice(patches, self.batch_size)]:
            yield [index for index, _ in batch], np.stack([patch for _, patch in batch])

    def _described(self, patches: np.ndarray) -> np.ndarray:
        features = np.asarray(self.describe(patches), dtype=np.float32)
        if features.ndim != 2 or len(features) != len(patches) or not np.isfinite(features).all():
            msg = (
                f"Expected encoder {self.name!r} to return {len(patches)} rows of finite features for patches of shape "
                f"{patches.shape}, found shape {features.shape} with {(~np.isfinite(features)).sum()} values not "
                "finite."
            )
            raise ValueError(msg)
        return features


class FunctionEncoder(PatchEncoder):
    """Features of whole patches, computed by a function.

    Parameters
    ----------
    function
        Maps uint8 RGB patches (n_patches x size x size x 3) to n_patches x n_image_features; ``size`` is the width of
        the patch in pixels, rounded, the same for all patches of a section.
    batch_size
        Number of patches that are passed to the function at once.
    """

    def __init__(self, function: PatchFunction, *, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def describe(self, patches: np.ndarray) -> np.ndarray:
        """Call the function; see :meth:`PatchEncoder.describe`."""
        return self.function(patches)

    def fingerprint(self) -> str:
        """Raise an error; see :meth:`Encoder.fingerprint`.

        Raises
        ------
        ValueError
            Always, since an edited function of the same name cannot be detected.
        """
        msg = (
            f"Expected an encoder whose features can be cached, found the function {self.name!r}, which may change "
            "unnoticed. Omit `cache`, or derive from `im.PatchEncoder` with a `fingerprint`."
        )
        raise ValueError(msg)


def read_patches(source: ImageSource, corners: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, patch) square by square of the image, so that overlapping patches are read about once."""
    _, square = np.unique(corners // max(size, _SQUARE_PIXELS), axis=0, return_inverse=True)
    for members in np.split(np.argsort(square.ravel(), kind="stable"), np.cumsum(np.bincount(square.ravel()))[:-1]):
        (x0, y0), (x1, y1) = corners[members].min(axis=0), corners[members].max(axis=0) + size
        overlapping = (x1 - x0) * (y1 - y0) <= len(members) * size**2
        block = source.read(y0, y1, x0, x1) if overlapping else None
        for index, (x, y) in zip(members, corners[members], strict=True):
            if block is None:
                yield index, source.read(y, y + size, x, x + size)
            else:
                yield index, block[y - y0 : y - y0 + size, x - x0 : x - x0 + size]


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield the items, each computed in a thread while the previous one is in use: files are read during inference."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item
