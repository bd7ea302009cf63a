#!/usr/bin/env bash
# Builds the wheel and the sdist, and tries each in an environment with nothing else: bash ci/package.sh [FOLDER for both].
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare dev
out="$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$python" -m pip install --quiet build
"$python" -m build --outdir "$work/built" "$root" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cp "$work"/built/* "$out"

"$python" - "$work"/built/*.whl "$work"/built/*.tar.gz <<'PYTHON'
import sys, tarfile, zipfile

wheel = set(zipfile.ZipFile(sys.argv[1]).namelist())
sdist = {name.partition("/")[2] for name in tarfile.open(sys.argv[2]).getnames()}
missing = {"gpuq/py.typed", "gpuq/cli/__init__.py", "gpuq/cpu/gemm.py", "gpuq/cuda/kernels.py"} - wheel
missing |= {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py", "ci/test.sh", "docs/tutorial.md"} - sdist
foreign = {name for name in wheel if not name.startswith("gpuq")}
sys.exit(f"missing: {sorted(missing)}, foreign: {sorted(foreign)}" if missing or foreign else 0)
PYTHON

for package in "$work"/built/*; do
    "$python" -m venv --clear "$work/empty"
    empty="$work/empty/bin/python"
    [ -x "$empty" ] || empty="$work/empty/Scripts/python.exe"
    "$empty" -m pip install --quiet "$package"
    (cd "$work" && "$empty" - <<'PYTHON'
import numpy as np, gpuq

b = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
y = gpuq.matmul_integer(np.ones((2, 4), np.uint8), gpuq.prepack(b), 3)
assert y.tolist() == [(-2 * b.astype(int).sum(0)).tolist()] * 2, y
PYTHON
    )
    (cd "$work" && "$empty" -m gpuq info >/dev/null)
    echo "$(basename "$package") works in an empty environment"
done
