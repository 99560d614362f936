#!/usr/bin/env bash
# squidpy's neighbourhood niches give cells at the border neighbours of the type of the last cell in the table.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, igraph 1.0.0,
#   leidenalg 0.11.0
# Guess:
#   A cell with three neighbours has a profile of three cells. The order of the cells in the table is irrelevant.
# Behaviour:
#   The lists of neighbours are padded to the longest, and the padding refers to the last cell of the table, whose type
#   is counted once for each missing neighbour. Below, two types share the tissue, half each. The border of the type
#   that is not last has the profile of the interface between the two, and becomes one niche with it. Sorting the cells
#   the other way moves the niche to the other border.
# Output (2026-12-01):
#   last cell of type A: ['border of A + inside of A', 'border of B + interface of B', 'inside of B', 'interface of A']
#   last cell of type B: ['border of A + interface of A', 'border of B + inside of B', 'inside of A', 'interface of B']
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    squidpy==1.8.2 scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 igraph==1.0.0 \
    leidenalg==0.11.0
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    squidpy scanpy anndata numpy pandas scipy igraph leidenalg
venv/bin/python -W ignore - <<'PY'
import logging

import anndata as ad
import numpy as np
import pandas as pd
import squidpy as sq

logging.disable(logging.WARNING)
side = 20
x, y = (v.ravel() for v in np.meshgrid(np.arange(side), np.arange(side)))
kind = np.where(x < side // 2, "A", "B")
interface = (x == side // 2 - 1) | (x == side // 2)
border = ((x == 0) | (x == side - 1) | (y == 0) | (y == side - 1)) & ~interface
places = pd.Series(np.select([interface, border], ["interface", "border"], "inside")) + " of " + kind


def niches(last):
    order = np.argsort(kind == last, kind="stable")
    adata = ad.AnnData(np.ones((side**2, 1), "float32"))
    adata.obsm["spatial"] = np.c_[x, y][order].astype(float)
    adata.obs["type"] = pd.Categorical(kind[order])
    sq.gr.spatial_neighbors_grid(adata, n_neighs=4)
    sq.gr.calculate_niche(adata, "neighborhood", groups="type", n_neighbors=15, resolutions=[0.1], scale=False)
    labels = pd.Series(index=order, data=adata.obs["nhood_niche_res=0.1"].astype(str).to_numpy()).sort_index()
    return {frozenset(part) for _, part in places.groupby(labels)}


seen = {}
for last in ("A", "B"):
    seen[last] = niches(last)
    print(f"last cell of type {last}:", sorted(" + ".join(sorted(part)) for part in seen[last]))
for last, other in ("AB", "BA"):
    assert seen[last] == {
        frozenset({f"inside of {last}", f"border of {last}"}),
        frozenset({f"inside of {other}"}),
        frozenset({f"border of {other}", f"interface of {other}"}),
        frozenset({f"interface of {last}"}),
    }, seen
PY
