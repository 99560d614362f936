#!/usr/bin/env bash
# squidpy's Ripley's L of random cells depends on their share of the section, and its simulations on their number.
#
# Versions:
#   squidpy 1.8.2, scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1
# Guess:
#   L(t) of cells placed at random is close to t, for each type and for the simulations, whatever their number.
# Behaviour:
#   The pairs of a type are divided by the number of all cells, so a random type has L(t) = t times its share. The
#   simulations have n_observations points (1,000), and are divided by the number of all cells as well. Of three random
#   types, one is far above the simulations ("clustered") and one below ("dispersed"), and n_observations=2000 makes
#   two of them dispersed.
# Output (2026-12-01):
#   L(t) / t of random cells: {'A': 0.49, 'B': 0.29, 'C': 0.2}
#     of simulations with 1000 points: 0.24 to 0.25
#   L(t) / t of random cells: {'A': 0.49, 'B': 0.29, 'C': 0.2}
#     of simulations with 2000 points: 0.49 to 0.49
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
share = {"A": 0.5, "B": 0.3, "C": 0.2}
n, t = 4000, 5.0
adata = ad.AnnData(np.ones((n, 1), "float32"), obsm={"spatial": rng.uniform(0, 100, (n, 2))})
adata.obs["type"] = pd.Categorical(rng.choice(list(share), n, p=list(share.values())))


def at_t(result, name, column):
    return result[name].query("bins == @t").set_index(column)["stats"] / t


seen = {}
for n_observations in (1000, 2000):
    result = sq.gr.ripley(
        adata, "type", "L", max_dist=10, n_steps=11, n_simulations=20, n_observations=n_observations, copy=True
    )
    random = at_t(result, "L_stat", "type").to_dict()
    simulated = at_t(result, "sims_stat", "simulations")
    print(f"L(t) / t of random cells: { {k: round(v, 2) for k, v in random.items()} }")
    print(f"  of simulations with {n_observations} points: {simulated.min():.2f} to {simulated.max():.2f}")
    for kind, fraction in share.items():
        assert abs(random[kind] - fraction) < 0.05, random
    assert np.abs(simulated - n_observations / n).max() < 0.05, simulated
PY
