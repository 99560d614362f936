#!/usr/bin/env bash
# A bounding box between pixel borders returns a crop whose transformation is one pixel off.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6
# Guess:
#   The translation of the crop is the border of its first pixel, so each pixel keeps its coordinates.
# Behaviour:
#   The pixels are chosen by their centres, but the translation is the lower corner of the box rounded up. The two
#   differ if the corner lies inside the first half of a pixel: below, the crop is moved by one pixel for boxes from
#   0.4, 1.2 and 1.5.
# Output (2026-11-30):
#   box from 1: first pixel starts at 1.0, the crop says 1.0
#   box from 0.4: first pixel starts at 0.0, the crop says 1.0
#   box from 1.2: first pixel starts at 1.0, the crop says 2.0
#   box from 1.5: first pixel starts at 1.0, the crop says 2.0
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
from spatialdata import bounding_box_query
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

column = np.arange(10.0)  # the value of a pixel is the coordinate of its left border
image = Image2DModel.parse(np.tile(column, (1, 10, 1)), dims=("c", "y", "x"))
moved = {}
for low, high in [(1, 3), (0.4, 2.6), (1.2, 3.2), (1.5, 3.5)]:
    crop = bounding_box_query(
        image,
        axes=("x", "y"),
        min_coordinate=[low, low],
        max_coordinate=[high, high],
        target_coordinate_system="global",
    )
    matrix = get_transformation(crop).to_affine_matrix(("x", "y"), ("x", "y"))
    first = float(crop.values[0, 0, 0])
    moved[low] = float(matrix[0, 2]) - first
    print(f"box from {low}: first pixel starts at {first}, the crop says {matrix[0, 2]}")
assert moved == {1: 0.0, 0.4: 1.0, 1.2: 1.0, 1.5: 1.0}, moved
PY
