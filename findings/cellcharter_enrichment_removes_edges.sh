#!/usr/bin/env bash
# cellcharter's neighbourhood enrichment removes edges from the graph of the user.
#
# Versions:
#   cellcharter 0.3.7, squidpy 1.8.2, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, torch 2.13.0
# Guess:
#   nhood_enrichment(copy=True) reads the spatial graph and returns a result.
# Behaviour:
#   Links within a cluster (only_inter) are removed from the stored graph itself, with copy=True as well. Whatever runs
#   afterwards uses the graph that remains: with two thirds of the links left, the enrichment of a second clustering is
#   another one than without the first call.
# Output (2026-12-01):
#   links before: 1520
#   links after the enrichment of the first clustering: 992
#   links after the enrichment of the second clustering: 686
#   enrichment of A and B in the second clustering: 0.161, without the first 0.145
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    cellcharter==0.3.7 squidpy==1.8.2 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 torch==2.13.0
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    cellcharter squidpy anndata numpy pandas scipy torch
venv/bin/python -W ignore - <<'PY'
import logging

import anndata as ad
import cellcharter as cc
import numpy as np
import pandas as pd
import squidpy as sq

logging.disable(logging.INFO)  # a line for each graph
rng = np.random.default_rng(0)
side = 20
x, y = np.meshgrid(np.arange(side), np.arange(side))
adata = ad.AnnData(np.ones((side**2, 1), "float32"), obsm={"spatial": np.c_[x.ravel(), y.ravel()].astype(float)})
for key in ("first", "second"):
    adata.obs[key] = pd.Categorical(rng.choice(["A", "B", "C"], side**2))
sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=4)


def enrichment(key):
    return cc.gr.nhood_enrichment(adata, key, copy=True)["enrichment"].loc["A", "B"]


kept = adata.obsp["spatial_connectivities"].copy()
links, value = [kept.nnz], None
print("links before:", links[0])
for key in ("first", "second"):
    value = enrichment(key)
    links.append(adata.obsp["spatial_connectivities"].nnz)
    print(f"links after the enrichment of the {key} clustering: {links[-1]}")
adata.obsp["spatial_connectivities"] = kept
alone = enrichment("second")
print(f"enrichment of A and B in the second clustering: {value:.3f}, without the first {alone:.3f}")
assert links[0] > 1.4 * links[1] > 1.4**2 * links[2], links
assert abs(alone - value) > 0.001
PY
