#!/usr/bin/env bash
# One gene without variation makes the false discovery rates of all genes NaN.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, statsmodels 0.15.0
# Guess:
#   sq.gr.spatial_autocorr returns NaN in the row of a constant gene, and the others are not affected.
# Behaviour:
#   I and the p-value are NaN for that gene alone. The p-values are then corrected together, NaN included, and
#   pval_norm_fdr_bh is NaN for every gene. The only warning says that NaN is returned for one constant variable.
# Output (2026-11-30):
#                  I  pval_norm  pval_norm_fdr_bh
#   gradient  0.9656     0.0000            0.0000
#   noise    -0.1209     0.0318            0.0318
#
#                  I  pval_norm  pval_norm_fdr_bh
#   gradient  0.9656     0.0000               NaN
#   noise    -0.1209     0.0318               NaN
#   constant     NaN        NaN               NaN
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    squidpy==1.8.2 scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 statsmodels==0.15.0
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    squidpy scanpy anndata numpy pandas scipy statsmodels
venv/bin/python -W ignore - <<'PY'
import logging

import anndata as ad
import numpy as np
import squidpy as sq

logging.disable(logging.INFO)  # a line for each graph
side = 12
x, y = np.meshgrid(np.arange(side), np.arange(side))
rng = np.random.default_rng(0)
values = np.c_[(x + rng.random(x.shape)).ravel(), rng.random(side**2), np.full(side**2, 3.0)]


def moran(columns):
    adata = ad.AnnData(values[:, columns])
    adata.var_names = [["gradient", "noise", "constant"][i] for i in columns]
    adata.obsm["spatial"] = np.c_[x.ravel(), y.ravel()].astype(float)
    sq.gr.spatial_neighbors_grid(adata, n_neighs=4)
    sq.gr.spatial_autocorr(adata, mode="moran")
    return adata.uns["moranI"]


without, with_constant = moran([0, 1]), moran([0, 1, 2])
for table in (without, with_constant):
    print(table[["I", "pval_norm", "pval_norm_fdr_bh"]].round(4), "\n")
assert without["pval_norm_fdr_bh"].notna().all()
assert without.loc["gradient", "pval_norm_fdr_bh"] < 1e-6
assert with_constant.loc[["gradient", "noise"], "pval_norm"].notna().all()
assert with_constant["pval_norm_fdr_bh"].isna().all()
PY
