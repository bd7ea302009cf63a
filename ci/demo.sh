#!/usr/bin/env bash
# Runs the demo: bash ci/demo.sh [arguments of gpuq demo]. Sets up what it needs; see environment.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare demo
exec "$python" -m gpuq demo "$@"
