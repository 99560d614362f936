"""Recognises what channels and values of an image mean where its type does not say it."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from soscope_scverse.im.reading.content import Declared
from soscope_scverse.im.reading.decoded import DecodedFile
from soscope_scverse.im.reading.source import ImageSource
from soscope_scverse.im.reading.values import AS_TYPED, Opacity, n_colour_channels

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the values of cameras and scanners."""
_RGBA = (("r", "g", "b", "a"), ("red", "green", "blue", "alpha"))
_DETAIL = 512
"""Width of the region of the finest level around the brightest pixel of the coarsest one."""
_FIRST = "The channels before it are read as colours."
_ADVICE = "Of a fluorescence image select the channels to show with `im.open_image(..., channels=[0])`."


def check_channels(source: ImageSource, declared: Declared) -> None:
    """Raise a ValueError unless the image is grey or RGB, perhaps with opacity."""
    names = declared.channels if any(declared.channels) else ()
    is_rgba = tuple(name.lower() for name in names) in _RGBA
    stated = declared.opacity is not None or is_rgba
    may_be_rgba = not names and declared.is_colour is not False
    if source.n_channels in (1, 3) or (source.n_channels == 4 and (stated or may_be_rgba)):
        return
    if source.n_channels == 2 and declared.opacity is not None and not declared.is_inverted:
        return
    listed = f" ({', '.join(names)})" if names else ""
    msg = (
        f"Expected a grey (1 channel), RGB (3) or RGBA (4) image, found shape {tuple(source.pixels.shape)} with axes "
        f"{tuple(source.axes)}: {source.n_channels} channels{listed} that are not red, green, blue and opacity. "
        "Select the channels to use first, of a fluorescence image with `im.open_image(..., channels=[0])`."
    )
    raise ValueError(msg)


def understood(source: ImageSource, declared: Declared) -> ImageSource:
    """Return an image of a valid number of channels with the meaning of its values.

    Parameters
    ----------
    source
        The image, without `values`.
    declared
        What it states.

    Raises
    ------
    ValueError
        If it has four channels of which it does not state the meaning, and the last one cannot be opacity.

    Warns
    -----
    UserWarning
        If the range of the values, or the opacity, is recognised from the pixels.
    """
    n_colours, dtype = n_colour_channels(source.n_channels), source.dtype
    values = AS_TYPED
    if n_colours < source.n_channels:
        opacity, opaque = _opacity(source, declared, n_colours)
        values = replace(values, opacity=opacity, opaque=opaque)
    largest: float | None = None
    if dtype == np.uint16:
        largest = _white(source, declared, slice(n_colours))
    if declared.is_inverted:
        white_first = {"b": 1.0, "f": 1.0}.get(dtype.kind, largest or float(2 ** (8 * dtype.itemsize) - 1))
        return replace(source, values=replace(values, black=white_first, white=0.0))
    return replace(source, values=values if largest is None else replace(values, black=0.0, white=largest))


def _white(source: ImageSource, declared: Declared, channels: slice) -> float | None:
    """Value that is white in an image of uint16; None for the largest one of the type."""
    highest = _highest(source, channels)
    needed = _depth(highest)
    depth = max(needed, declared.bits or 0) if declared.bits != 16 else needed
    if depth >= 16:
        return None
    if depth != declared.bits and highest:
        _warn(
            f"{highest:g} of 65535 is the highest value found in the image: its values are read as those of {depth} "
            f"bits, 0 to {2**depth - 1} as black to white. If this is not their range, convert the image to uint8."
        )
    return float(2**depth - 1)


def _depth(highest: float) -> int:
    """Bits of the smallest depth that holds a value."""
    return next(depth for depth in _DEPTHS if highest < 2**depth)


def _highest(source: ImageSource, channels: slice) -> float:
    """Highest value, of a large image that of a sample.

    Coarser levels are averages: the brightest of their regions is looked at in the finest level, too.
    """
    if isinstance(source.pixels, np.ndarray | DecodedFile):
        window = tuple(channels if axis == "c" else slice(None) for axis in source.axes)
        return float(source.pixels[window].max())
    coarsest = source.coarsened(np.inf)
    highest, brightest = -1.0, (0, 0)
    for (y, x), region in coarsest.sampled(channels):
        by_pixel = region.max(axis=2)
        if by_pixel.max() > highest:
            row, column = np.unravel_index(by_pixel.argmax(), by_pixel.shape)
            highest, brightest = float(by_pixel.max()), (y + int(row), x + int(column))
    if coarsest is source:
        return highest
    zoom = source.height / coarsest.height
    row, column = (max(0, int((at + 0.5) * zoom) - _DETAIL // 2) for at in brightest)
    return max(highest, float(source.stored(row, column, _DETAIL, channels).max()))


def _opacity(source: ImageSource, declared: Declared, n_colours: int) -> tuple[Opacity, float | None]:
    """How the last channel is read, and its value of full opacity if that is not the largest one of the type."""
    if declared.opacity == "ignored":
        _warn(f"The last channel of the image is ignored: it is not stated to be opacity. {_FIRST}")
        return "ignored", None
    dtype = source.dtype
    last = slice(n_colours, n_colours + 1)
    levels = np.concatenate([part.ravel() for _, part in source.coarsened(np.inf).sampled(last)])
    highest = levels.max()
    opaque = float(2 ** _depth(highest) - 1) if dtype == np.uint16 else 255.0 if dtype == np.uint8 else 1.0
    if not highest:
        _warn(
            f"{len(levels)} of {len(levels)} pixels are transparent by the last channel of the image: it is ignored. "
            f"{_FIRST}"
        )
        return "ignored", None
    n_opaque = int((levels == opaque).sum())
    n_partly = int(len(levels) - n_opaque - (levels == 0).sum())
    is_stated = declared.opacity is not None or _is_rgba(declared)
    if is_stated and n_partly > n_opaque:
        _warn(
            f"{n_partly} of {len(levels)} pixels are partly transparent, since the image states that its last channel "
            "is opacity: it is read over white."
        )
    if not is_stated and not _looks_like_opacity(
        n_opaque, n_partly, len(levels), may_be_ignored=dtype != np.uint16 and source.axes[-1] == "c"
    ):
        return "ignored", None
    return declared.opacity or "straight", opaque if dtype == np.uint16 else None


def _looks_like_opacity(n_opaque: int, n_partly: int, n: int, *, may_be_ignored: bool) -> bool:
    """Whether an unnamed fourth channel is one of opacity: as many pixels are opaque as are partly transparent.

    If it is not, it is ignored where arrays are usually RGBA, which is uint8 or float with the channels last.
    """
    if n_opaque == n:
        return True
    if n_opaque >= n_partly:
        _warn(
            f"{n - n_opaque} of {n} pixels are transparent by the fourth channel of the image: it is read as opacity, "
            "over white."
        )
        return True
    found = f"{n_partly} of {n} pixels would be partly transparent by the fourth channel of the image"
    if may_be_ignored:
        _warn(f"{found}, so it is not read as opacity but ignored. {_FIRST}")
        return False
    msg = (
        "Expected a grey (1 channel), RGB (3) or RGBA (4) image, found four channels without names of which the last "
        f"is no opacity: {found}. {_ADVICE} Of an image in colour pass the first three channels."
    )
    raise ValueError(msg)


def _is_rgba(declared: Declared) -> bool:
    return tuple(name.lower() for name in declared.channels) in _RGBA


def _warn(found: str) -> None:
    warnings.warn(f"{found} {_ADVICE}", UserWarning, stacklevel=7)
