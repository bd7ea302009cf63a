#!/usr/bin/env bash
# Runs a tool of the extra dev in the checkout: bash ci/tool.sh ruff check | bash ci/tool.sh mypy. See environment.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare test,dev
cd "$root"
exec "$python" -m "$@"
