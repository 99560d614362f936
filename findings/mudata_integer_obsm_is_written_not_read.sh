#!/usr/bin/env bash
# A MuData with an integer array in obsm can be written but neither copied nor read again.
#
# Versions:
#   mudata 0.3.10, anndata 0.12.19, numpy 2.4.6, pandas 2.3.3, scipy 1.17.1, h5py 3.16.0
# Guess:
#   Integer arrays in obsm (grid positions, for instance) are treated as floating-point ones, at least if all modalities
#   share their cells.
# Behaviour:
#   Constructing the object again assigns NaN to the rows without a cell, also if there are none, which integers cannot
#   hold. copy(), subsets and read_h5mu raise; write_h5mu does not, and leaves a file that mudata cannot open, though
#   the values in it are right.
# Output (2026-11-30):
#   float32 write  works
#   float32 read   works
#   float32 copy   works
#   float32 subset works
#   int64   write  works
#   int64   read   cannot convert float NaN to integer
#   int64   copy   cannot convert float NaN to integer
#   int64   subset cannot convert float NaN to integer
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    mudata==0.3.10 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 h5py==3.16.0
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    mudata anndata numpy pandas scipy h5py
venv/bin/python -W ignore - <<'PY'
import anndata as ad
import h5py
import mudata as md
import numpy as np

md.set_options(pull_on_update=False)


def outcome(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return "works"


seen = {}
for dtype in ("float32", "int64"):
    mdata = md.MuData({name: ad.AnnData(np.ones((4, 2), "float32")) for name in ("rna", "protein")})
    mdata.obsm["grid"] = np.arange(8).reshape(4, 2).astype(dtype)
    path = f"{dtype}.h5mu"
    steps = {
        "write": lambda: mdata.write_h5mu(path),
        "read": lambda: md.read_h5mu(path),
        "copy": lambda: mdata.copy(),
        "subset": lambda: mdata[:2].copy(),
    }
    seen[dtype] = {step: outcome(function) for step, function in steps.items()}
    for step, result in seen[dtype].items():
        print(f"{dtype:8}{step:7}{result}")
    with h5py.File(path) as file:
        assert np.array_equal(file["obsm/grid"][:], np.arange(8).reshape(4, 2))
raised = "cannot convert float NaN to integer"
assert set(seen["float32"].values()) == {"works"}, seen
assert seen["int64"] == {"write": "works", "read": raised, "copy": raised, "subset": raised}, seen
PY
