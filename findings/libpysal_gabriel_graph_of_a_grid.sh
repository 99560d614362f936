#!/usr/bin/env bash
# On a square grid, libpysal's Gabriel graph keeps the diagonals of the triangulation.
#
# Versions:
#   libpysal 4.14.1, geopandas 1.2.0, numpy 2.4.6, pandas 2.3.3, scipy 1.16.3, numba 0.68.1
# Guess:
#   The circle over a diagonal passes through the two other corners of the square, so the diagonals are excluded: a spot
#   inside has its four nearest neighbours.
# Behaviour:
#   The graph equals the Delaunay triangulation: one diagonal of each square, whichever the triangulation happened to
#   draw, so that equal spots have between 4 and 8 neighbours. The relative neighbourhood graph is the one with four.
# Output (2026-11-30):
#   delaunay               spots inside by number of neighbours: {4: 4, 5: 14, 6: 7, 8: 11}
#   gabriel                spots inside by number of neighbours: {4: 4, 5: 14, 6: 7, 8: 11}
#   relative_neighborhood  spots inside by number of neighbours: {4: 36}
#   diagonals in the Gabriel graph: 49 of 49 squares
set -euo pipefail
unset PYTHONPATH
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -qq --disable-pip-version-check \
    libpysal==4.14.1 geopandas==1.2.0 numpy==2.4.6 pandas==2.3.3 scipy==1.16.3 numba==0.68.1
venv/bin/python -c 'import sys, importlib.metadata as m; print(*(f"{n} {m.version(n)}" for n in sys.argv[1:]))' \
    libpysal geopandas numpy pandas scipy numba
venv/bin/python -W ignore - <<'PY'
import numpy as np
from libpysal.graph import Graph

side = 8
xy = np.array([[i, j] for j in range(side) for i in range(side)], dtype=float)
inside = [i for i, (x, y) in enumerate(xy) if 0 < x < side - 1 and 0 < y < side - 1]
graphs = {m: Graph.build_triangulation(xy, method=m) for m in ("delaunay", "gabriel", "relative_neighborhood")}
counts = {m: g.cardinalities.loc[inside].value_counts().sort_index().to_dict() for m, g in graphs.items()}
for method, n in counts.items():
    print(f"{method:22} spots inside by number of neighbours: {n}")
matrices = {m: (g.sparse.toarray() != 0) for m, g in graphs.items()}
diagonals = int(matrices["gabriel"].sum() / 2) - 2 * side * (side - 1)
print("diagonals in the Gabriel graph:", diagonals, "of", (side - 1) ** 2, "squares")
assert np.array_equal(matrices["gabriel"], matrices["delaunay"])
assert diagonals == (side - 1) ** 2
assert len(counts["gabriel"]) > 1 and max(counts["gabriel"]) > 6
assert counts["relative_neighborhood"] == {4: len(inside)}
PY
