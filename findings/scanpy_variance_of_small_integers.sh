#!/usr/bin/env bash
# scanpy's variance of 8-bit and signed 16-bit counts is zero.
#
# Versions:
#   scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1
# Guess:
#   sc.get.aggregate promotes integers before it squares them, as it does for the sum and the mean.
# Behaviour:
#   The counts are squared in their own type, dense or sparse. Squares beyond the range of the type (from 16 in uint8
#   and from 182 in int16) wrap around, the difference from the squared mean is negative, and it is returned as 0
#   without a warning. Sum and mean of the same counts are right.
# Output (2026-11-30):
#   variance             [758.33333333 333.33333333]
#   uint8   asarray    [217.5 230. ] [0. 0.]
#   uint8   csr_matrix [217.5 230. ] [0. 0.]
#   int16   asarray    [217.5 230. ] [0. 0.]
#   int16   csr_matrix [217.5 230. ] [0. 0.]
#   float32 asarray    [217.5 230. ] [758.33333333 333.33333333]
#   float32 csr_matrix [217.5 230. ] [758.33333333 333.33333333]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    scanpy anndata numpy pandas scipy
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.sparse import csr_matrix

counts = np.array([[200, 210], [250, 220], [230, 240], [190, 250]])
truth = counts.var(axis=0, ddof=1)
print("variance            ", truth)
for dtype in ("uint8", "int16", "float32"):
    for kind in (np.asarray, csr_matrix):
        adata = ad.AnnData(kind(counts.astype(dtype)), obs=pd.DataFrame({"group": pd.Categorical(["a"] * 4)}))
        layers = sc.get.aggregate(adata, by="group", func=["mean", "var"]).layers
        mean, var = (np.asarray(layers[k]).ravel() for k in ("mean", "var"))
        print(f"{dtype:7} {kind.__name__:10}", mean, var)
        assert np.allclose(mean, counts.mean(axis=0)), mean
        assert np.allclose(var, truth if dtype == "float32" else 0), var
PY
