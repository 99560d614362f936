"""What a reader knows of an image: its levels, and what its channels and values mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from soscope_scverse.im.reading.values import Opacity


class Declared(NamedTuple):
    """What an image states about its channels and values."""

    opacity: Opacity | None = None
    """How the last of two or four channels is to be read; None if nothing is stated."""
    is_colour: bool | None = None
    """Whether three channels are red, green and blue."""
    channels: tuple[str, ...] = ()
    """Names of the channels."""
    bits: int | None = None
    """Number of bits of the values."""
    is_inverted: bool = False
    """Whether 0 is white."""


class FileLevels(NamedTuple):
    """Content of an image file; pixels are read on demand."""

    levels: list[Any]
    """Arrays, the finest first."""
    axes: str
    """Letters of their axes: "y", "x" and "c"."""
    microns: float | None = None
    """Width of a pixel of the finest level in micrometres, if the file records it."""
    declared: Declared = Declared()


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Raise the same ValueError for every error of a decoder."""
    try:
        yield
    except Exception as error:
        msg = f"Expected a whole image, found {path} that cannot be decoded: {error}. Copy or export it again."
        raise ValueError(msg) from error
