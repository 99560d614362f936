#!/usr/bin/env bash
# Tests the lower and upper bounds of the version ranges in pyproject.toml, each in a fresh environment.
#
#   benchmarks/compat.sh                      lowest versions on Python 3.11, newest on 3.11, 3.12 and 3.13
#   benchmarks/compat.sh lowest-direct 3.11   one of them; Python is given as a version or a path
#   benchmarks/compat.sh --pre [3.13]         all quick tests on the newest releases and pre-releases, also beyond our bounds
#
# Requires uv (pip install uv) and the Python versions, which are not downloaded (with pyenv: PYENV_VERSION=3.11:3.12:3.13).
# torch with CUDA makes each environment a download of 3 GB and 8 GB on disk; they are created one after the other and
# removed.
set -euo pipefail
cd "$(dirname "$0")/.."

shown="anndata dask mudata numpy pandas scanpy scipy scvi-tools spatialdata squidpy torch zarr"
smoke="tests/im/encoders/test_networks.py tests/model/inference/test_store.py tests/pl/test_maps.py tests/pp/test_cells.py
  tests/tl/test_enhance.py tests/tl/test_mudata.py tests/tl/test_spatialdata.py"
# deprecation warnings are errors only where our own calls cause them; pandas 3.1 blames us for options that anndata 0.13 sets
warnings=$'ignore\nerror::DeprecationWarning:soscope_scverse\nerror::FutureWarning:soscope_scverse'
warnings+=$'\nignore:The .* option is deprecated:DeprecationWarning'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_CACHE_DIR="${UV_CACHE_DIR:-$work/cache}" OMP_NUM_THREADS=1
failed=0

# install RESOLUTION: the package with its tests; --pre is also the newest scvi-tools, which a bound of ours excludes
install() {
  local to=(--quiet --python "$environment")
  if [ "$1" != --pre ]; then
    uv pip install "${to[@]}" --resolution "$1" ".[test]"
    return
  fi
  uv pip install "${to[@]}" --prerelease allow ".[test]" || return 1
  uv pip install "${to[@]}" --prerelease allow --no-deps --upgrade scvi-tools || return 1
  if ! "$environment/bin/python" -W ignore -c "import squidpy" 2>/dev/null; then
    echo "squidpy cannot be imported with the newest pre-release of scanpy: its newest release is tested."
    uv pip install "${to[@]}" --no-deps --upgrade scanpy
  fi
}

# run RESOLUTION PYTHON: install, test, print the installed versions
run() {
  local environment="$work/environment" outcome=passed tests="$smoke"
  [ "$1" = --pre ] && tests=tests
  echo "== $1, Python $2"
  uv venv --quiet --no-python-downloads --python "$2" "$environment" || return 1
  install "$1" || return 1
  # shellcheck disable=SC2086
  "$environment/bin/python" -m pytest -q -o "filterwarnings=$warnings" -m "not realdata and not slow" $tests || outcome=FAILED
  "$environment/bin/python" - $shown <<'PYTHON'
import sys
from importlib.metadata import version

print("Python", sys.version.split()[0], *(f"| {name} {version(name)}" for name in sys.argv[1:]))
PYTHON
  echo "== $1, Python $2: $outcome"
  rm -rf "$environment"
  [ "$outcome" = passed ]
}

if [ $# -gt 0 ]; then
  run "$1" "${2:-3.13}"
  exit
fi
run lowest-direct 3.11 || failed=1
for python in 3.11 3.12 3.13; do
  run highest "$python" || failed=1
done
exit "$failed"
