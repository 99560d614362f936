"""Image encoders by name; "texture" needs no weights."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import numpy as np
from dask.base import tokenize
from scipy.ndimage import map_coordinates, uniform_filter
from skimage.color import hed_from_rgb

from soscope_scverse import _validation as validation
from soscope_scverse.im.reading.source import ImageSource

TileFunction: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""uint8 tiles (n_tiles x height x width x 3) to features (n_tiles x n_image_features)."""

_Item = TypeVar("_Item")
_AnyEncoder = TypeVar("_AnyEncoder", bound="Encoder")
_SQUARE_PIXELS = 4096
_RESERVED = ("noise", "precomputed")
_TIMM = "timm:"


class Encoder(ABC):
    """Turns the tissue around positions of an image into features."""

    name: str
    needs_colour: bool = False
    """Whether it was made for images in colour, so that grey ones are worth a warning."""

    @property
    def pixels(self) -> float:
        """Pixels across the patch that suffice: of a pyramid a coarser level is read. Default: as many as there are."""
        return float("inf")

    @abstractmethod
    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Describe the square patch around every position.

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
        """Return the encoder for parts of a section, which are encoded one by one and must fit together.

        Parameters
        ----------
        origin
            The least x and y of all positions of the section, rounded down to whole pixels.

        Returns
        -------
        Encoder
            The encoder itself, unless it lays a grid over the image: then one whose grid starts at ``origin``.
        """
        return self

    def dense(self) -> Encoder:
        """Return the encoder that averages a feature map, for ``im.features(mode="dense")``.

        Returns
        -------
        Encoder
            A :class:`DenseEncoder` of this one.

        Raises
        ------
        ValueError
            If the encoder has no convolutional map of features.
        """
        msg = (
            f"Expected an encoder with a convolutional feature map for `mode='dense'`, found {self.name!r}. Those are "
            "'inception_v3' and a `torch.nn.Module` that returns n x n_image_features x h x w. Use one of them, or "
            "`mode='patch'`."
        )
        raise ValueError(msg)

    def fingerprint(self) -> str:
        """Return a hash that tells the features of this encoder from those of others, for a cache on disk.

        Returns
        -------
        str
            By default the hash of the class and the attributes of the encoder.
        """
        return tokenize(type(self).__module__, type(self).__qualname__, self.name, vars(self))


_ENCODERS: dict[str, Callable[..., Encoder]] = {}


def register_encoder(name: str) -> Callable[[type[_AnyEncoder]], type[_AnyEncoder]]:
    """Class decorator that makes an :class:`Encoder` available as ``encoder=name``.

    It is made with those of the arguments ``weights``, ``device`` and ``batch_size`` that the caller of
    :func:`features` gives, and need take none of them.

    Parameters
    ----------
    name
        A new name; it becomes the ``name`` of the class, too.

    Returns
    -------
    Callable
        The decorator, which returns the class.

    Raises
    ------
    TypeError, ValueError
        If the name is no string or taken, or what is decorated is no class of :class:`Encoder`.

    Examples
    --------
    >>> @register_encoder("mine")
    ... class Mine(Encoder): ...
    """
    validation.text("name", name)
    if name in _ENCODERS or name in _RESERVED or name.startswith(_TIMM):
        msg = f"Expected a new encoder name, found {name!r}, which is registered already. Choose another one."
        raise ValueError(msg)

    def register(cls: type[_AnyEncoder]) -> type[_AnyEncoder]:
        if not (isinstance(cls, type) and issubclass(cls, Encoder)):
            msg = f"Expected a class of `Encoder` to register as {name!r}, found {cls!r}. Pass functions as `encoder=`."
            raise TypeError(msg)
        cls.name = name
        _ENCODERS[name] = cls
        return cls

    return register


def encoder_names() -> list[str]:
    """Names of the registered encoders; "timm:NAME" is one for every name of timm.

    Returns
    -------
    list of str
        In alphabetical order.
    """
    return sorted(_ENCODERS)


def get_encoder(encoder: Any, **options: Any) -> Encoder:
    """Return the encoder of a name, a function of tiles, or a ``torch.nn.Module``.

    Parameters
    ----------
    encoder
        As for :func:`features`, without "precomputed".
    **options
        "weights", "device" and "batch_size" of encoders that have them; None is the encoder's own default.

    Returns
    -------
    Encoder
        The encoder; an :class:`Encoder` as it is.

    Raises
    ------
    ValueError
        If no encoder of that name is registered, or if it has no such option.
    TypeError
        If ``encoder`` is neither a name nor callable.
    """
    given = {name: value for name, value in options.items() if value is not None}
    make, arguments = _maker(encoder)
    known = inspect.signature(make).parameters
    if unknown := sorted(name for name in given if name not in known):
        msg = (
            f"Expected none of the options {unknown} with encoder {encoder!r}, which does not take them. Leave them "
            f"out, or choose another encoder."
        )
        raise ValueError(msg)
    return make(*arguments, **given)


def _maker(encoder: Any) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
    """What makes the encoder, and its first argument."""
    from soscope_scverse.im.encoders import networks  # It builds on this module.

    if isinstance(encoder, Encoder):
        return lambda: encoder, ()
    if isinstance(encoder, str):
        if encoder.startswith(_TIMM):
            return networks.TimmEncoder, (encoder.removeprefix(_TIMM),)
        if encoder not in _ENCODERS:
            msg = (
                f"Expected one of the encoders {encoder_names()}, found {encoder!r}. Use one of them, 'timm:NAME', or "
                "a function of uint8 tiles (n_tiles x height x width x 3) that returns n_tiles x n_image_features."
            )
            raise ValueError(msg)
        return _ENCODERS[encoder], ()
    if "torch" in sys.modules and isinstance(encoder, sys.modules["torch"].nn.Module):
        return networks.ModuleEncoder, (encoder,)
    if callable(encoder):
        return FunctionEncoder, (encoder,)
    msg = f"Expected the name of an encoder ({encoder_names()}) or a function of tiles, found {type(encoder).__name__}."
    raise TypeError(msg)


class PatchEncoder(Encoder):
    """Features of whole patches, cut as tiles; tiles are mirrored at the border of the image.

    Parameters
    ----------
    batch_size
        Tiles that are described at once.

    Raises
    ------
    ValueError
        If ``batch_size`` is not positive.
    """

    def __init__(self, batch_size: int = 64) -> None:
        if batch_size < 1:
            msg = f"Expected a `batch_size` of at least 1, found {batch_size}. Pass the number of tiles of a batch."
            raise ValueError(msg)
        self.batch_size = batch_size

    @abstractmethod
    def describe(self, tiles: np.ndarray) -> np.ndarray:
        """Describe prepared tiles.

        Parameters
        ----------
        tiles
            n_tiles x height x width x 3, uint8, as :meth:`prepare` returns them.

        Returns
        -------
        numpy.ndarray
            n_tiles x n_image_features, finite.
        """

    def prepare(self, tile: np.ndarray) -> np.ndarray:
        """Make a tile ready for :meth:`describe`; by default it is left as it is.

        Parameters
        ----------
        tile
            size x size x 3, uint8, RGB, as wide as the patch in pixels of the image.

        Returns
        -------
        numpy.ndarray
            The tile, of the same shape for all tiles.
        """
        return tile

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Cut the tiles and describe them in batches; see :meth:`Encoder.encode`.

        Raises
        ------
        ValueError
            If :meth:`describe` returns something else than one row of finite numbers for each tile.
        """
        size = max(1, round(width))
        corners = np.rint(centres - size / 2).astype(int)
        order, encoded = [], []
        for indices, tiles in _ahead(self._batches(source, corners, size)):
            order.extend(indices)
            encoded.append(self._described(tiles))
        features = np.concatenate(encoded)
        features[order] = features.copy()
        return features, [f"{self.name}_{i}" for i in range(features.shape[1])]

    def _batches(self, source: ImageSource, corners: np.ndarray, size: int) -> Iterator[tuple[list[int], np.ndarray]]:
        tiles = _tiles(source, corners, size)
        while batch := [(index, self.prepare(tile)) for index, tile in islice(tiles, self.batch_size)]:
            yield [index for index, _ in batch], np.stack([tile for _, tile in batch])

    def _described(self, tiles: np.ndarray) -> np.ndarray:
        features = np.asarray(self.describe(tiles), dtype=np.float32)
        if features.ndim != 2 or len(features) != len(tiles) or not np.isfinite(features).all():
            msg = (
                f"Expected encoder {self.name!r} to return {len(tiles)} rows of finite features for tiles of shape "
                f"{tiles.shape}, found shape {features.shape} with {(~np.isfinite(features)).sum()} values not finite."
            )
            raise ValueError(msg)
        return features


class FunctionEncoder(PatchEncoder):
    """Features of whole patches from a function of tiles.

    Parameters
    ----------
    function
        Maps uint8 RGB tiles (n_tiles x size x size x 3) to n_tiles x n_image_features; ``size`` is the width of the
        patch in whole pixels, the same for all tiles of a section. Tiles are mirrored at the border of the image.
    batch_size
        Tiles that are passed to the function at once.
    """

    def __init__(self, function: TileFunction, *, batch_size: int = 64) -> None:
        super().__init__(batch_size)
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def describe(self, tiles: np.ndarray) -> np.ndarray:
        """Call the function; see :meth:`PatchEncoder.describe`."""
        return self.function(tiles)

    def fingerprint(self) -> str:
        """Raise an error: see :meth:`Encoder.fingerprint`.

        Raises
        ------
        ValueError
            Always, since a function cannot be told from an edited one of the same name.
        """
        msg = (
            f"Expected an encoder whose features can be kept in a cache, found the function {self.name!r}, which may "
            "change unnoticed. Leave `cache` out, or derive from `im.PatchEncoder` with a `fingerprint`."
        )
        raise ValueError(msg)


def _tiles(source: ImageSource, corners: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, tile) square by square of the image, so that overlapping tiles are read about once."""
    _, square = np.unique(corners // max(size, _SQUARE_PIXELS), axis=0, return_inverse=True)
    for members in np.split(np.argsort(square.ravel(), kind="stable"), np.cumsum(np.bincount(square.ravel()))[:-1]):
        (x0, y0), (x1, y1) = corners[members].min(axis=0), corners[members].max(axis=0) + size
        dense = (x1 - x0) * (y1 - y0) <= len(members) * size**2
        block = source.read(y0, y1, x0, x1) if dense else None
        for index, (x, y) in zip(members, corners[members], strict=True):
            if block is None:
                yield index, source.read(y, y + size, x, x + size)
            else:
                yield index, block[y - y0 : y - y0 + size, x - x0 : x - x0 + size]


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """Yield the same items, each made while the one before is in use: files are read while a network runs."""
    with ThreadPoolExecutor(1) as thread:
        made = thread.submit(next, items, None)
        while (item := made.result()) is not None:
            made = thread.submit(next, items, None)
            yield item


_CHANNELS = ("red", "green", "blue", "haematoxylin", "eosin", "darkness")
_STAINS = (3, 5)
"""Haematoxylin and darkness, whose coarse texture is described."""
_WINDOWS = (0.125, 0.25, 0.5, 1.0)
"""Widths of the windows in widths of the patch: half a subspot to four subspots by default."""
_BLOCKS = 64
"""The patch is at least this many and less than twice as many blocks wide, where the image is fine enough."""
_COARSE = (1, 5)
"""Smoothing in blocks before the coarse gradients."""
_MARGIN = 4
"""Blocks around the windows, so that smoothing and gradients never see the end of what was read."""
_STEP = 1 / 255
"""One grey level: smaller deviations are rounding."""
_READ_PIXELS = 2**25
_WORK_PIXELS = 2**20
_BAND_BLOCKS = 2**22

# Beer-Lambert: optical densities of red, green and blue to haematoxylin, eosin and mean density.
_OPTICAL_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
_UNMIX = np.column_stack([hed_from_rgb[:, :2], np.full(3, 1 / 3)]).astype(np.float32)


@register_encoder("texture")
class Texture(Encoder):
    """Colour, stain and texture statistics in four windows, without weights.

    In square windows of 1/8, 1/4, 1/2 and all of the patch around a position: mean and standard deviation of red,
    green, blue (0 to 1), haematoxylin, eosin (colour deconvolution of Ruifrok and Johnston, 2001) and darkness (mean
    optical density); mean gradient of the darkness between pixels; mean gradients and standard deviation of
    haematoxylin and darkness over blocks of pixels. 76 features, not standardised.

    The image is read once. Statistics of single pixels are averaged over blocks of 1/64 to 1/128 patch (never less
    than a pixel), and windows are exact sums of blocks from summed-area tables. The grid of blocks starts at the
    positions, not at the corner of the image, so a shift of both by whole pixels changes nothing.
    """

    def __init__(self, origin: np.ndarray | None = None) -> None:
        self._origin = origin

    @property
    def pixels(self) -> float:
        """Four across the coarsest blocks; see :attr:`Encoder.pixels`."""
        return 4 * _BLOCKS

    def anchored(self, origin: np.ndarray) -> Texture:
        """Return the encoder whose blocks start at ``origin``; see :meth:`Encoder.anchored`."""
        return Texture(origin)

    def encode(self, source: ImageSource, centres: np.ndarray, width: float) -> tuple[np.ndarray, list[str]]:
        """Compute the statistics for every position; see :meth:`Encoder.encode`."""
        block = max(1, int(width // _BLOCKS))
        origin = np.floor(centres.min(axis=0) if self._origin is None else self._origin).astype(int)
        positions, reach = (centres - origin) / block, width / block / 2 + _MARGIN
        n_columns = int(positions[:, 0].max() + 2 * reach) + 2
        bands = positions[:, 1] // max(2 * reach, _BAND_BLOCKS // n_columns)
        features = np.empty((len(centres), len(_feature_names())), dtype=np.float32)
        for band in np.unique(bands):
            members = bands == band
            start = np.floor(positions[members].min(axis=0) - reach).astype(int)
            stop = np.ceil(positions[members].max(axis=0) + reach).astype(int)
            maps = _block_maps(source, origin + start * block, stop - start, block)
            features[members] = _window_statistics(maps, positions[members] - start, width / block)
        return features, _feature_names()


def _feature_names() -> list[str]:
    textures = [f"{_CHANNELS[c]}_edges{size}" for c in _STAINS for size in _COARSE]
    statistics = [
        *(f"{name}_mean" for name in _CHANNELS),
        *(f"{name}_std" for name in _CHANNELS),
        "darkness_edges0",
        *(f"{_CHANNELS[c]}_coarse_std" for c in _STAINS),
        *textures,
    ]
    return [f"{statistic}_{window:g}" for window in _WINDOWS for statistic in statistics]


def _block_maps(source: ImageSource, corner: np.ndarray, shape: np.ndarray, block: int) -> np.ndarray:
    """Block means of the six channels, of their squares and of the darkness gradient: 13 x rows x columns."""
    n_columns, n_rows = (int(n) for n in shape)
    maps = np.empty((2 * len(_CHANNELS) + 1, n_rows, n_columns), dtype=np.float32)
    for row, pixels in _strips(source, corner, n_rows, n_columns, block):
        channels = _channels(pixels)
        darkness = channels[..., -1]
        edges = _length(np.diff(darkness, axis=1)[:-1], np.diff(darkness, axis=0)[:, :-1])
        channels = channels[:-1, :-1]
        rows = slice(row, row + len(channels) // block)
        maps[:6, rows] = _block_mean(channels, block)
        maps[6:12, rows] = _block_mean(np.square(channels), block)
        maps[12:, rows] = _block_mean(edges[..., None], block)
    return maps


def _strips(
    source: ImageSource, corner: np.ndarray, n_rows: int, n_columns: int, block: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the image as (first row of blocks, pixels with one more row and column for the gradient).

    Large pieces are read, so that the chunks of a file are decoded about once, and small ones handed out, so that
    their floats stay small.
    """
    x, y = (int(c) for c in corner)
    width = n_columns * block + 1
    per_work = max(1, _WORK_PIXELS // (width * block))
    per_read = per_work * max(1, _READ_PIXELS // (width * block * per_work))
    for first in range(0, n_rows, per_read):
        last = min(first + per_read, n_rows)
        pixels = source.read(y + first * block, y + last * block + 1, x, x + width)
        for row in range(first, last, per_work):
            top, bottom = (row - first) * block, (min(row + per_work, last) - first) * block + 1
            yield row, pixels[top:bottom]


def _channels(pixels: np.ndarray) -> np.ndarray:
    channels = np.empty((*pixels.shape[:2], len(_CHANNELS)), dtype=np.float32)
    np.multiply(pixels, np.float32(_STEP), out=channels[..., :3])
    channels[..., 3:] = _OPTICAL_DENSITY[pixels] @ _UNMIX
    return channels


def _block_mean(pixels: np.ndarray, block: int) -> np.ndarray:
    """Pixels (rows x columns x channels) to channels x rows of blocks x columns of blocks."""
    height, width, n_channels = pixels.shape
    rows = np.ascontiguousarray(pixels).reshape(height // block, block, width * n_channels).sum(axis=1)
    sums = rows.reshape(height // block, width // block, block, n_channels).sum(axis=2)
    return np.moveaxis(sums, 2, 0) / np.float32(block**2)


def _window_statistics(maps: np.ndarray, positions: np.ndarray, width: float) -> np.ndarray:
    """Features (n_targets x n_image_features) of positions (x, y) and a patch width in blocks."""
    coarse = [maps[c] for c in _STAINS]
    gradients = [_gradient(uniform_filter(channel, size)) for channel in coarse for size in _COARSE]
    fields = [*maps, *(np.square(channel) for channel in coarse), *gradients]
    # n_fields x n_windows x n_targets
    means = np.stack([_window_means(field, positions, width) for field in fields])
    colour, squares, edges = means[:6], means[6:12], means[12:13]
    deviations = _deviation(squares, colour)
    coarse_deviations = _deviation(means[13:15], colour[list(_STAINS)])
    statistics = np.concatenate([colour, deviations, edges, coarse_deviations, means[15:]])
    return statistics.transpose(2, 1, 0).reshape(len(positions), -1)


def _gradient(field: np.ndarray) -> np.ndarray:
    return _length(*np.gradient(field))


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(x) + np.square(y))  # np.hypot guards against overflow and is ten times slower.


def _deviation(mean_square: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(mean_square - np.square(mean) - _STEP**2, 0))


def _window_means(field: np.ndarray, positions: np.ndarray, width: float) -> np.ndarray:
    """Means of the square windows around the positions, n_windows x n_targets, from one summed-area table."""
    table = np.zeros((field.shape[0] + 1, field.shape[1] + 1))
    np.cumsum(field, axis=0, dtype=float, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])

    def upto(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # Linear between the corners of blocks: the table of an image that is constant in each block.
        return map_coordinates(table, [y, x], order=1)

    sizes = width * np.array(_WINDOWS)[:, None]
    (x0, y0), (x1, y1) = ((positions.T[:, None] + sign * sizes / 2) for sign in (-1, 1))
    return (upto(x1, y1) - upto(x0, y1) - upto(x1, y0) + upto(x0, y0)) / sizes**2
