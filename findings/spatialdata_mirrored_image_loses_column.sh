#!/usr/bin/env bash
# Mirroring an image with spatialdata.transform loses a column and adds one of zeros.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6
# Guess:
#   Mirroring and half turns by integer matrices return the same pixels in reverse order.
# Behaviour:
#   The pixel grid is sampled at pixel corners, not at centres. After a reflection the corner of the first pixel is
#   outside the image and is filled with zero, all others move by one pixel, and the column that was first is lost. A
#   half turn loses a row as well.
# Output (2026-11-30):
#   first row of the image     [1. 2. 3. 4. 5.]
#   first row, mirrored        [0. 5. 4. 3. 2.]
#   first two rows, half turn  [[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 25.0, 24.0, 23.0, 22.0]]
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
from spatialdata import transform
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Scale

pixels = np.arange(1.0, 26.0).reshape(1, 5, 5)


def resample(transformation):
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"global": transformation})
    return transform(image, to_coordinate_system="global").values[0]


mirrored = resample(Scale([-1, 1], axes=("x", "y")))
turned = resample(Affine(np.diag([-1, -1, 1]), input_axes=("x", "y"), output_axes=("x", "y")))
print("first row of the image    ", pixels[0, 0])
print("first row, mirrored       ", mirrored[0])
print("first two rows, half turn ", turned[:2].tolist())
expected = np.zeros((5, 5))
expected[:, 1:] = pixels[0, :, :0:-1]
assert np.array_equal(mirrored, expected), mirrored
expected = np.zeros((5, 5))
expected[1:, 1:] = pixels[0, :0:-1, :0:-1]
assert np.array_equal(turned, expected), turned
PY
