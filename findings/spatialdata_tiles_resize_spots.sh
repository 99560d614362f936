#!/usr/bin/env bash
# A dataset of image tiles changes the radius of the spots it is made from.
#
# Versions:
#   spatialdata 0.7.3, dask 2026.1.1, xarray 2026.9.0, dask-image 2026.5.0, ome-zarr 0.15.0, zarr 3.1.6,
#   anndata 0.12.19, geopandas 1.2.0, shapely 2.2.0, pandas 2.3.3, numpy 2.4.6, torch 2.13.0
# Guess:
#   Making an ImageTilesDataset reads the spots: two with the same arguments have equal tiles, and the spots in the
#   SpatialData object keep their radius.
# Behaviour:
#   The size of a tile is written into the radius of the circles themselves, without a copy. The first tile_scale=2
#   doubles the radius of all spots, the second one doubles it again with tiles of twice the size, and tile_dim_in_units
#   replaces it. What is computed or written afterwards uses the changed circles.
# Output (2026-12-01):
#   after {'tile_scale': 2}: tile (8, 8), radius of the spots [4.0, 4.0]
#   after {'tile_scale': 2}: tile (16, 16), radius of the spots [8.0, 8.0]
#   after {'tile_dim_in_units': 30}: tile (30, 30), radius of the spots [15.0, 15.0]
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
from spatialdata import SpatialData
from spatialdata.dataloader import ImageTilesDataset
from spatialdata.models import Image2DModel, ShapesModel, TableModel

centres = np.array([[30.0, 30.0], [34.0, 30.0]])
obs = pd.DataFrame({"region": pd.Categorical(["spots"] * 2), "spot": [0, 1]}, index=["a", "b"])
table = TableModel.parse(
    ad.AnnData(np.ones((2, 1), "float32"), obs=obs), region="spots", region_key="region", instance_key="spot"
)
sdata = SpatialData(
    images={"image": Image2DModel.parse(np.zeros((1, 64, 64)), dims=("c", "y", "x"))},
    shapes={"spots": ShapesModel.parse(centres, geometry=0, radius=2.0)},
    tables={"table": table},
)
seen = [("before", sdata["spots"]["radius"].tolist())]
for options in ({"tile_scale": 2}, {"tile_scale": 2}, {"tile_dim_in_units": 30}):
    tiles = ImageTilesDataset(
        sdata,
        regions_to_images={"spots": "image"},
        regions_to_coordinate_systems={"spots": "global"},
        table_name="table",
        return_annotations="spot",
        transform=lambda sample: sample,
        **options,
    )
    size = np.asarray(tiles[0][0]).shape[1:]
    seen.append((size, sdata["spots"]["radius"].tolist()))
    print(f"after {options}: tile {size}, radius of the spots {seen[-1][1]}")
assert seen == [("before", [2, 2]), ((8, 8), [4, 4]), ((16, 16), [8, 8]), ((30, 30), [15, 15])], seen
PY
