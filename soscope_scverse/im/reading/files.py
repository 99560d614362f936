"""Image files of every format."""

from __future__ import annotations

from pathlib import Path

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from soscope_scverse.im.reading import slides
from soscope_scverse.im.reading.content import FileLevels
from soscope_scverse.im.reading.decoded import DecodedFile, declared_by
from soscope_scverse.im.reading.tiffs import read_tiff

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_file(path: Path) -> FileLevels:
    """Open an image file and read its metadata.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of an unsupported format, damaged, or one of several of which others are missing.
    """
    _check_path(path)
    with path.open("rb") as file:
        magic = file.read(8)
    if path.suffix.lower() in slides.SUFFIXES:
        levels, microns = slides.slide_levels(path)
        return FileLevels(levels, "yxc", microns, declared_by(4))
    if magic.startswith(_TIFF_MAGIC):
        return read_tiff(path)
    # the classes of the formats instead of PIL.Image.open, which limits the size of images
    if magic.startswith(b"\xff\xd8\xff"):
        return _read_decoded(DecodedFile(JpegImageFile, path))
    if magic.startswith(b"\x89PNG"):
        return _read_decoded(DecodedFile(PngImageFile, path))
    msg = f"Expected a JPEG, PNG or TIFF file, found {path} beginning with {magic!r}. Convert it, or pass an array."
    raise ValueError(msg)


def _read_decoded(pixels: DecodedFile) -> FileLevels:
    n_channels = pixels.shape[2] if len(pixels.shape) == 3 else 1
    return FileLevels([pixels], "yxc" if n_channels > 1 else "yx", declared=declared_by(n_channels))


def _check_path(path: Path) -> None:
    if path.is_dir():
        is_zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
        advice = (
            "Open an OME-Zarr with `spatialdata.read_zarr` and an array with `dask.array.from_zarr`, and pass the image"
            if is_zarr
            else "Name a file in it"
        )
        msg = f"Expected an image file, found the folder {str(path)!r}. {advice}."
        raise ValueError(msg)
    if not path.exists():
        msg = f"Expected an image file, found nothing at {str(path)!r} (in the folder {str(path.absolute().parent)!r})."
        raise FileNotFoundError(msg)
