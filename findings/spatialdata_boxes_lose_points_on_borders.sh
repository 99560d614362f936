#!/usr/bin/env bash
# Tiling points with bounding boxes loses those on the borders of the tiles, and the same tiles as polygons repeat them.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6
# Guess:
#   A box includes its borders, as the polygon of the same square does, or its lower borders.
# Behaviour:
#   bounding_box_query excludes points on all four borders, polygon_query includes them. Points with integer coordinates
#   (bins, pixels) on tiles of integer size are lost along whole lines: 76 of 400 are in none of four tiles below.
#   With polygons each of them is in two tiles or more.
# Output (2026-12-01):
#   bounding_box_query: number of points by number of tiles that contain them {0: 76, 1: 324}
#   polygon_query: number of points by number of tiles that contain them {1: 361, 2: 38, 4: 1}
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
from collections import Counter

import numpy as np
from shapely import box
from spatialdata import bounding_box_query, polygon_query
from spatialdata.models import PointsModel

side = 20
x, y = np.meshgrid(np.arange(side), np.arange(side))
points = PointsModel.parse(np.c_[x.ravel(), y.ravel()].astype(float))


def tiles(query):
    times = Counter()
    for x0 in (0, 10):
        for y0 in (0, 10):
            part = query(x0, y0, x0 + 10, y0 + 10)
            if part is not None:
                times.update(part.compute().index)
    return dict(sorted(Counter(times[i] for i in range(side**2)).items()))


def boxes(x0, y0, x1, y1):
    return bounding_box_query(
        points, axes=("x", "y"), min_coordinate=[x0, y0], max_coordinate=[x1, y1], target_coordinate_system="global"
    )


def polygons(*bounds):
    return polygon_query(points, box(*bounds), target_coordinate_system="global")


seen = {"bounding_box_query": tiles(boxes), "polygon_query": tiles(polygons)}
for name, times in seen.items():
    print(f"{name}: number of points by number of tiles that contain them {times}")
assert seen["bounding_box_query"] == {0: 76, 1: 324}, seen
assert seen["polygon_query"] == {1: 361, 2: 38, 4: 1}, seen
PY
