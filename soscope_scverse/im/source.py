"""One lazy reader for every kind of picture: arrays, files, squidpy containers and SpatialData elements."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from anndata import AnnData
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from soscope_scverse import _keys as keys

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STRIP_PIXELS = 8_000_000
_TIFF_COLOURS = ("MINISBLACK", "RGB", "YCBCR")


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
        Full-resolution coordinates times ``scale`` are pixels of this picture.

    Raises
    ------
    ValueError
        If the picture is empty, is not grey, RGB or RGBA, if its data type is another one, or if ``scale`` is not
        positive.
    """

    pixels: Any
    axes: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.pixels.shape), np.dtype(self.pixels.dtype)
        if self.n_channels not in (1, 3, 4) or 0 in shape:
            msg = (
                f"Expected a grey (1 channel), RGB (3) or RGBA (4) picture, found shape {shape} with axes "
                f"{tuple(self.axes)}: {self.n_channels} channels. Select the channels to use first."
            )
            raise ValueError(msg)
        if dtype not in (np.uint8, np.uint16, np.bool_) and dtype.kind != "f":
            msg = f"Expected a picture of uint8, uint16 or float in 0..1, found {dtype}. Convert it to uint8 first."
            raise ValueError(msg)
        if not 0 < self.scale < np.inf:
            msg = f"Expected a positive scale from full-resolution coordinates to pixels, found {self.scale}."
            raise ValueError(msg)

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
        """Channels as stored: 1 (grey), 3 (RGB) or 4 (RGBA)."""
        return int(self.pixels.shape[self.axes.index("c")]) if "c" in self.axes else 1

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read the pixel rows ``y0:y1`` and columns ``x0:x1`` as uint8 (y1 - y0) x (x1 - x0) x 3.

        Parts outside the picture are mirrored at its border, RGBA is laid over white, grey becomes three equal
        channels.

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

    def release(self) -> None:
        """Let go of decoded JPEG or PNG pixels; they are decoded again when next read."""
        if isinstance(self.pixels, _Decoded):
            self.pixels.release()

    def for_tasks(self) -> ImageSource:
        """Return the picture as the tasks of a cluster read it: dask arrays are computed in the task that asks.

        A file travels as its path, which all workers must reach; an array in memory travels as it is.
        """
        return replace(self, pixels=_InTask(self.pixels)) if hasattr(self.pixels, "__dask_graph__") else self

    def _read_inside(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        window = {"y": slice(y0, y1), "x": slice(x0, x1), "c": slice(None)}
        block = np.asarray(self.pixels[tuple(window[axis] for axis in self.axes)])
        block = block.transpose([self.axes.index(axis) for axis in "yxc" if axis in self.axes])
        return _to_rgb(_to_uint8(block.reshape(y1 - y0, x1 - x0, -1)))


def open_image(image: Any, *, scale: float | None = None) -> ImageSource:
    """Open a picture of any supported kind; pixels are read when they are asked for.

    Parameters
    ----------
    image
        Array (numpy or dask; height x width, height x width x channels, or channels x height x width), xarray
        ``DataArray`` with dimensions "y" and "x", path of a JPEG, PNG or TIFF file (a TIFF is read lazily at its full
        resolution), squidpy ``ImageContainer`` (its first layer and its scale), SpatialData image element (of a
        multi-scale element the full resolution; its transformations are not applied), or an :class:`ImageSource`.
    scale
        Full-resolution coordinates times ``scale`` are pixels of the picture. Default: the picture's own, 1 if it has
        none.

    Returns
    -------
    The opened picture.

    Raises
    ------
    TypeError
        If ``image`` is none of the above.
    ValueError
        If the file is of another kind, or the picture is not grey, RGB or RGBA of a supported data type.
    """
    source = _open(image)
    return source if scale is None else replace(source, scale=float(scale))


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
    The small picture, height x width x 3 uint8, and the factor from full-resolution coordinates to its pixels.
    """
    step = -(-max(source.height, source.width) // size)
    height, width = source.height // step, source.width // step
    small = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PIXELS // (width * step * step))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        block = source.read(first * step, last * step, 0, width * step)
        small[first:last] = block.reshape(last - first, step, width, step, 3).mean(axis=(1, 3))
    source.release()
    return small, source.scale / step


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
    The picture and the factor from full-resolution coordinates to its pixels, or None without such a picture.

    Raises
    ------
    ValueError
        If ``library`` is omitted and ``uns["spatial"]`` holds several.
    """
    libraries = adata.uns.get(keys.SPATIAL, {})
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
            return picture, float(scale)
    return None


def library_entry(adata: AnnData, library: str | None = None) -> Mapping[str, Any]:
    """Return ``uns["spatial"][library]``; without ``library`` that of the only section, {} if there is none."""
    libraries = adata.uns.get(keys.SPATIAL, {})
    if library is None and len(libraries) == 1:
        (library,) = libraries
    return libraries.get(library, {})


def _open(image: Any) -> ImageSource:
    if isinstance(image, ImageSource):
        return image
    if isinstance(image, str | os.PathLike):
        return _open_file(Path(image))
    # Other libraries' types are told by what they offer, so that none of these libraries needs to be imported.
    if type(image).__name__ == "ImageContainer":
        return _open_container(image)
    if "scale0" in getattr(image, "children", ()):
        return _open_xarray(next(iter(image["scale0"].data_vars.values())))
    if hasattr(image, "dims") and hasattr(image, "data"):
        return _open_xarray(image)
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        return ImageSource(image, _guess_axes(tuple(image.shape)))
    msg = (
        "Expected a picture as array, xarray.DataArray, path, squidpy ImageContainer or SpatialData image element "
        f"(`sdata.images[...]`), found {type(image).__name__}."
    )
    raise TypeError(msg)


def _guess_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        msg = f"Expected a picture of 2 or 3 dimensions, found shape {shape}. Select one plane first."
        raise ValueError(msg)
    return "cyx" if shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) else "yxc"


def _open_xarray(image: Any) -> ImageSource:
    image = image.squeeze([dim for dim in image.dims if dim not in ("y", "x") and image.sizes[dim] == 1])
    others = [dim for dim in image.dims if dim not in ("y", "x")]
    if len(image.dims) - len(others) != 2 or len(others) > 1 or {"z", "t"}.intersection(others):
        msg = (
            "Expected a picture with the dimensions 'y', 'x' and at most one for the channels, "
            f"found {dict(image.sizes)}. Select one plane, or rename the dimensions."
        )
        raise ValueError(msg)
    return ImageSource(image.data, "".join("c" if dim in others else str(dim) for dim in image.dims))


def _open_container(container: Any) -> ImageSource:
    layer = container[next(iter(container))]
    attributes = container.data.attrs
    if layer.sizes.get("z", 1) != 1:
        msg = f"Expected an ImageContainer with one section, found {layer.sizes['z']}. Pass a dict of one per section."
        raise ValueError(msg)
    crop, padding = attributes.get("coords"), attributes.get("padding")
    if (crop and (crop.x0 or crop.y0)) or (padding and (padding.x_pre or padding.y_pre)):
        msg = f"Expected an uncropped ImageContainer, found {crop} and {padding}. Pass the whole picture."
        raise ValueError(msg)
    return replace(_open_xarray(layer), scale=float(attributes.get("scale", 1.0)))


def _open_file(path: Path) -> ImageSource:
    with path.open("rb") as file:
        magic = file.read(8)
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
        with file_type(path) as picture:
            bands = {"L": 1, "I;16": 1, "I": 1, "RGB": 3}.get(picture.mode)
            self._convert_to = None if bands else "RGBA" if _is_transparent(picture) else "RGB"
            n_channels = bands or len(self._convert_to or "")
            self.shape = (picture.height, picture.width) + ((n_channels,) if n_channels > 1 else ())
            self.dtype = np.dtype(np.uint16 if picture.mode.startswith("I") else np.uint8)

    def __getitem__(self, window: Any) -> np.ndarray:
        if self._array is None:
            with self._file_type(self._path) as picture:
                decoded = np.asarray(picture.convert(self._convert_to) if self._convert_to else picture)
            self._array = decoded.astype(self.dtype, copy=False)
        return self._array[window]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Decoded, (self._file_type, self._path)

    def release(self) -> None:
        self._array = None


def _is_transparent(picture: ImageFile) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info


def _open_tiff(path: Path) -> ImageSource:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = series.axes.lower().replace("s", "c")
        colours = getattr(series.keyframe.photometric, "name", None)
    if sorted(axes.replace("c", "")) != ["x", "y"] or axes.count("c") > 1 or colours not in _TIFF_COLOURS:
        msg = (
            f"Expected a TIFF with one grey, RGB or RGBA picture, found axes {series.axes!r}, shape {series.shape} and "
            f"colours {colours} in {path}. Convert it, or pass the plane to use as an array."
        )
        raise ValueError(msg)
    return ImageSource(_Tiff(path), axes)


class _Tiff:
    """Full resolution of a TIFF as an array that is read in part; the file is closed with the last reference."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        file = tifffile.TiffFile(path)
        self._pixels = zarr.open_array(file.series[0].aszarr(level=0), mode="r")
        self.shape, self.dtype = self._pixels.shape, self._pixels.dtype
        weakref.finalize(self, file.close)

    def __getitem__(self, window: Any) -> np.ndarray:
        return np.asarray(self._pixels[window])

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tiff, (self._path,)


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
