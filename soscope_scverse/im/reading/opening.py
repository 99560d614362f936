"""Opens images of every kind: arrays, files, squidpy containers and SpatialData elements."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from PIL.Image import Image as PillowImage

from soscope_scverse._containers.dispatch import check_no_element_options
from soscope_scverse._containers.spatialdata import PlacedImage, SpatialSpots, is_spatialdata
from soscope_scverse._validators import POSITIVE, Rules, check_arguments
from soscope_scverse.im.reading.containers import ContainerImage, container_images, is_container, only_image
from soscope_scverse.im.reading.content import Declared
from soscope_scverse.im.reading.decoded import pillow_pixels
from soscope_scverse.im.reading.files import read_file
from soscope_scverse.im.reading.meaning import check_channels, understood
from soscope_scverse.im.reading.source import ImageSource

if TYPE_CHECKING:
    from dask.array import Array
    from xarray import DataArray

    ImageLike: TypeAlias = str | os.PathLike[str] | np.ndarray | Array | DataArray | ImageSource | PlacedImage

_STRETCH = (0.001, 0.999)
"""Quantiles of a fluorescence channel that are mapped to black and white."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""Begin of an address; one letter is a drive of Windows. Paths drop one of the two slashes."""
_RULES: Rules = {"scale": POSITIVE.or_(None)}


@overload
def open_image(  # numpydoc ignore=GL08
    image: ImageLike, *, scale: float | None = None, channels: Sequence[int] | None = None
) -> ImageSource: ...
@overload
def open_image(  # numpydoc ignore=GL08
    image: Any,
    *,
    scale: float | None = None,
    channels: Sequence[int] | None = None,
    layer: str | None = None,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> ImageSource | dict[str, ImageSource]: ...
def open_image(
    image: Any,
    *,
    scale: float | None = None,
    channels: Sequence[int] | None = None,
    layer: str | None = None,
    table_key: str = "table",
    image_key: Any = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> ImageSource | dict[str, ImageSource]:
    """Open an image of any supported kind; pixels are read on demand.

    Parameters
    ----------
    image
        One of:

        - array (numpy or dask): height x width, height x width x channels, or channels x height x width;
        - xarray ``DataArray`` with dimensions "y" and "x";
        - image of Pillow;
        - path of a JPEG, PNG or TIFF file (including BigTIFF, OME-TIFF and SVS), or of a slide of MIRAX, Hamamatsu or
          DICOM (extra ``openslide``). TIFF files and slides are read in part, of a pyramid the coarsest sufficient
          level;
        - squidpy ``ImageContainer``: a layer, with its scale and, of a crop, its position;
        - SpatialData image element, with its levels and its transformation to "global", if any;
        - SpatialData: the image of the spots of a table, in the coordinates of these spots;
        - :class:`ImageSource`.
    scale
        Full-resolution coordinates times ``scale`` are pixels of the image. Default: the scale and position that are
        recorded in the image, or else 1 and the corner of the image.
    channels
        For a fluorescence image, the indices of the one to three channels to show, in greyscale or as red, green and
        blue. The 0.1 % and 99.9 % quantiles of each channel are mapped to black and white, estimated from regions of
        the coarsest level.
    layer
        Layer of an ``ImageContainer``, as in squidpy; default: the first one, which is the original image.
    table_key, image_key, shapes_key, coordinate_system
        For SpatialData only, see :func:`~soscope_scverse.tl.enhance`.

    Returns
    -------
    ImageSource or dict
        The opened image. Where a table of a SpatialData annotates several elements, or an ``ImageContainer`` holds
        several sections along z: the image of each, by name.

    Raises
    ------
    TypeError
        If ``image`` is none of the above, or ``layer`` is given without an ``ImageContainer``.
    ValueError
        If the file format is not supported, files that belong to it are missing, the image is not greyscale, RGB or
        RGBA of a supported data type, or it has no such channels.

    Warns
    -----
    UserWarning
        If the image does not state, and its pixels show, that values of uint16 have fewer bits or how a fourth channel
        is read; if a pixel size cannot be understood.

    Notes
    -----
    A fourth channel is opacity where the file format or the name of the channel says so. Of four channels without a
    meaning the last one is read as opacity if at least as many pixels are opaque as are partly transparent.
    """
    check_arguments(locals(), _RULES)
    images = _container_images(image, layer)
    if len(images) > 1:
        return {name: open_source(one, scale=scale, channels=channels) for name, one in images.items()}
    image = next(iter(images.values()), image)
    elements = {"table_key": table_key, "shapes_key": shapes_key, "coordinate_system": coordinate_system}
    if is_spatialdata(image):
        return _open_over_spots(image, image_key, scale, channels, elements)
    check_no_element_options(image, elements | {"image_key": image_key})
    return open_source(image, scale=scale, channels=channels)


def _container_images(image: Any, layer: str | None) -> dict[str, ContainerImage]:
    """Images of an ImageContainer by section; none of anything else, which has no layers."""
    if is_container(image):
        return container_images(image, layer)
    if layer is not None:
        msg = f"Expected `layer` with an ImageContainer of squidpy only, found {type(image).__name__}. Omit it."
        raise TypeError(msg)
    return {}


def open_source(image: Any, *, scale: float | None, channels: Sequence[int] | None = None) -> ImageSource:
    """Open one image whose arguments are valid; see :func:`open_image`."""
    source, declared = _open(image, placed=scale is None)
    if channels is not None:
        source = _stretched(source, channels, is_inverted=(declared or source.values).is_inverted)
    if scale is not None:
        source = replace(source, scale=float(scale), offset=(0.0, 0.0), turn=None)
    _check(source, declared or Declared(opacity=source.values.opacity))
    return source if declared is None or source.stretches else understood(source, declared)


def _open_over_spots(
    sdata: Any, image_key: Any, scale: float | None, channels: Sequence[int] | None, elements: dict[str, Any]
) -> ImageSource | dict[str, ImageSource]:
    """Open the image of the spots of a SpatialData; of several elements a dict of them."""
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


def _open(image: Any, *, placed: bool) -> tuple[ImageSource, Declared | None]:
    """Open an image, and return what it states about its channels; None if it has been opened already.

    If ``placed``, a SpatialData element has the position of its transformation.
    """
    if isinstance(image, ImageSource):
        return image, None
    if isinstance(image, PlacedImage):
        source, declared = _open(image.element, placed=False)
        return source.placed(image.matrix), declared
    if isinstance(image, str | os.PathLike):
        return _open_path(image)
    # types of other libraries are identified by their attributes, so that these libraries need not be imported
    if isinstance(image, ContainerImage):
        return _open_container(image)
    if is_container(image):
        return _open_container(only_image(image))
    if isinstance(image, PillowImage):
        pixels, declared = pillow_pixels(image)
        return ImageSource(pixels, _guess_axes(pixels.shape)), declared
    if "scale0" in getattr(image, "children", ()):
        levels = [next(iter(level.data_vars.values())) for level in image.children.values()]
        return _open_xarray(levels[0], levels[1:], placed=placed)
    if hasattr(image, "dims") and hasattr(image, "data"):
        return _open_xarray(image, placed=placed)
    if hasattr(image, "shape") and hasattr(image, "dtype") and _is_numpy_type(image.dtype):
        return ImageSource(image, _guess_axes(tuple(image.shape))), Declared()
    msg = (
        "Expected an image as array of numpy, dask or zarr, xarray.DataArray, image of Pillow, path, squidpy "
        "ImageContainer or SpatialData image element (`sdata.images[...]`), found "
        f"{type(image).__name__}. Convert it with `numpy.asarray`, or pass the path of its file."
    )
    raise TypeError(msg)


def _open_path(path: str | os.PathLike[str]) -> tuple[ImageSource, Declared]:
    text = os.fspath(path)
    scheme = _URL.match(text)
    if scheme:
        msg = (
            f"Expected the path of an image file, found the address {text!r}. Download the file, and pass its path."
            if scheme.group(1).lower() != "file"
            else f"Expected the path of an image file, found the address {text!r}. Pass the part after 'file://'."
        )
        raise ValueError(msg)
    file = read_file(Path(os.path.expanduser(text)))
    return ImageSource(file.levels[0], file.axes, levels=tuple(file.levels[1:]), microns=file.microns), file.declared


def _is_numpy_type(dtype: Any) -> bool:
    try:
        np.dtype(dtype)
    except TypeError:
        return False
    return True


def _check(source: ImageSource, declared: Declared) -> None:
    shape, dtype = tuple(source.pixels.shape), source.dtype
    if 0 in shape:
        msg = f"Expected an image with pixels, found shape {shape}. Check how it was made."
        raise ValueError(msg)
    if not source.stretches:
        check_channels(source, declared)
    if dtype not in (np.uint8, np.uint16, np.bool_) and dtype.kind != "f" and not source.stretches:
        msg = (
            f"Expected an image of uint8, uint16 or float in 0..1, found {dtype}. Convert it to uint8 first, or select "
            "the channels of a fluorescence image with `im.open_image(..., channels=[0])`."
        )
        raise ValueError(msg)
    if not 0 < source.scale < np.inf:
        msg = f"Expected a positive scale from full-resolution coordinates to pixels, found {source.scale}."
        raise ValueError(msg)


def _stretched(source: ImageSource, channels: Sequence[int], *, is_inverted: bool) -> ImageSource:
    """Return the image with the range of these channels mapped to black to white."""
    channels = np.atleast_1d(np.asarray(channels)).tolist()
    if not 1 <= len(channels) <= 3 or not all(channel in range(source.n_channels) for channel in channels):
        msg = (
            f"Expected one to three of the channels 0 to {source.n_channels - 1} as `channels`, found "
            f"{channels}. Describe further channels in a second call."
        )
        raise ValueError(msg)
    coarsest = source.coarsened(np.inf)
    limits = [(channel, *_limits(coarsest, channel)) for channel in channels]
    if is_inverted:
        limits = [(channel, white, black) for channel, black, white in limits]
    source.release()
    return replace(source, stretches=tuple(limits))


def _limits(source: ImageSource, channel: int) -> tuple[float, float]:
    """Values of a channel that are mapped to black and white, from regions evenly distributed over the image."""
    parts = [part.ravel() for _, part in source.sampled(slice(channel, channel + 1))]
    black, white = (float(value) for value in np.quantile(np.concatenate(parts), _STRETCH))
    return black, white if white > black else black + 1


def _guess_axes(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "yx"
    if len(shape) != 3:
        msg = f"Expected an image of 2 or 3 dimensions, found shape {shape}. Select one plane first."
        raise ValueError(msg)
    # channels are last, unless only the first axis has a number of channels of an image, or it is the shorter one
    first = shape[2] not in (1, 3, 4) and (shape[0] in (1, 3, 4) or shape[0] < shape[2])
    return "cyx" if first else "yxc"


def _open_xarray(image: Any, levels: Sequence[Any] = (), *, placed: bool) -> tuple[ImageSource, Declared]:
    """Open an image with its coarser levels."""
    transformation = image.attrs.get("transform", {}).get("global") if placed else None
    image, *levels = (_plane(level) for level in (image, *levels))
    axes = "".join(dim if dim in ("y", "x") else "c" for dim in map(str, image.dims))
    source = ImageSource(image.data, axes, levels=tuple(level.data for level in levels))
    if transformation is not None:
        source = source.placed(np.linalg.inv(transformation.to_affine_matrix(("x", "y"), ("x", "y"))))
    return source, Declared(channels=_channel_names(image))


def _channel_names(image: Any) -> tuple[str, ...]:
    """Names of the channels, none where they are numbered."""
    for dim in image.dims:
        if dim not in ("y", "x") and dim in image.coords:
            names = image.coords[dim].values.tolist()
            return tuple(names) if all(isinstance(name, str) and not name.isdigit() for name in names) else ()
    return ()


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


def _open_container(image: ContainerImage) -> tuple[ImageSource, Declared]:
    source, declared = _open_xarray(image.pixels(), placed=False)
    return replace(source, scale=image.scale, offset=image.offset), declared
