#!/usr/bin/env bash
# Concatenating lazily read AnnData turns categorical columns into strings.
#
# Versions:
#   anndata 0.12.19, zarr 3.1.6, h5py 3.16.0, pandas 2.3.3, numpy 2.4.6, scipy 1.17.1, xarray 2026.9.0, dask 2026.1.1
# Guess:
#   read_lazy, concat and to_memory give the same columns as reading and concat: categories and their order are kept.
# Behaviour:
#   Each lazy object has the categories, but after concat the columns are arrays of objects, also where the objects have
#   equal ordered categories. The order of the categories is lost.
# Output (2026-11-30):
#   lazy, one section: {'layer': 'category', 'zone': 'category'}
#   read, two sections: {'layer': 'category', 'zone': 'category'}
#   lazy, two sections: {'layer': 'object', 'zone': 'object'}
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    anndata==0.12.19 zarr==3.1.6 h5py==3.16.0 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1 xarray==2026.9.0 \
    dask==2026.1.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    anndata zarr h5py pandas numpy scipy xarray dask
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import numpy as np
import pandas as pd
from anndata.experimental import read_lazy

layers = pd.Categorical(["WM", "L1", "L2"], categories=["L1", "L2", "WM"], ordered=True)
zones = pd.Categorical(["tumour", "edge", "normal"], categories=["normal", "edge", "tumour"], ordered=True)
adata = ad.AnnData(np.ones((3, 2), "float32"), obs=pd.DataFrame({"layer": layers, "zone": zones}, index=list("abc")))
adata.write_h5ad("section.h5ad")

lazy = read_lazy("section.h5ad")
one = lazy.to_memory().obs
eager = ad.concat([adata, adata], keys=["1", "2"], index_unique="-").obs
both = ad.concat([lazy, lazy], keys=["1", "2"], index_unique="-").to_memory().obs
for name, obs in {"lazy, one section": one, "read, two sections": eager, "lazy, two sections": both}.items():
    print(f"{name}: {dict(obs[['layer', 'zone']].dtypes.astype(str))}")
for column in ("layer", "zone"):
    assert one[column].cat.ordered and eager[column].cat.ordered
    assert both[column].dtype == object
assert both["zone"].tolist() == eager["zone"].tolist()
PY
