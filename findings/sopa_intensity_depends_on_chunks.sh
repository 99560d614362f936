#!/usr/bin/env bash
# sopa's mean intensity of a cell depends on how Dask splits the image.
#
# Versions:
#   sopa 2.2.11, spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0,
#   zarr 3.1.6, anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6, scikit-image 0.26.0
# Guess:
#   The sums over the parts of a cell are those of the whole cell. Chunks change the speed alone.
# Behaviour:
#   In a chunk that a cell enters from the left or from above, the mask is drawn from the corner of the whole cell, not
#   from that of its part: the pixels that count there are chosen by another part of the cell. Below, a triangle of ones
#   has a mean of 0.55 where borders of chunks cross it. A triangle within one chunk does not change. The minimum uses
#   the same masks.
# Output (2026-12-01):
#   chunks of 40: average of two cells [1.0, 1.0]
#   chunks of 40: min of two cells [1.0, 1.0]
#   chunks of 20: average of two cells [1.0, 0.552]
#   chunks of 20: min of two cells [1.0, 0.0]
#   chunks of 10: average of two cells [1.0, 0.745]
#   chunks of 10: min of two cells [1.0, 0.0]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    sopa==2.2.11 spatialdata==0.7.3 dask==2026.1.1 xarray==2026.9.0 dask-image==2026.5.0 ome-zarr==0.15.0 \
    zarr==3.1.6 anndata==0.12.19 geopandas==1.2.0 shapely==2.2.0 pandas==2.3.3 numpy==2.4.6 scikit-image==0.26.0
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    sopa spatialdata dask xarray dask-image ome-zarr zarr anndata geopandas shapely pandas numpy scikit-image
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import logging

import dask
import dask.array as da
import geopandas as gpd
import numpy as np
from shapely import Polygon
from skimage.draw import polygon
from sopa.aggregation import aggregate_channels
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel

logging.disable(logging.INFO)
dask.config.set(scheduler="synchronous")
corners = [np.array([[0, 0], [0, 8], [8, 0]]), np.array([[12, 12], [12, 36], [36, 12]])]  # x, y of two triangles
pixels = np.zeros((1, 40, 40), "float32")
for triangle in corners:
    pixels[0][polygon(triangle[:, 1], triangle[:, 0])] = 1
cells = gpd.GeoDataFrame(geometry=[Polygon(triangle) for triangle in corners])
seen = {}
for chunk in (40, 20, 10):
    image = Image2DModel.parse(da.from_array(pixels, chunks=(1, chunk, chunk)), dims=("c", "y", "x"), c_coords=["DAPI"])
    sdata = SpatialData.init_from_elements({"image": image, "cells": ShapesModel.parse(cells.copy())})
    for mode in ("average", "min"):
        with contextlib.redirect_stdout(io.StringIO()):  # a progress bar
            table = aggregate_channels(sdata, shapes_key="cells", mode=mode)
        seen[chunk, mode] = np.asarray(table.X).ravel().round(3).tolist()
        print(f"chunks of {chunk}: {mode} of two cells {seen[chunk, mode]}")
assert seen[40, "average"] == seen[40, "min"] == [1, 1], seen
for chunk in (20, 10):
    assert seen[chunk, "average"][0] == 1 and seen[chunk, "average"][1] < 0.95, seen
PY
