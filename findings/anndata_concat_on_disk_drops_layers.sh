#!/usr/bin/env bash
# concat_on_disk with an outer join drops layers that concat keeps, and refuses dense integers.
#
# Versions:
#   anndata 0.12.19, zarr 3.1.6, h5py 3.16.0, pandas 2.3.3, numpy 2.4.6, scipy 1.17.1, dask 2026.1.1
# Guess:
#   concat_on_disk(join="outer") writes what concat(join="outer") returns.
# Behaviour:
#   A layer of one file only is filled with NaN by concat; on disk it is dropped without a warning. Dense integers with
#   a missing gene become floating point in concat; on disk NaN is assigned to integers, which raises.
# Output (2026-11-30):
#   float32: layers of concat ['smoothed'], concat_on_disk []
#   int64: layers of concat ['smoothed'], concat_on_disk cannot convert float NaN to integer
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    anndata==0.12.19 zarr==3.1.6 h5py==3.16.0 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1 dask==2026.1.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    anndata zarr h5py pandas numpy scipy dask
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import numpy as np
from anndata.experimental import concat_on_disk


def section(first, genes, dtype):
    values = np.arange(first, first + 2 * len(genes), dtype=dtype).reshape(2, len(genes))
    adata = ad.AnnData(values)
    adata.var_names, adata.obs_names = list(genes), [f"s{first}", f"s{first + 1}"]
    return adata


seen = {}
for dtype in ("float32", "int64"):
    a, b = section(1, "xyz", dtype), section(11, "yw", dtype)
    a.layers["smoothed"] = a.X.copy()
    a.write_h5ad("a.h5ad")
    b.write_h5ad("b.h5ad")
    memory = ad.concat([a, b], join="outer")
    assert list(memory.layers) == ["smoothed"] and np.isnan(memory.X).sum() == 6
    try:
        concat_on_disk(["a.h5ad", "b.h5ad"], f"{dtype}.h5ad", join="outer")
        disk = ad.read_h5ad(f"{dtype}.h5ad")
        assert np.array_equal(disk.X, memory.X, equal_nan=True)
        seen[dtype] = list(disk.layers)
    except ValueError as error:
        seen[dtype] = str(error)
    print(f"{dtype}: layers of concat {list(memory.layers)}, concat_on_disk {seen[dtype]}")
assert seen == {"float32": [], "int64": "cannot convert float NaN to integer"}, seen
PY
