#!/usr/bin/env bash
# squidpy's permutation p-values of Moran's I and Geary's C come from half the variance they should have.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, esda 2.9.0,
#   libpysal 4.14.1
# Guess:
#   Permuting the spots gives the variance that the formula under normality gives, as in esda, and p-values of genes
#   without spatial pattern are uniform: the smaller tail is below 0.05 for a tenth of them.
# Behaviour:
#   Only the rows of the graph are permuted, not its rows and columns together, so that the two directions of an edge
#   no longer refer to the same pair of spots. The variance is about half of the right one, and twice as many random
#   genes are found. esda returns the same I, and permutations with the right variance.
# Output (2026-12-01):
#   squidpy moran  variance of permutations / formula 0.51, random genes with p < 0.05: 24%
#   squidpy geary  variance of permutations / formula 0.50, random genes with p < 0.05: 24%
#   esda moran     variance of permutations / formula 0.99, random genes with p < 0.05: 12%
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    squidpy==1.8.2 scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 esda==2.9.0 \
    libpysal==4.14.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    squidpy scanpy anndata numpy pandas scipy esda libpysal
venv/bin/python -W ignore - <<'PY'
import logging

import anndata as ad
import numpy as np
import squidpy as sq
from esda import Moran
from libpysal.weights import WSP

logging.disable(logging.INFO)  # a line for each graph
side, n_genes = 20, 200
x, y = np.meshgrid(np.arange(side), np.arange(side))
adata = ad.AnnData(np.random.default_rng(0).normal(size=(side**2, n_genes)))
adata.obsm["spatial"] = np.c_[x.ravel(), y.ravel()].astype(float)
sq.gr.spatial_neighbors_grid(adata, n_neighs=4)
seen = {}
for mode, table in (("moran", "moranI"), ("geary", "gearyC")):
    sq.gr.spatial_autocorr(adata, mode=mode, n_perms=499, seed=0, n_jobs=1, show_progress_bar=False)
    result = adata.uns[table].loc[adata.var_names]
    ratio, found = (result["var_sim"] / result["var_norm"]).mean(), (result["pval_sim"] < 0.05).mean()
    seen[f"squidpy {mode}"] = (ratio, found)

weights = WSP(adata.obsp["spatial_connectivities"].tocsr()).to_W()
np.random.seed(0)
reference = [Moran(adata.X[:, j], weights, permutations=499) for j in range(n_genes)]
ratio = np.mean([m.VI_sim for m in reference]) / reference[0].VI_norm
seen["esda moran"] = (ratio, np.mean([m.p_sim < 0.05 for m in reference]))
for name, (ratio, found) in seen.items():
    print(f"{name:14} variance of permutations / formula {ratio:.2f}, random genes with p < 0.05: {found:.0%}")
assert np.allclose([m.I for m in reference], adata.uns["moranI"].loc[adata.var_names, "I"])
assert abs(seen["esda moran"][0] - 1) < 0.05 and seen["esda moran"][1] < 0.15, seen
for mode in ("moran", "geary"):
    assert 0.45 < seen[f"squidpy {mode}"][0] < 0.55 and seen[f"squidpy {mode}"][1] > 0.2, seen
PY
