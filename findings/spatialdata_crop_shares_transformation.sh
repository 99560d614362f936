#!/usr/bin/env bash
# Rescaling a crop of a SpatialData image rescales the image it was cut from.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6
# Guess:
#   A crop made with xarray's isel has transformations of its own, as a selection of shapes does.
# Behaviour:
#   isel copies the attributes one level deep, so the crop and the image hold the same dictionary of transformations.
#   set_transformation writes into that dictionary: the image changes with its crop. A selection of points behaves like
#   the image, a selection of shapes does not.
# Output (2026-11-30):
#   transformation of the whole after its part was scaled: {'image': 'Scale', 'points': 'Scale', 'shapes': 'Identity'}
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
import pandas as pd
from spatialdata.models import Image2DModel, PointsModel, ShapesModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

rng = np.random.default_rng(0)
xy = rng.uniform(0, 10, (10, 2))
image = Image2DModel.parse(rng.random((1, 10, 10)), dims=("c", "y", "x"))
points = PointsModel.parse(xy)
shapes = ShapesModel.parse(xy, geometry=0, radius=1)
parts = {
    "image": (image, image.isel(x=slice(0, 5))),
    "points": (points, points[points["x"] > 5]),
    "shapes": (shapes, shapes.iloc[:5]),
}
seen = {}
for name, (whole, part) in parts.items():
    assert isinstance(get_transformation(whole), Identity)
    set_transformation(part, Scale([2, 2], axes=("x", "y")))
    seen[name] = type(get_transformation(whole)).__name__
print("transformation of the whole after its part was scaled:", seen)
assert seen == {"image": "Scale", "points": "Scale", "shapes": "Identity"}, seen
PY
