#!/usr/bin/env bash
# cellcharter finds clusters of cells placed at random to be neighbours of each other, with a p-value of zero.
#
# Versions:
#   cellcharter 0.3.7, squidpy 1.8.2, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, torch 2.13.0
# Guess:
#   Random labels have an enrichment around zero, and p-values that are rarely below 0.05.
# Behaviour:
#   Links within a cluster are removed first (only_inter), and the labels are permuted on the remaining graph. The
#   observed share of a neighbour refers to links that leave the cluster, the permuted one to all links of the permuted
#   cluster, which is lower. All pairs are enriched. With only_inter=False they are not.
# Output (2026-12-01):
#   only_inter=False, the six pairs of random clusters:
#     enrichment [-0.011, -0.008, -0.003, -0.003, 0.006, 0.008]
#     p-values   [0.165, 0.26, 0.63, 0.63, 0.815, 0.87]
#   only_inter=True, the six pairs of random clusters:
#     enrichment [0.144, 0.156, 0.169, 0.175, 0.177, 0.179]
#     p-values   [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
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
import contextlib
import io
import logging

import anndata as ad
import cellcharter as cc
import numpy as np
import pandas as pd
import squidpy as sq

logging.disable(logging.INFO)  # a line for each graph
rng = np.random.default_rng(0)
np.random.seed(0)  # pandas permutes the labels
side = 40
x, y = np.meshgrid(np.arange(side), np.arange(side))
adata = ad.AnnData(np.ones((side**2, 1), "float32"), obsm={"spatial": np.c_[x.ravel(), y.ravel()].astype(float)})
adata.obs["cluster"] = pd.Categorical(rng.choice(["A", "B", "C"], side**2))
sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=4)
pairs = ~np.eye(3, dtype=bool)
seen = {}
for only_inter in (False, True):
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        result = cc.gr.nhood_enrichment(adata, "cluster", only_inter=only_inter, pvalues=True, n_perms=200, copy=True)
    seen[only_inter] = result["enrichment"].to_numpy()[pairs], result["pvalue"].to_numpy()[pairs]
    enrichment, p = (np.sort(v).round(3).tolist() for v in seen[only_inter])
    print(f"only_inter={only_inter}, the six pairs of random clusters:")
    print(f"  enrichment {enrichment}\n  p-values   {p}")
assert np.abs(seen[False][0]).max() < 0.05 and seen[False][1].max() > 0.05, seen
assert seen[True][0].min() > 0.1 and seen[True][1].max() == 0, seen
PY
