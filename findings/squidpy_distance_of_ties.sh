#!/usr/bin/env bash
# squidpy's distances to an anchor: of several cells at the smallest distance, one gets zero, and the anchor none.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1
# Guess:
#   sq.tl.var_by_distance scales distances to [0, 1]: the anchor has 0, and equal distances have equal values.
# Behaviour:
#   The anchor's own distance becomes NaN. The smallest distance of the other cells is replaced by 0, but in its first
#   row alone: on a lattice, where the neighbours of an anchor are equally far, one of them has 0 and the rest keep
#   their distance. The unscaled column next to it is right.
# Output (2026-12-01):
#        zone  anchor  anchor_raw
#   0  anchor     NaN         0.0
#   1    rest    0.00         1.0
#   2    rest    0.25         1.0
#   3    rest    0.25         1.0
#   4    rest    0.25         1.0
#   5    rest    0.50         2.0
#   6    rest    1.00         4.0
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    squidpy==1.8.2 scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    squidpy scanpy anndata numpy pandas scipy
venv/bin/python -W ignore - <<'PY'
import logging

import anndata as ad
import numpy as np
import pandas as pd
import squidpy as sq

logging.disable(logging.INFO)
positions = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [2, 0], [4, 0]], dtype=float)
adata = ad.AnnData(np.ones((7, 1), "float32"), obsm={"spatial": positions})
adata.obs["zone"] = pd.Categorical(["anchor"] + ["rest"] * 6)
sq.tl.var_by_distance(adata, "anchor", cluster_key="zone")
design = adata.obsm["design_matrix"]
print(design.to_string())
assert design["anchor_raw"].tolist() == [0, 1, 1, 1, 1, 2, 4]
assert np.array_equal(design["anchor"], [np.nan, 0, 0.25, 0.25, 0.25, 0.5, 1], equal_nan=True)
PY
