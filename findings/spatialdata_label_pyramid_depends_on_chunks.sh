#!/usr/bin/env bash
# The lower levels of a SpatialData label image depend on how Dask splits the full one.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6
# Guess:
#   Levels are a function of the pixels: splitting the array into other chunks changes the speed alone.
# Behaviour:
#   True for an even side. With an odd side, the chunks determine which pixels of the full image are kept: some chunks
#   change 4 % of the level, others three quarters.
# Output (2026-11-30):
#   side 100, chunks of 25: 0.0% of the pixels of level 1 differ
#   side 100, chunks of 51: 0.0% of the pixels of level 1 differ
#   side 99, chunks of 25: 4.0% of the pixels of level 1 differ
#   side 99, chunks of 51: 73.8% of the pixels of level 1 differ
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
import dask.array as da
import numpy as np
from spatialdata.models import Labels2DModel


def level(labels, chunk):
    array = da.from_array(labels, chunks=chunk)
    return Labels2DModel.parse(array, dims=("y", "x"), scale_factors=[2])["scale1"]["image"].values


rng = np.random.default_rng(0)
changed = {}
for side in (100, 99):
    labels = rng.integers(1, 1000, (side, side))
    whole = level(labels, side)
    for chunk in (25, 51):
        other = level(labels, chunk)
        assert other.shape == whole.shape == (side // 2, side // 2)
        changed[side, chunk] = float(np.mean(other != whole))
        print(f"side {side}, chunks of {chunk}: {changed[side, chunk]:.1%} of the pixels of level 1 differ")
assert changed[100, 25] == changed[100, 51] == 0, changed
assert 0 < changed[99, 25] < 0.1, changed
assert changed[99, 51] > 0.7, changed
PY
