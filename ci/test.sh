#!/usr/bin/env bash
# Runs the tests, a process a core: bash ci/test.sh [arguments of pytest]. Sets up what it needs; see environment.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare "test-$(cuda_extra)"
cd "$root"
exec "$python" -m pytest -n auto --dist worksteal "$@"
