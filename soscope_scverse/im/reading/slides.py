"""Whole-slide files of scanners that tifffile does not support, read by OpenSlide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from soscope_scverse._files import file_state
from soscope_scverse.im.reading.shared import SharedFile

SUFFIXES = (".dcm", ".mrxs", ".vms", ".vmu")
"""Of the formats that OpenSlide reads here: DICOM, MIRAX, Hamamatsu."""


class SlideLevel:
    """One level of a slide as an RGBA array that is read in part, transparent where nothing was scanned.

    Parameters
    ----------
    slide
        The file, which all levels share.
    level
        0 is the full resolution.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, slide: SharedFile[Any], level: int) -> None:
        self.slide, self.level = slide, level
        width, height = slide.file.level_dimensions[level]
        self.shape = (height, width, 4)

    def __getitem__(self, window: Any) -> np.ndarray:
        rows, columns = (slice(*part.indices(size)) for part, size in zip(window, self.shape[:2], strict=False))
        slide = self.slide.file
        # the corner is in pixels of the full resolution
        zoom = slide.level_downsamples[self.level]
        corner = round(columns.start * zoom), round(rows.start * zoom)
        size = columns.stop - columns.start, rows.stop - rows.start
        return np.asarray(slide.read_region(corner, self.level, size))

    def __reduce__(self) -> tuple[Any, ...]:
        return SlideLevel, (self.slide, self.level)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return *file_state(self.slide.path), self.level


def slide_levels(path: Path) -> tuple[list[SlideLevel], float | None]:
    """Return all levels of a slide, finest first, and the width of its pixels in micrometres if it is known."""
    slide = SharedFile(open_slide, path)
    with slide.closed_on_error():
        microns = slide.file.properties.get("openslide.mpp-x")
        levels = [SlideLevel(slide, n) for n in range(slide.file.level_count)]
        return levels, None if microns is None else float(microns)


def open_slide(path: Path) -> Any:
    """Open a slide.

    Raises
    ------
    ImportError
        If OpenSlide is not installed.
    ValueError
        If OpenSlide cannot read the file.
    """
    try:
        import openslide
    except ImportError as error:
        msg = f"Reading {path.name} needs OpenSlide. Install it with `pip install 'soscope-scverse[openslide]'`."
        raise ImportError(msg) from error
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        msg = f"Expected a slide that OpenSlide can read, found {path}: {error}. Convert it to a tiled TIFF."
        raise ValueError(msg) from error
