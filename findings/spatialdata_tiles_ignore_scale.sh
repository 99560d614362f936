#!/usr/bin/env bash
# Image tiles of spots are too small or too large if the spots have a scale.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6, torch 2.13.0
# Guess:
#   tile_scale=1 gives a tile as wide as the spot, in the coordinate system in which spots and image are compared: spots
#   measured in micrometres, or in full-resolution pixels beside a downscaled image, have tiles that cover them.
# Behaviour:
#   The centres are transformed to that coordinate system, the radius is not: the tile has the width of the spot before
#   its transformation. The same spots of 16 pixels, given in units of 4 pixels, have tiles of 4 pixels. Units that
#   are smaller than a pixel give tiles that are too large.
# Output (2026-12-01):
#   rasterize=False, unit of 1 pixels: spot from 24.0 to 40.0, tile (16, 16)
#   rasterize=False, unit of 4 pixels: spot from 24.0 to 40.0, tile (4, 4)
#   rasterize=False, unit of 0.5 pixels: spot from 24.0 to 40.0, tile (32, 32)
#   rasterize=True, unit of 1 pixels: spot from 24.0 to 40.0, tile (16, 16)
#   rasterize=True, unit of 4 pixels: spot from 24.0 to 40.0, tile (4, 4)
#   rasterize=True, unit of 0.5 pixels: spot from 24.0 to 40.0, tile (32, 32)
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    spatialdata==0.7.3 dask==2026.1.1 xarray==2026.9.0 dask-image==2026.5.0 ome-zarr==0.15.0 zarr==3.1.6 \
    anndata==0.12.19 geopandas==1.2.0 shapely==2.2.0 pandas==2.3.3 numpy==2.4.6 torch==2.13.0
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    spatialdata dask xarray dask-image ome-zarr zarr anndata geopandas shapely pandas numpy torch
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import numpy as np
import pandas as pd
from spatialdata import SpatialData, get_extent
from spatialdata.dataloader import ImageTilesDataset
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale


def tile(scale, rasterize):
    """One spot of 16 pixels at the centre of an image, in units of `scale` pixels."""
    transformations = {"global": Scale([scale, scale], axes=("x", "y"))}
    centre = np.array([[32.0, 32.0]]) / scale
    spots = ShapesModel.parse(centre, geometry=0, radius=8 / scale, transformations=transformations)
    obs = pd.DataFrame({"region": pd.Categorical(["spots"]), "spot": [0]}, index=["a"])
    table = TableModel.parse(
        ad.AnnData(np.ones((1, 1), "float32"), obs=obs), region="spots", region_key="region", instance_key="spot"
    )
    image = Image2DModel.parse(np.ones((1, 64, 64)), dims=("c", "y", "x"))
    sdata = SpatialData(images={"image": image}, shapes={"spots": spots}, tables={"table": table})
    extent = get_extent(sdata["spots"], coordinate_system="global")["x"]
    tiles = ImageTilesDataset(
        sdata,
        regions_to_images={"spots": "image"},
        regions_to_coordinate_systems={"spots": "global"},
        table_name="table",
        return_annotations="spot",
        transform=lambda sample: sample,
        tile_scale=1,
        rasterize=rasterize,
        rasterize_kwargs={"target_unit_to_pixels": 1} if rasterize else None,
    )
    return [float(x) for x in extent], np.asarray(tiles[0][0]).shape[1:]


for rasterize in (False, True):
    for scale, width in ((1, 16), (4, 4), (0.5, 32)):
        extent, size = tile(scale, rasterize)
        print(f"rasterize={rasterize}, unit of {scale} pixels: spot from {extent[0]} to {extent[1]}, tile {size}")
        assert extent == [24, 40] and size == (width, width), (extent, size)
PY
