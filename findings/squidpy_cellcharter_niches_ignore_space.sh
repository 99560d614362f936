#!/usr/bin/env bash
# squidpy's CellCharter niches ignore the tissue if an embedding is given.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, scikit-learn 1.9.1
# Guess:
#   calculate_niche(flavor="cellcharter", use_rep=...) aggregates the embedding over the neighbourhoods of the spatial
#   graph and clusters the result, so that another graph gives other niches.
# Behaviour:
#   The counts are aggregated, but with use_rep the first columns of the embedding are clustered as they are. The niches
#   equal a Gaussian mixture of the single cells, and shuffling the positions of the cells does not change one of them.
#   A warning recommends to use an embedding. Without use_rep the graph matters.
# Output (2026-12-01):
#   edges that remain after shuffling: 12 of 528
#   niches that differ, with use_rep: 0 of 144
#   niches that differ, without: 53 of 144
#   niches equal a mixture of the embedding without graph: True
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    squidpy==1.8.2 scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 scikit-learn==1.9.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    squidpy scanpy anndata numpy pandas scipy scikit-learn
venv/bin/python -W ignore - <<'PY'
import logging

import anndata as ad
import numpy as np
import squidpy as sq
from scipy.sparse import csr_matrix
from sklearn.mixture import GaussianMixture

logging.disable(logging.WARNING)
rng = np.random.default_rng(0)
side = 12
n = side**2
x, y = np.meshgrid(np.arange(side), np.arange(side))
positions = np.c_[x.ravel(), y.ravel()].astype(float)
embedding = np.r_[rng.normal(0, 1, (n // 2, 3)), rng.normal(4, 1, (n // 2, 3))]
counts = csr_matrix(rng.poisson(1, (n, 5)).astype("float32"))
shuffle = rng.permutation(n)


def niches(positions, **options):
    adata = ad.AnnData(counts.copy(), obsm={"spatial": positions, "X_embedding": embedding})
    sq.gr.spatial_neighbors_grid(adata, n_neighs=4)
    sq.gr.calculate_niche(
        adata, "cellcharter", distance=3, aggregation="mean", n_components=3, random_state=0, **options
    )
    return adata.obs["cellcharter_niche"].to_numpy(), adata.obsp["spatial_connectivities"]


labels, graph = niches(positions, use_rep="X_embedding")
other, other_graph = niches(positions[shuffle], use_rep="X_embedding")
mixture = GaussianMixture(3, random_state=0, init_params="random_from_data").fit_predict(embedding)
changed = int((niches(positions)[0] != niches(positions[shuffle])[0]).sum())
kept = graph.multiply(other_graph).nnz
print("edges that remain after shuffling:", kept, "of", graph.nnz)
print("niches that differ, with use_rep:", int((labels != other).sum()), "of", n)
print("niches that differ, without:", changed, "of", n)
print("niches equal a mixture of the embedding without graph:", np.array_equal(labels, mixture))
assert kept < graph.nnz / 10 and np.array_equal(labels, other)
assert np.array_equal(labels, mixture) and changed > 0
PY
