#!/usr/bin/env bash
# With a seed, all simulations of squidpy's Ripley statistics are the same one.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1
# Guess:
#   The seed makes a set of different simulations reproducible.
# Behaviour:
#   Each simulation starts its generator from the seed again. The envelope has no width, whatever the number of
#   simulations, and the p-values compare with one simulation. Without a seed the simulations differ.
# Output (2026-12-01):
#   seed 0, mode F: 1 different of 30 simulations, width 0.000
#   seed 0, mode G: 1 different of 30 simulations, width 0.000
#   seed 0, mode L: 1 different of 30 simulations, width 0.000
#   seed None, mode F: 30 different of 30 simulations, width 0.075
#   seed None, mode G: 30 different of 30 simulations, width 0.072
#   seed None, mode L: 30 different of 30 simulations, width 0.263
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
rng = np.random.default_rng(0)
n = 1000
adata = ad.AnnData(np.ones((n, 1), "float32"), obsm={"spatial": rng.uniform(0, 100, (n, 2))})
adata.obs["type"] = pd.Categorical(rng.choice(["A", "B"], n))
seen = {}
for seed in (0, None):
    for mode in "FGL":
        result = sq.gr.ripley(adata, "type", mode, max_dist=5, n_steps=20, n_simulations=30, seed=seed, copy=True)
        simulations = result["sims_stat"].pivot(index="bins", columns="simulations", values="stats").to_numpy()
        seen[seed, mode] = len(np.unique(simulations.round(9), axis=1).T)
        width = np.ptp(simulations, axis=1).max()
        print(f"seed {seed}, mode {mode}: {seen[seed, mode]} different of 30 simulations, width {width:.3f}")
assert all(seen[0, mode] == 1 and seen[None, mode] > 20 for mode in "FGL"), seen
PY
