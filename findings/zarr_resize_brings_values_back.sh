#!/usr/bin/env bash
# Shrinking a Zarr array and growing it again brings part of the old values back.
#
# Versions:
#   zarr 3.1.6, numpy 2.4.6
# Guess:
#   Values outside the shape are gone: after growing, the new part is the fill value.
# Behaviour:
#   resize removes the chunks that are entirely outside. Values in the chunk (with sharding: in the shard) that the new
#   border crosses stay in the store, and they return when the array grows.
# Output (2026-11-30):
#   chunks [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]
#   shards [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    zarr==3.1.6 numpy==2.4.6
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    zarr numpy
venv/bin/python -W ignore - <<'PY'
import numpy as np
import zarr

seen = {}
for name, layout in {"chunks": {"chunks": (4,)}, "shards": {"chunks": (2,), "shards": (8,)}}.items():
    array = zarr.create_array({}, shape=(12,), dtype="f8", fill_value=0, **layout)
    array[:] = np.arange(1.0, 13.0)
    array.resize((5,))
    array.resize((12,))
    seen[name] = array[:].astype(int).tolist()
    print(name, seen[name])
assert seen == {
    "chunks": [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
    "shards": [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0],
}, seen
PY
