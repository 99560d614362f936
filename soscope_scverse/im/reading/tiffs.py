"""TIFF files, read in part: their levels, colours and pixel size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from soscope_scverse._files import file_state
from soscope_scverse.im.reading.content import Declared, FileLevels, decoding
from soscope_scverse.im.reading.shared import SharedFile
from soscope_scverse.im.reading.units import in_microns
from soscope_scverse.im.reading.values import Opacity
from soscope_scverse.im.reading.ycbcr import YCbCr, ycbcr_of

_COLOURS = ("MINISWHITE", "MINISBLACK", "RGB", "YCBCR")
_OPACITIES: dict[str, Opacity] = {"UNASSALPHA": "straight", "ASSOCALPHA": "premultiplied"}
_RESOLUTION_UNITS = {2: "in", 3: "cm"}
_FINEST, _COARSEST = 0.01, 5.0
"""Widths of a pixel in micrometres for which the resolution of a plain TIFF is taken for that of a microscope. That of
screens, printers and scanners, 72 to 4,800 dots per inch, is 353 to 5.3 micrometres."""


def read_tiff(path: Path) -> FileLevels:
    """Open a TIFF file and read its metadata.

    Raises
    ------
    ValueError
        If it is damaged, not one image, or one of several files of an OME-TIFF of which others are missing.
    """
    shared = SharedFile(tifffile.TiffFile, path)
    with shared.closed_on_error():
        with decoding(path):
            missing = list(_missing_files(shared.file))
        _check_files(missing, path)
        return _levels(shared, path)


def _levels(shared: SharedFile[tifffile.TiffFile], path: Path) -> FileLevels:
    with decoding(path):
        series = shared.file.series[0]
        axes, keyframe = series.axes.lower().replace("s", "c"), series.keyframe
        colours = getattr(keyframe.photometric, "name", None)
        lost = sum(page is None for page in series.pages)
    if sorted(axes.replace("c", "")) != ["x", "y"] or axes.count("c") > 1 or colours not in _COLOURS:
        msg = (
            f"Expected a TIFF with one grey, RGB or RGBA image, found axes {series.axes!r}, shape {series.shape} and "
            f"colours {colours} in {path}. Convert it, or pass the plane to use as an array."
        )
        raise ValueError(msg)
    if lost:
        msg = f"Expected a whole image, found {lost} of {len(series.pages)} planes missing in {path}. Export it again."
        raise ValueError(msg)
    with decoding(path):
        levels = [
            TiffLevel(shared, n, level.shape, level.dtype, ycbcr_of(level.keyframe, path, axes.index("c")))
            if colours == "YCBCR"
            else TiffLevel(shared, n, level.shape, level.dtype)
            for n, level in enumerate(series.levels)
        ]
        return FileLevels(levels, axes, _microns(shared.file, path.name), _declared(shared.file, keyframe, colours))


def _declared(file: tifffile.TiffFile, keyframe: Any, colours: str) -> Declared:
    """What the tags and the OME-XML say of channels and values."""
    pixels = _ome_pixels(file)
    # extra samples follow the colours; a single one is opacity or of no stated meaning
    extra = [kind.name for kind in keyframe.extrasamples]
    is_colour = colours in ("RGB", "YCBCR")
    opacity = _OPACITIES.get(extra[0], "ignored" if is_colour else None) if len(extra) == 1 else None
    channels = _as_list(pixels.get("Channel", []))
    bits = pixels.get("SignificantBits", keyframe.bitspersample)
    return Declared(
        opacity=opacity,
        is_colour=is_colour,
        channels=tuple(str(channel.get("Name") or "") for channel in channels),
        bits=bits if isinstance(bits, int) else None,
        is_inverted=colours == "MINISWHITE",
    )


def _missing_files(file: tifffile.TiffFile) -> Iterator[str]:
    """Names of the files of the first image of a multi-file OME-TIFF that do not lie beside it.

    tifffile (2026.3.3) reads their planes as zeros.
    """
    own = _ome(file).get("UUID")
    seen = set()
    for part in _as_list(_ome_pixels(file).get("TiffData", [])):
        for uuid in _as_list(part.get("UUID", [])) if isinstance(part, dict) else []:
            name = str(uuid.get("FileName", "")) if isinstance(uuid, dict) else ""
            is_own = uuid.get("value") == own if own is not None and name else name.lower() == file.filename.lower()
            if not name or is_own or name in seen:
                continue
            seen.add(name)
            if not (Path(file.filehandle.dirname) / name).is_file():
                yield name


def _check_files(missing: list[str], path: Path) -> None:
    if not missing:
        return
    named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    msg = (
        f"Expected all files of the OME-TIFF of which {path} is one, found {len(missing)} missing beside it: {named}. "
        "Copy them to the same folder under these names, or pass the planes of this file as an array: "
        f"`tifffile.imread({path.name!r}, is_ome=False)`."
    )
    raise ValueError(msg)


def _ome_pixels(file: tifffile.TiffFile) -> dict[str, Any]:
    """Element "Pixels" of the first image in the OME-XML, empty if there is none."""
    images = _as_list(_ome(file).get("Image", []))
    return images[0].get("Pixels", {}) if images else {}


def _ome(file: tifffile.TiffFile) -> dict[str, Any]:
    """Root of the OME-XML, empty if there is none."""
    return {} if file.ome_metadata is None else tifffile.xml2dict(file.ome_metadata).get("OME", {})


def _as_list(found: Any) -> list[Any]:
    """Elements of XML that occur once or more often."""
    return found if isinstance(found, list) else [found]


def _microns(file: tifffile.TiffFile, name: str) -> float | None:
    """Width of a pixel in micrometres, of OME-TIFF, SVS and ImageJ files, and of plain ones if it is that of a lens."""
    if file.ome_metadata is not None:
        pixels = _ome_pixels(file)
        return in_microns(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "um"), name)
    if file.is_svs:
        size = re.search(r"MPP\s*=\s*([\d.]+)", file.pages.first.description)
        return None if size is None else float(size.group(1))
    tags = file.pages.first.tags
    counts, length = tags["XResolution"].value if "XResolution" in tags else (0, 0)
    if not counts or not length:
        return None
    if file.imagej_metadata is not None and "unit" in file.imagej_metadata:
        return in_microns(length / counts, file.imagej_metadata["unit"], name)
    unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 2
    microns = in_microns(length / counts, _RESOLUTION_UNITS.get(unit), name)
    return microns if microns is not None and _FINEST < microns < _COARSEST else None


class TiffLevel:
    """One level of a TIFF file as an array that is read in part.

    Parameters
    ----------
    shared
        The file, which all levels share: it is open until the last of them is gone.
    level
        0 is the full resolution.
    shape, dtype
        Of the pixels.
    to_rgb
        Conversion of the stored colours, which are luma and chroma; None if they are read as they are.
    """

    def __init__(
        self,
        shared: SharedFile[tifffile.TiffFile],
        level: int,
        shape: tuple[int, ...],
        dtype: np.dtype,
        to_rgb: YCbCr | None = None,
    ) -> None:
        self._shared, self._level, self.shape, self.dtype, self._to_rgb = shared, level, shape, dtype, to_rgb

    @cached_property
    def _pixels(self) -> zarr.Array:
        with self._shared.lock:
            return zarr.open_array(self._shared.file.series[0].aszarr(level=self._level), mode="r")

    def __getitem__(self, window: Any) -> np.ndarray:
        with decoding(self._shared.path):
            if self._to_rgb is None:
                return np.asarray(self._pixels[window])
            return self._to_rgb.read(self._pixels, window)

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffLevel, (self._shared, self._level, self.shape, self.dtype, self._to_rgb)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return *file_state(self._shared.path), self._level
