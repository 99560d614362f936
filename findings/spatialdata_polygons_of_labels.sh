#!/usr/bin/env bash
# Polygons of a label image are half a pixel from its circles, and holes add to their area.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6
# Guess:
#   to_polygons outlines the pixels: a label of 32 pixels has an area of 32, and its polygon is centred where to_circles
#   puts the circle.
# Behaviour:
#   The outline is a contour halfway between the indices of pixels inside and outside, and indices are taken as
#   coordinates, although pixel i covers i to i + 1. One pixel becomes a diamond with an area of 0.5 around the pixel's
#   corner. A hole is returned as a second polygon over the first, which is invalid and adds to the area.
# Output (2026-11-30):
#   label 1: 1 pixels, area 0.5, valid True, from the circle (-0.5, -0.5)
#   label 2: 8 pixels, area 7.5, valid True, from the circle (-0.5, -0.5)
#   label 3: 32 pixels, area 39.0, valid False, from the circle (-0.5, -0.5)
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    spatialdata==0.7.3 dask==2026.1.1 xarray==2026.9.0 dask-image==2026.5.0 ome-zarr==0.15.0 zarr==3.1.6 \
    anndata==0.12.19 geopandas==1.2.0 shapely==2.2.0 pandas==2.3.3 numpy==2.4.6
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    spatialdata dask xarray dask-image ome-zarr zarr anndata geopandas shapely pandas numpy
venv/bin/python -W ignore - <<'PY'
import numpy as np
from spatialdata import to_circles, to_polygons
from spatialdata.models import Labels2DModel

labels = np.zeros((12, 12), dtype=int)
labels[0, 0] = 1  # a single pixel
labels[2:4, 2:6] = 2  # a rectangle of 8 pixels
labels[5:11, 5:11] = 3
labels[7:9, 7:9] = 0  # a square of 36 pixels with a hole of 4
element = Labels2DModel.parse(labels, dims=("y", "x"))
polygons, circles = to_polygons(element), to_circles(element)
n_pixels = np.bincount(labels.ravel())
seen = {}
for i in (1, 2, 3):
    polygon, circle = polygons.geometry.loc[i], circles.geometry.loc[i]
    shift = (polygon.envelope.centroid.x - circle.x, polygon.envelope.centroid.y - circle.y)
    seen[i] = (int(n_pixels[i]), polygon.area, polygon.is_valid, shift)
    print(f"label {i}: {seen[i][0]} pixels, area {seen[i][1]}, valid {seen[i][2]}, from the circle {seen[i][3]}")
assert seen == {
    1: (1, 0.5, True, (-0.5, -0.5)),
    2: (8, 7.5, True, (-0.5, -0.5)),
    3: (32, 39.0, False, (-0.5, -0.5)),
}, seen
PY
