#!/usr/bin/env bash
# OpenSlide's read_region at a lower level blends pixels if the location is not a multiple of its factor.
#
# Versions:
#   openslide-python 1.4.7, openslide-bin 4.0.1.2, tiffslide 3.0.1, tifffile 2026.3.3, imagecodecs 2026.3.6,
#   numpy 2.4.6, pillow 13.0.0, zarr 3.1.6
# Guess:
#   Every pixel returned is a pixel of the file; the location is rounded to the grid of the level, as tiffslide does.
# Behaviour:
#   The location is kept as a fraction of a pixel of the level, and the region is interpolated: from an odd location at
#   half resolution each pixel is the mean of four. tiffslide rounds down, so the two readers disagree on the same file.
# Output (2026-11-30):
#   OpenSlide at (100, 100): pixels of the file True, means of four False
#   TiffSlide at (100, 100): pixels of the file True, means of four False
#   OpenSlide at (101, 101): pixels of the file False, means of four True
#   TiffSlide at (101, 101): pixels of the file True, means of four False
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    openslide-python==1.4.7 openslide-bin==4.0.1.2 tiffslide==3.0.1 tifffile==2026.3.3 imagecodecs==2026.3.6 \
    numpy==2.4.6 pillow==13.0.0 zarr==3.1.6
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    openslide-python openslide-bin tiffslide tifffile imagecodecs numpy pillow zarr
venv/bin/python -W ignore - <<'PY'
import numpy as np
import openslide
import tifffile
import tiffslide

rng = np.random.default_rng(0)
full = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
half = np.ascontiguousarray(full[::2, ::2])
options = {"tile": (128, 128), "photometric": "rgb", "metadata": None}
with tifffile.TiffWriter("slide.tif") as file:
    file.write(full, **options)
    file.write(half, subfiletype=1, **options)
slides = openslide.OpenSlide("slide.tif"), tiffslide.TiffSlide("slide.tif")
assert all(tuple(slide.level_downsamples) == (1.0, 2.0) for slide in slides)

found = {}
for location in [(100, 100), (101, 101)]:
    x, y = (i // 2 for i in location)
    pixels = half[y : y + 8, x : x + 8].astype(int)
    four = half[y : y + 9, x : x + 9].astype(float)
    mean = (four[:-1, :-1] + four[1:, :-1] + four[:-1, 1:] + four[1:, 1:]) / 4
    for slide in slides:
        region = np.asarray(slide.read_region(location, 1, (8, 8)))[..., :3]
        same = np.array_equal(region, pixels)
        blended = bool(np.abs(region - mean).max() <= 1)
        found[location, slides.index(slide)] = (same, blended)
        print(f"{type(slide).__name__} at {location}: pixels of the file {same}, means of four {blended}")
assert found[(100, 100), 0] == found[(100, 100), 1] == (True, False)
assert found[(101, 101), 0] == (False, True), found
assert found[(101, 101), 1] == (True, False), found
PY
