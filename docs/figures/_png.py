"""Size of the figures of the documentation."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def shrink(path: Path) -> None:
    """Reduce a PNG to 256 colours: maps over an image of tissue are a third as large then."""
    with Image.open(path) as figure:
        small = figure.convert("RGB").quantize(256)
    small.save(path, optimize=True)
