"""From stored values to 8-bit RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Opacity: TypeAlias = Literal["straight", "premultiplied", "ignored"]


@dataclass(frozen=True)
class Values:
    """What stored values mean, as far as it does not follow from their type.

    Parameters
    ----------
    black, white
        Values that are black and white; None for the whole range of the type. ``black`` is the larger one where the
        file stores greyscale as min-is-white.
    opacity
        How the last of two or four channels is read: as opacity, over white; as opacity by which the colours are
        multiplied already; or not at all. None if nothing is stated: as opacity, over white.
    opaque
        Value of full opacity; None for the largest one of the type.
    """

    black: float | None = None
    white: float | None = None
    opacity: Opacity | None = None
    opaque: float | None = None

    @property
    def is_inverted(self) -> bool:
        """Whether small values are bright."""
        return self.black is not None and self.white is not None and self.black > self.white

    def to_rgb(self, block: np.ndarray) -> np.ndarray:
        """Convert rows x columns x channels to uint8, with three channels.

        Raises
        ------
        ValueError
            If float values are outside 0..1 or NaN.
        """
        n_colours = n_colour_channels(block.shape[2])
        colours = _between(block[..., :n_colours], self.black, self.white)
        if n_colours == 1:
            colours = np.repeat(colours, 3, axis=2)
        if n_colours == block.shape[2] or self.opacity == "ignored":
            return colours
        opacity = _between(block[..., n_colours:], None if self.opaque is None else 0, self.opaque).astype(np.uint16)
        colours = colours.astype(np.uint16)
        if self.opacity == "premultiplied":
            return np.minimum(colours + (255 - opacity), 255).astype(np.uint8)
        return ((colours * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


AS_TYPED = Values()
"""Values that span the range of their type."""


def n_colour_channels(n_channels: int) -> int:
    """Number of channels without opacity, which is the last of two or four."""
    return n_channels - (n_channels in (2, 4))


def _between(block: np.ndarray, black: float | None, white: float | None) -> np.ndarray:
    """Convert to uint8, `black` to 0 and `white` to 255."""
    if black is None or white is None:
        return _to_uint8(block)
    if block.dtype.kind == "f":
        shown = _to_uint8(block)
        return np.uint8(255) - shown if black > white else shown
    shown = (block.astype(np.float32) - black) / (white - black)
    return np.rint(shown.clip(0, 1) * 255).astype(np.uint8)


def _to_uint8(block: np.ndarray) -> np.ndarray:
    if block.dtype == np.uint8:
        return block
    if block.dtype == np.uint16:
        return ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if block.dtype == np.bool_:
        return block.astype(np.uint8) * np.uint8(255)
    # resampling overshoots slightly; larger deviations mean another range
    if not (block.min() >= -0.01 and block.max() <= 1.01):
        msg = (
            f"Expected a float image in 0..1, found values from {block.min():g} to {block.max():g}. "
            "Scale it to 0..1, or convert it to uint8."
        )
        raise ValueError(msg)
    return np.rint(block.clip(0, 1) * 255).astype(np.uint8)
