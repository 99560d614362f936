"""Opens every kind of image: arrays, files, squidpy containers and SpatialData elements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from soscope_scverse import _validation as validation
from soscope_scverse._containers.dispatch import check_no_element_options
from soscope_scverse._containers.spatialdata import PlacedImage, SpatialSpots, is_spatialdata
from soscope_scverse.im.reading.files import read_file
from soscope_scverse.im.reading.source import ImageSource

_STRETCH = (0.001, 0.999)


def open_image(
    image: Any,
    *,
    scale: float | None = None,
    channels: Sequence[int] | None = None,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> Any:
    """Open an image of any supported kind; pixels are read when they are asked for.

    Parameters
    ----------
    image
        Array (numpy or dask; height x width, height x width x channels, or channels x height x width), xarray
        ``DataArray`` with dimensions "y" and "x", path of a JPEG, PNG or TIFF file (BigTIFF, OME-TIFF and SVS too; read
        lazily, and of a pyramid the level that suffices) or of a slide of MIRAX, Hamamatsu or DICOM (extra
        ``openslide``), squidpy ``ImageContainer`` (its first layer, with its scale
        and its place if it is a crop), SpatialData image element (with its levels, and its transformation to "global"
        if it has one), or an :class:`ImageSource`. Of a whole SpatialData the image over the spots of a table, placed
        where these are in their own coordinates.
    scale
        Full-resolution coordinates times ``scale`` are pixels of the image. Default: the scale and the place that
        the image carries, 1 and the corner if it has none.
    channels
        Of a fluorescence image: the numbers of the one to three channels to show, as grey, or as red, green and
        blue. Each is stretched so that 1 in 1,000 of its pixels are black and as many white, as told by parts of
        its coarsest level.
    table_key, image_key, shapes_key, coordinate_system
        Of a SpatialData, as of :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    ImageSource
        The opened image; where a table annotates several elements of a SpatialData, a dict of them.

    Raises
    ------
    TypeError
        If ``image`` is none of the above.
    ValueError
        If the file is of another kind, the image is not grey, RGB or RGBA of a supported data type, or it has no such
        channels.
    """
    validation.given(open_image, locals())
    elements = {"table_key": table_key, "shapes_key": shapes_key, "coordinate_system": coordinate_system}
    if is_spatialdata(image):
        return _open_over_spots(image, image_key, scale, channels, elements)
    check_no_element_options(image, elements | {"image_key": image_key})
    source = _open(image, placed=scale is None)
    if channels is not None:
        source = _stretched(source, channels)
    if scale is not None:
        source = replace(source, scale=float(scale), offset=(0.0, 0.0), turn=None)
    _check(source)
    return source


def _open_over_spots(
    sdata: Any, image_key: Any, scale: float | None, channels: Sequence[int] | None, elements: dict[str, Any]
) -> Any:
    """Open the image over the spots of a SpatialData, of several elements a dict of them."""
    if scale is not None:
        msg = "Expected no `scale` with SpatialData, whose transformations define it. Omit it."
        raise ValueError(msg)
    found = SpatialSpots(sdata, **elements).image(image_key)
    if found is None:
        msg = f"Expected an image in a coordinate system of the spots, found none of {list(sdata.images)} there."
        raise ValueError(msg)
    if isinstance(found, dict):
        return {name: open_image(image, channels=channels) for name, image in found.items()}
    return open_image(found, channels=channels)


def _open(image: Any, *, placed: bool) -> ImageSource:
    """Open an image, with the place that a SpatialData element has if it is to be ``placed``."""
    if isinstance(image, ImageSource):
        return image
    if isinstance(image, PlacedImage):
        return _open(image.element, placed=False).placed(image.matrix)
    if isinstance(image, str | os.PathLike):
        file = read_file(Path(image))
        return ImageSource(file.levels[0], file.axes, levels=tuple(file.levels[1:]), microns=file.microns)
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
        "Expected an image as array, xarray.DataArray, path, squidpy ImageContainer or SpatialData image element "
        f"(`sdata.images[...]`), found {type(image).__name__}."
    )
    raise TypeError(msg)


def _check(source: ImageSource) -> None:
    shape, dtype = tuple(source.pixels.shape), np.dtype(source.pixels.dtype)
    if 0 in shape or (source.n_channels not in (1, 3, 4) and not source.stretches):
        msg = (
            f"Expected a grey (1 channel), RGB (3) or RGBA (4) image, found shape {shape} with axes "
            f"{tuple(source.axes)}: {source.n_channels} channels. Select the channels to use first, of a fluorescence "
            "image with `im.open_image(..., channels=[0])`."
        )
        raise ValueError(msg)
    if dtype not in (np.uint8, np.uint16, np.bool_) and dtype.kind != "f" and not source.stretches:
        msg = f"Expected an image of uint8, uint16 or float in 0..1, found {dtype}. Convert it to uint8 first."
        raise ValueError(msg)
    if not 0 < source.scale < np.inf:
        msg = f"Expected a positive scale from full-resolution coordinates to pixels, found {source.scale}."
        raise ValueError(msg)


def _stretched(source: ImageSource, channels: Sequence[int]) -> ImageSource:
    """The image with these channels stretched over black to white."""
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
    """The values of a channel that become black and white, from parts of the image that lie evenly over it."""
    parts = [part.ravel() for part in source.sample(slice(channel, channel + 1))]
    black, white = (float(value) for value in np.quantile(np.concatenate(parts), _STRETCH))
    return black, white if white > black else black + 1


def _guess_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        msg = f"Expected an image of 2 or 3 dimensions, found shape {shape}. Select one plane first."
        raise ValueError(msg)
    # Channels come last unless they are known, or fewer, in front.
    first = shape[2] not in (1, 3, 4) and (shape[0] in (1, 3, 4) or shape[0] < shape[2])
    return "cyx" if first else "yxc"


def _open_xarray(image: Any, levels: Sequence[Any] = (), *, placed: bool) -> ImageSource:
    """Open an image with its coarser levels."""
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
            "Expected an image with the dimensions 'y', 'x' and at most one for the channels, "
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
