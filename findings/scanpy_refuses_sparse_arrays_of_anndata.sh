#!/usr/bin/env bash
# Sparse arrays, which AnnData reads on request, are refused by most of scanpy.
#
# Versions:
#   scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, numba 0.68.1
# Guess:
#   With anndata's setting use_sparse_array_on_read the counts are a scipy.sparse.csr_array, and scanpy computes the
#   same as from a csr_matrix.
# Behaviour:
#   Filters, PCA and neighbours run; the other functions below raise, most of them with an error from deep inside that
#   does not name the type of the matrix. All run on a csr_matrix read from the same file.
# Output (2026-11-30):
#   type of X: csr_array
#     filter_cells          runs
#     filter_genes          runs
#     pca                   runs
#     neighbors             runs
#     normalize_total       ValueError: Data matrix has wrong shape (40, 1), need to be (40, 30).
#     log1p                 TypeError: return arrays must be of ArrayType
#     scale                 TypeError: scale() got an unexpected keyword argument 'return_mean_std'
#     calculate_qc_metrics  ValueError: setting an array element with a sequence.
#     rank_genes_groups     NotImplementedError:
#     score_genes           ValueError: The truth value of an array with more than one element is am
#     aggregate             NotImplementedError: Data type <class 'scipy.sparse._csr.csr_array'> not supporte
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 numba==0.68.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    scanpy anndata numpy pandas scipy numba
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.sparse import csr_matrix

rng = np.random.default_rng(0)
written = ad.AnnData(csr_matrix(rng.poisson(2, (40, 30)).astype("float32")))
written.obs["group"] = pd.Categorical(["a", "b"] * 20)
written.write_h5ad("counts.h5ad")

FUNCTIONS = {
    "filter_cells": lambda a: sc.pp.filter_cells(a, min_counts=1),
    "filter_genes": lambda a: sc.pp.filter_genes(a, min_cells=1),
    "pca": lambda a: sc.pp.pca(a, n_comps=3),
    "neighbors": lambda a: sc.pp.neighbors(a, use_rep="X"),
    "normalize_total": sc.pp.normalize_total,
    "log1p": sc.pp.log1p,
    "scale": sc.pp.scale,
    "calculate_qc_metrics": lambda a: sc.pp.calculate_qc_metrics(a, percent_top=None),
    "rank_genes_groups": lambda a: sc.tl.rank_genes_groups(a, "group", method="t-test"),
    "score_genes": lambda a: sc.tl.score_genes(a, ["1", "2"], ctrl_size=5, n_bins=3),
    "aggregate": lambda a: sc.get.aggregate(a, "group", "mean"),
}


def outcomes():
    found = {}
    for name, function in FUNCTIONS.items():
        adata = ad.read_h5ad("counts.h5ad")
        try:
            function(adata)
            found[name] = "runs"
        except Exception as error:  # what is raised is what is shown
            found[name] = f"{type(error).__name__}: {str(error)[:60]}"
    return type(adata.X).__name__, found


kind, found = outcomes()
assert kind == "csr_matrix" and set(found.values()) == {"runs"}, found
ad.settings.use_sparse_array_on_read = True
kind, found = outcomes()
print("type of X:", kind)
for name, outcome in found.items():
    print(f"  {name:22}{outcome}")
runs = {name for name, outcome in found.items() if outcome == "runs"}
assert kind == "csr_array" and runs == {"filter_cells", "filter_genes", "pca", "neighbors"}, runs
PY
