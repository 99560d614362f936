"""Properties of all images: hypothesis draws sizes, channels, bits, orders of axes and containers.

``pytest`` tries a few examples of each, the same in every run; ``pytest -m slow`` tries 500.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

import soscope_scverse.im as im

pytestmark = pytest.mark.slow

SEEDS = st.integers(0, 2**32 - 1)
OPACITIES = {"straight": "unassalpha", "premultiplied": "assocalpha"}
REFUSALS = (ValueError, TypeError)


class Drawn(NamedTuple):
    """An image of 8 bits that was drawn, as it is to be shown."""

    pixels: np.ndarray
    """Height x width x 1 or 3."""
    opacity: np.ndarray | None
    """Height x width."""

    @property
    def shown(self) -> np.ndarray:
        """Height x width x 3, over white."""
        rgb = np.broadcast_to(self.pixels, (*self.pixels.shape[:2], 3))
        return rgb if self.opacity is None else np.where(self.opacity[..., None] > 0, rgb, 255)

    @property
    def stored(self) -> np.ndarray:
        """Height x width x channels."""
        return self.pixels if self.opacity is None else np.dstack([self.pixels, self.opacity])


@st.composite
def images(draw, channels=(1, 3), opacity=False):
    """Images that hold black and white, of which opacity hides less than the half."""
    height, width = draw(st.integers(2, 40)), draw(st.integers(5, 40))
    rng = np.random.default_rng(draw(SEEDS))
    pixels = rng.integers(0, 256, (height, width, draw(st.sampled_from(channels))), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    hidden = None
    if opacity and draw(st.booleans()):
        hidden = np.full((height, width), 255, np.uint8)
        hidden[1:, : draw(st.integers(0, width // 2))] = 0
    return Drawn(pixels, hidden)


def read(image: Any, **kwargs: Any) -> np.ndarray:
    source = im.open_image(image, **kwargs)
    return source.read(0, source.height, 0, source.width)


def as_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """The same image with values of fewer or more bits, in uint8 or uint16."""
    return np.rint(pixels / 255 * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


@given(
    drawn=images(),
    kind=st.sampled_from(["uint8", "float32", "float64", "float16", *range(8, 17)]),
    first=st.booleans(),
    container=st.sampled_from(["numpy", "dask", "xarray", "fortran", "big-endian", "view"]),
)
def test_the_type_of_values_does_not_change_what_is_shown(drawn, kind, first, container):
    if isinstance(kind, int):
        values = as_bits(drawn.pixels, kind).astype(np.uint16)
    elif kind == "uint8":
        values = drawn.pixels
    else:
        values = (drawn.pixels / 255).astype(kind)
    assume(not first or values.shape[1] not in (1, 3, 4))
    values = np.moveaxis(values, 2, 0) if first else values
    image = {
        "numpy": lambda: values,
        "dask": lambda: da.from_array(values, chunks=7),
        "xarray": lambda: xr.DataArray(values, dims=("c", "y", "x") if first else ("y", "x", "c")),
        "fortran": lambda: np.asfortranarray(values),
        "big-endian": lambda: values.astype(values.dtype.newbyteorder(">")),
        "view": lambda: np.repeat(values, 2, axis=-1)[..., ::2],
    }[container]()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        shown = read(image)
    exact = kind != "float16" and (not isinstance(kind, int) or kind in (8, 10, 12, 14, 16))
    if not exact:  # of cameras with other depths the range is the next larger one
        order = np.argsort(drawn.pixels, axis=None, kind="stable")
        assert (np.diff(shown[..., : drawn.pixels.shape[2]].ravel()[order].astype(int)) >= 0).all()
    else:
        np.testing.assert_array_equal(shown, drawn.shown)
    is_shallow = isinstance(kind, int) and kind < 15
    assert [("is the highest value" in str(w.message)) for w in told] == [True] * is_shallow


@given(
    drawn=images(opacity=True),
    photometric=st.sampled_from(["rgb", "minisblack", "miniswhite"]),
    planar=st.sampled_from(["contig", "separate"]),
    deep=st.booleans(),
    tiled=st.booleans(),
    kind=st.sampled_from(list(OPACITIES)),
    byteorder=st.sampled_from(["<", ">"]),
    compression=st.sampled_from([None, "zlib", "lzw"]),
)
def test_all_ways_to_store_a_tiff_show_one_image(drawn, photometric, planar, deep, tiled, kind, byteorder, compression):
    n_colours = drawn.pixels.shape[2]
    assume((photometric == "rgb") == (n_colours == 3))
    assume(photometric != "miniswhite" or drawn.opacity is None)
    stored = drawn.stored
    if kind == "premultiplied" and drawn.opacity is not None:
        stored[drawn.opacity == 0, :n_colours] = 0
    stored = 255 - stored if photometric == "miniswhite" else stored
    stored = stored.astype(np.uint16) * 257 if deep else stored
    arranged = (
        {"contig": stored, "separate": np.moveaxis(stored, 2, 0)}[planar] if stored.shape[2] > 1 else stored[..., 0]
    )
    options = {} if stored.shape[2] == 1 else {"planarconfig": planar}
    if drawn.opacity is not None:
        options["extrasamples"] = [OPACITIES[kind]]
    if tiled:
        options["tile"] = (16, 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        with tifffile.TiffWriter(path, byteorder=byteorder) as file:
            file.write(arranged, photometric=photometric, compression=compression, metadata=None, **options)
        np.testing.assert_array_equal(read(path), drawn.shown)


@given(drawn=images(opacity=True), form=st.sampled_from(["PNG", "Pillow"]), deep=st.booleans())
def test_png_and_pillow_show_the_image(drawn, form, deep):
    bands = [Image.fromarray(drawn.stored[..., i]) for i in range(drawn.stored.shape[2])]
    if len(bands) == 1 and deep:
        image = Image.fromarray(drawn.pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.merge({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(bands)], bands)
    if form == "Pillow":
        np.testing.assert_array_equal(read(image), drawn.shown)
        return
    with tempfile.TemporaryDirectory() as folder:
        image.save(Path(folder) / "a.png")
        np.testing.assert_array_equal(read(Path(folder) / "a.png"), drawn.shown)


@given(
    seed=SEEDS, n=st.integers(2, 7), dtype=st.sampled_from(["uint8", "uint16", "int32", "float32"]), last=st.booleans()
)
def test_channels_of_fluorescence_are_never_taken_for_opacity_in_silence(seed, n, dtype, last):
    rng = np.random.default_rng(seed)
    pixels = rng.gamma(1.5, 30, (n, 11, 13)).clip(0, 255).astype(dtype)
    pixels[-1] = rng.choice([0, 60, 255])
    pixels[-1, 0, 0] = 20
    image = np.moveaxis(pixels, 0, 2) if last else pixels
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            read(image)
        except REFUSALS as error:
            told.append(error)
    words = " ".join(str(getattr(one, "message", one)) for one in told)
    assert n == 3 or "channels=" in words
    for channel in range(n):
        assert read(image, channels=[channel]).dtype == np.uint8


@given(data=st.data(), shape=st.lists(st.integers(0, 6), max_size=4), dtype=st.sampled_from("?bBhHiIlLefdFDSUOMm"))
def test_arrays_are_shown_or_refused_with_advice(data, shape, dtype):
    """Of any shape and type, whatever they hold."""
    raw = data.draw(st.binary(min_size=0, max_size=64))
    values = np.resize(np.frombuffer(raw, np.uint8) if raw else np.zeros(1, np.uint8), shape)
    values = values.astype(dtype) if dtype != "M" else values.astype("M8[s]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shown = read(values)
        except REFUSALS as error:
            refusal = str(error)
        else:
            assert (shown.dtype, shown.shape[2:]) == (np.uint8, (3,))
            return
    assert refusal.startswith("Expected ")
    assert ", found " in refusal
