#!/usr/bin/env bash
# Assigning an array of the wrong length to a Zarr array may succeed.
#
# Versions:
#   zarr 3.1.6, numpy 2.4.6
# Guess:
#   As in NumPy, shapes that cannot be broadcast raise, and nothing is written.
# Behaviour:
#   The value is sliced chunk by chunk, and each slice is broadcast to its chunk. Values that are too long are cut.
#   Values that are too short by less than a chunk are repeated if a single one remains for the last chunk. A slice that
#   cannot be broadcast raises. A row that NumPy would broadcast raises as well.
# Output (2026-11-30):
#   2 values into 6: Zarr ValueError, NumPy ValueError
#   5 values into 6: Zarr [1, 2, 3, 4, 5, 5], NumPy ValueError
#   7 values into 6: Zarr [1, 2, 3, 4, 5, 6], NumPy ValueError
#   a row into 4 x 4: Zarr IndexError, NumPy assigned
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


def assign(shape, chunks, value):
    array = zarr.create_array({}, shape=shape, chunks=chunks, dtype="f8")
    try:
        array[:] = value
    except (ValueError, IndexError) as error:
        return type(error).__name__
    return array[:].astype(int).tolist()


def assign_numpy(shape, value):
    array = np.zeros(shape)
    try:
        array[:] = value
    except ValueError as error:
        return type(error).__name__
    return "assigned"


seen = {}
for n in (2, 5, 7):
    value = np.arange(1.0, n + 1)
    seen[n] = assign((6,), (2,), value)
    print(f"{n} values into 6: Zarr {seen[n]}, NumPy {assign_numpy((6,), value)}")
    assert assign_numpy((6,), value) == "ValueError"
seen["row"] = assign((4, 4), (2, 2), np.arange(4.0))
print(f"a row into 4 x 4: Zarr {seen['row']}, NumPy {assign_numpy((4, 4), np.arange(4.0))}")
assert seen == {2: "ValueError", 5: [1, 2, 3, 4, 5, 5], 7: [1, 2, 3, 4, 5, 6], "row": "IndexError"}, seen
PY
