#!/usr/bin/env bash
# A column from pandas.cut cannot be written to h5ad; in Zarr its intervals return as strings.
#
# Versions:
#   anndata 0.12.19, zarr 3.1.6, h5py 3.16.0, pandas 2.3.3, numpy 2.4.6, scipy 1.17.1
# Guess:
#   Both formats refuse categories that are intervals, or dates, as they refuse such columns.
# Behaviour:
#   h5ad refuses both. Zarr accepts both: dates return as dates, intervals silently as their text, so that membership in
#   an interval can no longer be computed. The same column without categories is refused by both.
# Output (2026-11-30):
#   intervals       h5ad  raises TypeError
#   intervals       zarr  str
#   dates           h5ad  raises TypeError
#   dates           zarr  Timestamp
#   plain intervals h5ad  raises IORegistryError
#   plain intervals zarr  raises IORegistryError
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    anndata==0.12.19 zarr==3.1.6 h5py==3.16.0 pandas==2.3.3 numpy==2.4.6 scipy==1.17.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    anndata zarr h5py pandas numpy scipy
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import numpy as np
import pandas as pd

columns = {
    "intervals": pd.cut([0.5, 1.5, 2.5], [0, 1, 2, 3]),
    "dates": pd.Categorical(pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03"])),
    "plain intervals": pd.arrays.IntervalArray.from_breaks([0, 1, 2, 3]),
}
seen = {}
for name, column in columns.items():
    adata = ad.AnnData(np.ones((3, 2), "float32"), obs=pd.DataFrame({"column": column}, index=list("abc")))
    for kind in ("h5ad", "zarr"):
        path = f"{name}.{kind}"
        try:
            getattr(adata, f"write_{kind}")(path)
            first = getattr(ad, f"read_{kind}")(path).obs["column"].iloc[0]
            seen[name, kind] = type(first).__name__
        except Exception as error:  # what is raised is what is shown
            seen[name, kind] = f"raises {type(error).__name__}"
        print(f"{name:16}{kind:5} {seen[name, kind]}")
assert seen == {
    ("intervals", "h5ad"): "raises TypeError",
    ("intervals", "zarr"): "str",
    ("dates", "h5ad"): "raises TypeError",
    ("dates", "zarr"): "Timestamp",
    ("plain intervals", "h5ad"): "raises IORegistryError",
    ("plain intervals", "zarr"): "raises IORegistryError",
}, seen
PY
