"""One lazy reader for every kind of picture: arrays, files, squidpy containers and SpatialData elements."""

from __future__ import annotations

import math
import os
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tifffile
import zarr
from anndata import AnnData
from dask.array import Array, from_array
from dask.base import tokenize
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from skimage.color import lab2rgb, rgb2lab
from skimage.transform import AffineTransform, warp

from soscope_scverse import _validation as validation
from soscope_scverse._files import file_state
from soscope_scverse._spatialdata import opens_spatialdata
from soscope_scverse.im import slides

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STRIP_PIXELS = 8_000_000
_TIFF_COLOURS = ("MINISBLACK", "RGB", "YCBCR")
_SAMPLES = 16
"""Parts along each axis that tell the range of a channel, so many pixels wide and high:"""
_SAMPLE_PIXELS = 256
_MICRONS = {"µm": 1.0, "nm": 1e-3, "mm": 1e3}
_MOST_COMPRESSED = 2000
"""Bytes of pixels in a byte of a PNG or JPEG file, at most: one holds 1,032 of deflate, or six blocks of JPEG."""
_STRETCH = (0.001, 0.999)

Stretch: TypeAlias = tuple[int, float, float]
"""Channel, and its values that are shown as black and white."""


@dataclass(frozen=True)
class Recolouring:
    """Colours of CIELAB times ``factor`` plus ``shift``, channel by channel."""

    factor: tuple[float, ...]
    shift: tuple[float, ...]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Recolour height x width x 3 uint8."""
        factor, shift = (np.array(values, dtype=np.float32) for values in (self.factor, self.shift))
        colours = rgb2lab(pixels.astype(np.float32) / 255) * factor + shift
        # No colour is yellower: skimage warns of negative blue light, and cuts it off in the same way.
        colours[..., 2] = np.minimum(colours[..., 2], 200 / 116 * (colours[..., 0] + 16))
        return np.rint(lab2rgb(colours) * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A picture that is read piece by piece, as 8-bit RGB whatever it is stored as.

    Made by :func:`open_image`.

    Parameters
    ----------
    pixels
        Anything with ``shape``, ``dtype`` and slicing: numpy, dask or zarr array. uint8, uint16, bool or float in 0..1.
    axes
        The axes of ``pixels`` in their order: "y", "x" and, unless the picture is grey, "c".
    scale
        Full-resolution coordinates times ``scale``, plus ``offset``, are pixels of this picture.
    offset
        Pixel (x, y) of the picture at which full-resolution coordinates are 0; negative in a crop.
    levels
        The same picture at coarser resolutions, finest first, each as ``pixels``.
    stretches
        Of a fluorescence picture, for the one to three channels to show: the channel, and the values that become black
        and white. Any data type will do then.
    microns
        Width of a pixel of this picture in micrometres, None if it is not known.
    recolouring
        Change of the colours as they are read, see :func:`normalize_stain`.
    turn
        2 x 2 matrix of determinant 1 or -1 that coordinates are multiplied with before ``scale``, of a picture that is
        rotated, mirrored or sheared against them. Patches lie along the axes of the picture.
    """

    pixels: Any
    axes: str
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    levels: tuple[Any, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    microns: float | None = None
    recolouring: Recolouring | None = None
    turn: np.ndarray | None = None

    @property
    def height(self) -> int:
        """Number of pixel rows."""
        return int(self.pixels.shape[self.axes.index("y")])

    @property
    def width(self) -> int:
        """Number of pixel columns."""
        return int(self.pixels.shape[self.axes.index("x")])

    @property
    def n_channels(self) -> int:
        """Channels as stored: 1 (grey), 3 (RGB) or 4 (RGBA), any number in fluorescence."""
        return int(self.pixels.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def is_grey(self) -> bool:
        """Whether it is stored, or shown, in one channel."""
        return (len(self.stretches) or self.n_channels) == 1

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """Positions in pixels of this picture.

        Parameters
        ----------
        xy
            n x 2 full-resolution coordinates.

        Returns
        -------
        numpy.ndarray
            n x 2 pixels.
        """
        turned = xy if self.turn is None else xy @ self.turn.T
        return turned * self.scale + np.asarray(self.offset)

    @property
    def matrix(self) -> np.ndarray:
        """3 x 3 matrix that takes (x, y, 1) of full-resolution coordinates to pixels."""
        linear = self.scale * (np.eye(2) if self.turn is None else self.turn)
        return np.block([[linear, np.reshape(self.offset, (2, 1))], [np.zeros((1, 2)), np.ones((1, 1))]])

    @property
    def extent(self) -> np.ndarray:
        """Least and greatest (x, y) of the picture in full-resolution coordinates, 2 x 2."""
        corners = (
            np.array([[x, y, 1] for x in (0, self.width) for y in (0, self.height)]) @ np.linalg.inv(self.matrix).T
        )
        return np.stack([corners[:, :2].min(axis=0), corners[:, :2].max(axis=0)])

    def placed(self, matrix: np.ndarray) -> ImageSource:
        """Return the picture in another place.

        Parameters
        ----------
        matrix
            3 x 3, takes (x, y, 1) of full-resolution coordinates to pixels of the picture.

        Returns
        -------
        ImageSource
            The same pixels, placed by `matrix`.
        """
        linear, (x, y) = matrix[:2, :2], matrix[:2, 2]
        scale = math.sqrt(abs(np.linalg.det(linear)))
        upright = np.allclose(linear, scale * np.eye(2), atol=1e-4 * scale)
        turn = None if upright or not scale else linear / scale
        return replace(self, scale=scale, offset=(float(x), float(y)), turn=turn)

    def counted_from(self, origin: np.ndarray) -> ImageSource:
        """Return the picture in coordinates that begin elsewhere.

        Parameters
        ----------
        origin
            (x, y) in full-resolution coordinates where the new ones are 0.

        Returns
        -------
        ImageSource
            The same pixels; coordinates less `origin` are where the coordinates were.
        """
        shift = np.eye(3)
        shift[:2, 2] = origin
        return self.placed(self.matrix @ shift)

    def coarsened(self, factor: float) -> ImageSource:
        """Return the coarsest level of the picture that is fine enough.

        Parameters
        ----------
        factor
            How many times as wide as those of the picture its pixels may be.

        Returns
        -------
        ImageSource
            The level, or the picture itself.
        """
        size = max(self.height, self.width)
        for n, level in reversed(list(enumerate(self.levels, start=1))):
            coarse = replace(self, pixels=level, levels=self.levels[n:])
            ratio = _ratio(size, max(coarse.height, coarse.width))
            if ratio <= factor:
                x, y = self.offset
                microns = None if self.microns is None else self.microns * ratio
                return replace(coarse, scale=self.scale / ratio, offset=(x / ratio, y / ratio), microns=microns)
        return self

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read the pixel rows ``y0:y1`` and columns ``x0:x1`` as uint8 (y1 - y0) x (x1 - x0) x 3.

        Parts outside the picture are mirrored at its border, RGBA is laid over white, grey becomes three equal
        channels.

        Parameters
        ----------
        y0, y1, x0, x1
            First pixel row, and the one after the last; columns likewise.

        Returns
        -------
        numpy.ndarray
            (y1 - y0) x (x1 - x0) x 3, uint8.

        Raises
        ------
        ValueError
            If a float picture holds values outside 0..1 or NaN.
        """
        if 0 <= y0 and y1 <= self.height and 0 <= x0 and x1 <= self.width:
            return self._read_inside(y0, y1, x0, x1)
        rows, columns = _mirrored(y0, y1, self.height), _mirrored(x0, x1, self.width)
        top, left = rows.min(), columns.min()
        block = self._read_inside(top, rows.max() + 1, left, columns.max() + 1)
        return block[np.ix_(rows - top, columns - left)]

    def lazy_pixels(self) -> tuple[Array, tuple[str, ...]]:
        """Return the pixels as a dask array.

        Returns
        -------
        tuple
            The pixels as stored, with an axis for the channels, and the names of the axes in their order.
        """
        lazy = from_array(self.pixels) if not hasattr(self.pixels, "__dask_graph__") else self.pixels
        return (lazy, tuple(self.axes)) if "c" in self.axes else (lazy[None], ("c", *self.axes))

    def release(self) -> None:
        """Let go of decoded JPEG or PNG pixels; they are decoded again when next read."""
        if isinstance(self.pixels, _Decoded):
            self.pixels.release()

    def for_tasks(self) -> ImageSource:
        """Return the picture as the tasks of a cluster read it: dask arrays are computed in the task that asks.

        A file travels as its path, which all workers must reach; an array in memory travels as it is.

        Returns
        -------
        ImageSource
            The same picture without its coarser levels.
        """
        return replace(
            self, pixels=_InTask(self.pixels) if hasattr(self.pixels, "__dask_graph__") else self.pixels, levels=()
        )

    def fingerprint(self) -> str:
        """Return a hash that tells this picture from others: its pixels in memory, or its file with size and date.

        Of dask and zarr arrays it is what they are made of and a sample of their pixels.

        Returns
        -------
        str
            The hash.
        """
        told = [self.pixels, self.axes, self.stretches, self.recolouring]
        if not isinstance(self.pixels, np.ndarray | _Decoded | _Tiff | slides.SlideLevel):
            told.extend(self._sample(slice(None)))
        return tokenize(*told)

    def _sample(self, channels: slice) -> Iterator[np.ndarray]:
        """Yield parts of the picture that lie evenly over it, as stored."""
        step_y, step_x = (max(_SAMPLE_PIXELS, -(-n // _SAMPLES)) for n in (self.height, self.width))
        for y in range(0, self.height, step_y):
            for x in range(0, self.width, step_x):
                y1, x1 = min(y + _SAMPLE_PIXELS, self.height), min(x + _SAMPLE_PIXELS, self.width)
                yield self._stored(y, y1, x, x1, channels)

    def _read_inside(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        shown = self._shown(y0, y1, x0, x1)
        return shown if self.recolouring is None else self.recolouring(shown)

    def _shown(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read as 8-bit RGB, in the colours that are stored."""
        if not self.stretches:
            return _to_rgb(_to_uint8(self._stored(y0, y1, x0, x1, slice(None))))
        shown = np.zeros((y1 - y0, x1 - x0, 1 if len(self.stretches) == 1 else 3), dtype=np.uint8)
        for i, (channel, black, white) in enumerate(self.stretches):
            values = self._stored(y0, y1, x0, x1, slice(channel, channel + 1))[..., 0].astype(np.float32)
            shown[..., i] = np.rint(((values - black) / (white - black)).clip(0, 1) * 255)
        return _to_rgb(shown)

    def _stored(self, y0: int, y1: int, x0: int, x1: int, channels: slice) -> np.ndarray:
        """Rows x columns x channels as stored."""
        window = {"y": slice(y0, y1), "x": slice(x0, x1), "c": channels}
        block = np.asarray(self.pixels[tuple(window[axis] for axis in self.axes)])
        block = block.transpose([self.axes.index(axis) for axis in "yxc" if axis in self.axes])
        return block.reshape(y1 - y0, x1 - x0, -1)


@opens_spatialdata
def open_image(image: Any, *, scale: float | None = None, channels: Sequence[int] | None = None) -> ImageSource:
    """Open a picture of any supported kind; pixels are read when they are asked for.

    Parameters
    ----------
    image
        Array (numpy or dask; height x width, height x width x channels, or channels x height x width), xarray
        ``DataArray`` with dimensions "y" and "x", path of a JPEG, PNG or TIFF file (BigTIFF, OME-TIFF and SVS too; read
        lazily, and of a pyramid the level that suffices) or of a slide of MIRAX, Hamamatsu or DICOM (extra
        ``openslide``), squidpy ``ImageContainer`` (its first layer, with its scale
        and its place if it is a crop), SpatialData image element (with its levels, and its transformation to "global"
        if it has one), or an :class:`ImageSource`. Of a whole SpatialData the picture over the spots of a table, placed
        where these are in their own coordinates.
    scale
        Full-resolution coordinates times ``scale`` are pixels of the picture. Default: the scale and the place that
        the picture carries, 1 and the corner if it has none.
    channels
        Of a fluorescence picture: the numbers of the one to three channels to show, as grey, or as red, green and
        blue. Each is stretched so that 1 in 1,000 of its pixels are black and as many white, as told by parts of
        its coarsest level.
    table_key, image_key, shapes_key, coordinate_system
        Of a SpatialData, as of :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    ImageSource
        The opened picture; where a table annotates several elements of a SpatialData, a dict of them.

    Raises
    ------
    TypeError
        If ``image`` is none of the above.
    ValueError
        If the file is of another kind, the picture is not grey, RGB or RGBA of a supported data type, or it has no such
        channels.
    """
    validation.given(open_image, locals())
    source = _open(image, placed=scale is None)
    if channels is not None:
        source = _stretched(source, channels)
    if scale is not None:
        source = replace(source, scale=float(scale), offset=(0.0, 0.0), turn=None)
    _check(source)
    return source


def thumbnail(source: ImageSource, size: int = 1000) -> tuple[np.ndarray, float]:
    """Shrink a picture by an integer factor, strip by strip.

    Parameters
    ----------
    source
        Opened picture.
    size
        Longest side of the result in pixels, at most.

    Returns
    -------
    tuple
        The small picture, height x width x 3 uint8, and the factor from full-resolution coordinates to its pixels. A
        picture that is turned against the coordinates is turned back, over white.

    Raises
    ------
    TypeError, ValueError
        If `source` is no opened picture, or `size` is below 1.
    """
    validation.given(thumbnail, locals())
    if not isinstance(source, ImageSource):
        msg = f"Expected a picture opened by `im.open_image`, found {type(source).__name__}."
        raise TypeError(msg)
    if source.turn is not None:
        return _turned_back(source, size)
    source = source.coarsened(max(source.height, source.width) / size)
    # The thumbnail begins where coordinates do, since plots know a scale and no place.
    x, y = (round(shift) for shift in source.offset)
    stop_x, stop_y = source.width - x, source.height - y
    step = -(-max(stop_x, stop_y) // size)
    height, width = stop_y // step, stop_x // step
    small = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // (width * step * step))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        block = _read_over_white(source, y + first * step, y + last * step, x, x + width * step)
        small[first:last] = block.reshape(last - first, step, width, step, 3).mean(axis=(1, 3))
    source.release()
    return small, source.scale / step


def _turned_back(source: ImageSource, size: int) -> tuple[np.ndarray, float]:
    """Thumbnail along the axes of the coordinates, of a picture that is turned against them."""
    small, shrunk = thumbnail(source.placed(np.eye(3)), size)
    to_small = np.diag([shrunk, shrunk, 1.0]) @ source.matrix
    extent = source.extent[1]  # it begins where coordinates do
    scale = min(size / extent.max(), source.scale * shrunk)
    columns, rows = np.ceil(extent * scale).astype(int)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from the middle of a pixel to its corner
    back = np.linalg.inv(half) @ to_small @ np.diag([1 / scale, 1 / scale, 1]) @ half
    turned = warp(small, AffineTransform(back), output_shape=(rows, columns), cval=255, preserve_range=True)
    return np.rint(turned).astype(np.uint8), scale


def _read_over_white(source: ImageSource, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    """Read pixels that may begin before the picture, which is white there."""
    block = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
    top, left = max(y0, 0), max(x0, 0)
    if top < y1 and left < x1:
        block[top - y0 :, left - x0 :] = source.read(top, y1, left, x1)
    return block


def embedded_image(adata: AnnData, library: str | None = None) -> tuple[np.ndarray, float] | None:
    """Return the picture stored in ``uns["spatial"][library]`` and its scale factor, "hires" before "lowres".

    Parameters
    ----------
    adata
        Annotated data with or without ``uns["spatial"]``.
    library
        Section; may be omitted where ``uns["spatial"]`` holds one.

    Returns
    -------
    tuple or None
        The picture and the factor from full-resolution coordinates to its pixels, or None without such a picture.

    Raises
    ------
    TypeError, ValueError
        If ``library`` is omitted and ``uns["spatial"]`` holds several.
    """
    libraries = validation.libraries(validation.spots(adata))
    if library is None and len(libraries) > 1:
        msg = (
            f"Expected one section in `adata.uns['spatial']`, found {sorted(libraries)}. Say which with `library_key`."
        )
        raise ValueError(msg)
    entry = library_entry(adata, library)
    for resolution in ("hires", "lowres"):
        picture = entry.get("images", {}).get(resolution)
        scale = entry.get("scalefactors", {}).get(f"tissue_{resolution}_scalef")
        if picture is not None and scale is not None:
            return picture, float(validation.numbers(f"`tissue_{resolution}_scalef`", scale))
    return None


def library_entry(adata: AnnData, library: str | None = None) -> Mapping[str, Any]:
    """Return ``uns["spatial"][library]``; without ``library`` that of the only section, {} if there is none."""
    libraries = validation.libraries(adata)
    if library is None and len(libraries) == 1:
        (library,) = libraries
    return {} if library is None else libraries.get(library, {})


def _open(image: Any, *, placed: bool) -> ImageSource:
    """Open a picture, with the place that a SpatialData element has if it is to be ``placed``."""
    if isinstance(image, ImageSource):
        return image
    if isinstance(image, str | os.PathLike):
        return _open_file(Path(image))
    # Other libraries' types are told by what they offer, so that none of these libraries needs to be imported.
    if type(image).__name__ == "ImageContainer":
        return _open_container(image)
    if "scale0" in getattr(image, "children", ()):
        levels = [next(iter(level.data_vars.values())) for level in image.children.values()]
        return _open_xarray(levels[0], levels[1:], placed=placed)
    if hasattr(image, "dims") and hasattr(image, "data"):
        return _open_xarray(image, placed=placed)
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        return ImageSource(image, _guess_axes(tuple(image.shape)))
    msg = (
        "Expected a picture as array, xarray.DataArray, path, squidpy ImageContainer or SpatialData image element "
        f"(`sdata.images[...]`), found {type(image).__name__}."
    )
    raise TypeError(msg)


def _check(source: ImageSource) -> None:
    shape, dtype = tuple(source.pixels.shape), np.dtype(source.pixels.dtype)
    if 0 in shape or (source.n_channels not in (1, 3, 4) and not source.stretches):
        msg = (
            f"Expected a grey (1 channel), RGB (3) or RGBA (4) picture, found shape {shape} with axes "
            f"{tuple(source.axes)}: {source.n_channels} channels. Select the channels to use first, of a fluorescence "
            "picture with `im.open_image(..., channels=[0])`."
        )
        raise ValueError(msg)
    if dtype not in (np.uint8, np.uint16, np.bool_) and dtype.kind != "f" and not source.stretches:
        msg = f"Expected a picture of uint8, uint16 or float in 0..1, found {dtype}. Convert it to uint8 first."
        raise ValueError(msg)
    if not 0 < source.scale < np.inf:
        msg = f"Expected a positive scale from full-resolution coordinates to pixels, found {source.scale}."
        raise ValueError(msg)


def _stretched(source: ImageSource, channels: Sequence[int]) -> ImageSource:
    """The picture with these channels stretched over black to white."""
    channels = np.atleast_1d(np.asarray(channels)).tolist()
    if not 1 <= len(channels) <= 3 or not all(channel in range(source.n_channels) for channel in channels):
        msg = (
            f"Expected one to three of the channels 0 to {source.n_channels - 1} as `channels`, found "
            f"{channels}. Describe further ones in a second call."
        )
        raise ValueError(msg)
    coarsest = source.coarsened(np.inf)
    limits = tuple((channel, *_limits(coarsest, channel)) for channel in channels)
    source.release()
    return replace(source, stretches=limits)


def _limits(source: ImageSource, channel: int) -> tuple[float, float]:
    """The values of a channel that become black and white, from parts of the picture that lie evenly over it."""
    parts = [part.ravel() for part in source._sample(slice(channel, channel + 1))]
    black, white = (float(value) for value in np.quantile(np.concatenate(parts), _STRETCH))
    return black, white if white > black else black + 1


def _guess_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        msg = f"Expected a picture of 2 or 3 dimensions, found shape {shape}. Select one plane first."
        raise ValueError(msg)
    # Channels come last unless they are known, or fewer, in front.
    first = shape[2] not in (1, 3, 4) and (shape[0] in (1, 3, 4) or shape[0] < shape[2])
    return "cyx" if first else "yxc"


def _open_xarray(image: Any, levels: Sequence[Any] = (), *, placed: bool) -> ImageSource:
    """Open a picture with its coarser levels."""
    transformation = image.attrs.get("transform", {}).get("global") if placed else None
    image, *levels = (_plane(level) for level in (image, *levels))
    axes = "".join(dim if dim in ("y", "x") else "c" for dim in map(str, image.dims))
    source = ImageSource(image.data, axes, levels=tuple(level.data for level in levels))
    if transformation is None:
        return source
    return source.placed(np.linalg.inv(transformation.to_affine_matrix(("x", "y"), ("x", "y"))))


def _plane(image: Any) -> Any:
    image = image.squeeze([dim for dim in image.dims if dim not in ("y", "x") and image.sizes[dim] == 1])
    others = [dim for dim in image.dims if dim not in ("y", "x")]
    if len(image.dims) - len(others) != 2 or len(others) > 1 or {"z", "t"}.intersection(others):
        msg = (
            "Expected a picture with the dimensions 'y', 'x' and at most one for the channels, "
            f"found {dict(image.sizes)}. Select one plane, or rename the dimensions."
        )
        raise ValueError(msg)
    return image


def _open_container(container: Any) -> ImageSource:
    layer = container[next(iter(container))]
    attributes = container.data.attrs
    if layer.sizes.get("z", 1) != 1:
        msg = f"Expected an ImageContainer with one section, found {layer.sizes['z']}. Pass a dict of one per section."
        raise ValueError(msg)
    crop, padding = attributes.get("coords"), attributes.get("padding")
    if padding:  # It is no tissue; the reader mirrors at the border instead.
        layer = layer.isel(
            y=slice(round(padding.y_pre), layer.sizes["y"] - round(padding.y_post)),
            x=slice(round(padding.x_pre), layer.sizes["x"] - round(padding.x_post)),
        )
    offset = (-float(crop.x0), -float(crop.y0)) if crop else (0.0, 0.0)
    return replace(_open_xarray(layer, placed=False), scale=float(attributes.get("scale", 1.0)), offset=offset)


def _open_file(path: Path) -> ImageSource:
    with path.open("rb") as file:
        magic = file.read(8)
    if path.suffix.lower() in slides.SUFFIXES:
        levels, microns = slides.slide_levels(path)
        return ImageSource(levels[0], "yxc", levels=tuple(levels[1:]), microns=microns)
    if magic.startswith(_TIFF_MAGIC):
        return _open_tiff(path)
    # The classes of the formats, not PIL.Image.open: whole-slide pictures are larger than the limit of that function.
    if magic.startswith(b"\xff\xd8\xff"):
        return _open_decoded(_Decoded(JpegImageFile, path))
    if magic.startswith(b"\x89PNG"):
        return _open_decoded(_Decoded(PngImageFile, path))
    msg = f"Expected a JPEG, PNG or TIFF file, found {path} beginning with {magic!r}. Convert it, or pass an array."
    raise ValueError(msg)


def _open_decoded(picture: _Decoded) -> ImageSource:
    return ImageSource(picture, "yxc" if len(picture.shape) == 3 else "yx")


class _InTask:
    """Dask array whose pieces are computed where they are read.

    By default a piece would become tasks of the cluster that the reading task waits for, and occupies.
    """

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels
        self.shape, self.dtype = pixels.shape, pixels.dtype

    def __getitem__(self, window: Any) -> np.ndarray:
        return np.asarray(self._pixels[window].compute(scheduler="synchronous"))


class _Decoded:
    """JPEG or PNG as an array whose size is known at once and whose pixels are decoded when first read."""

    def __init__(self, file_type: Callable[[Path], ImageFile], path: Path) -> None:
        self._file_type, self._path = file_type, path.absolute()
        self._array: np.ndarray | None = None
        with _decoding(path), file_type(path) as picture:
            bands = {"L": 1, "I;16": 1, "I": 1, "RGB": 3}.get(picture.mode)
            self._convert_to = None if bands else "RGBA" if _is_transparent(picture) else "RGB"
            n_channels = bands or len(self._convert_to or "")
            self.shape = (picture.height, picture.width) + ((n_channels,) if n_channels > 1 else ())
            self.dtype = np.dtype(np.uint16 if picture.mode.startswith("I") else np.uint8)
        size = path.stat().st_size
        if math.prod(self.shape) * self.dtype.itemsize > _MOST_COMPRESSED * size:
            msg = (
                f"Expected a whole picture, found {path} of {size} bytes, which cannot hold the {self.shape[0]} x "
                f"{self.shape[1]} pixels that it promises. Copy or export it again."
            )
            raise ValueError(msg)

    def __getitem__(self, window: Any) -> np.ndarray:
        if self._array is None:
            with _decoding(self._path), self._file_type(self._path) as picture:
                decoded = np.asarray(picture.convert(self._convert_to) if self._convert_to else picture)
            self._array = decoded.astype(self.dtype, copy=False)
        return self._array[window]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Decoded, (self._file_type, self._path)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return file_state(self._path)

    def release(self) -> None:
        self._array = None


def _is_transparent(picture: ImageFile) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info


def _open_tiff(path: Path) -> ImageSource:
    with _decoding(path), tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = series.axes.lower().replace("s", "c")
        colours = getattr(series.keyframe.photometric, "name", None)
        levels = [_Tiff(path, n, level.shape, level.dtype) for n, level in enumerate(series.levels)]
        microns = _tiff_microns(file)
    if sorted(axes.replace("c", "")) != ["x", "y"] or axes.count("c") > 1 or colours not in _TIFF_COLOURS:
        msg = (
            f"Expected a TIFF with one grey, RGB or RGBA picture, found axes {series.axes!r}, shape {series.shape} and "
            f"colours {colours} in {path}. Convert it, or pass the plane to use as an array."
        )
        raise ValueError(msg)
    return ImageSource(levels[0], axes, levels=tuple(levels[1:]), microns=microns)


def _tiff_microns(file: tifffile.TiffFile) -> float | None:
    """Width of a pixel in micrometres, of OME-TIFF and SVS; resolution tags of plain TIFF files are seldom meant so."""
    if file.ome_metadata is not None:
        images = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        pixels = (images if isinstance(images, dict) else images[0])["Pixels"]
        in_microns = _MICRONS.get(pixels.get("PhysicalSizeXUnit", "µm"))
        size = pixels.get("PhysicalSizeX")
        return None if size is None or in_microns is None else float(size) * in_microns
    if file.is_svs:
        size = re.search(r"MPP\s*=\s*([\d.]+)", file.pages.first.description)
        return None if size is None else float(size.group(1))
    return None


class _Tiff:
    """One level of a TIFF as an array that is read in part; the file is open from the first read to the last use."""

    def __init__(self, path: Path, level: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path, self._level, self.shape, self.dtype = path.absolute(), level, shape, dtype

    @cached_property
    def _pixels(self) -> zarr.Array:
        file = tifffile.TiffFile(self._path)
        weakref.finalize(self, file.close)
        return zarr.open_array(file.series[0].aszarr(level=self._level), mode="r")

    def __getitem__(self, window: Any) -> np.ndarray:
        with _decoding(self._path):
            return np.asarray(self._pixels[window])

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tiff, (self._path, self._level, self.shape, self.dtype)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return *file_state(self._path), self._level


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Tell of a damaged file in one way; decoders do so in many."""
    try:
        yield
    except Exception as error:
        msg = f"Expected a whole picture, found {path} that cannot be decoded: {error}. Copy or export it again."
        raise ValueError(msg) from error


def _ratio(fine: int, coarse: int) -> float:
    """How much wider the pixels of a level are: a whole number wherever its size is only rounded."""
    whole = round(fine / coarse)
    return whole if abs(fine - whole * coarse) < whole else fine / coarse


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices ``start:stop`` of an axis that is mirrored at its ends without end: d c b a | a b c d | d c b a."""
    index = np.arange(start, stop) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def _to_uint8(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.uint8:
        return block
    if block.dtype == np.uint16:
        return ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if block.dtype == np.bool_:
        return block.astype(np.uint8) * np.uint8(255)
    # Resampled pictures overshoot a little; anything more is another range.
    if not (block.min() >= -0.01 and block.max() <= 1.01):
        msg = (
            f"Expected a float picture in 0..1, found values from {block.min():g} to {block.max():g}. "
            "Scale it to 0..1, or convert it to uint8."
        )
        raise ValueError(msg)
    return np.rint(block.clip(0, 1) * 255).astype(np.uint8)


def _to_rgb(block: np.ndarray) -> np.ndarray:
    n_channels = block.shape[2]
    if n_channels == 1:
        return np.repeat(block, 3, axis=2)
    if n_channels == 3:
        return block
    colour, opacity = block[..., :3].astype(np.uint16), block[..., 3:].astype(np.uint16)
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
