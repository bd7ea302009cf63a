#!/usr/bin/env bash
# Tests and times gpuq on a machine with an NVIDIA GPU: bash ci/gpu.sh [arguments of pytest]. Needs its driver, for CUDA
# 12 or later, and Python; sets up the rest, see environment.sh. All that is found goes to the folder gpu-report, which
# is what to send back; the exit code is 1 where a step failed.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
report="$root/gpu-report"
failed=()

# Runs one step: its name, and the command, whose output goes to the report and to the terminal.
step() {
    local name="$1"
    shift
    echo "== $name: $*"
    "$@" 2>&1 | tee "$report/$name.txt"
    [ "${PIPESTATUS[0]}" = 0 ] || failed+=("$name")
}

if ! command -v nvidia-smi >/dev/null; then
    echo "ci/gpu.sh cannot run here: there is no nvidia-smi, so no NVIDIA driver" >&2
    exit 1
fi
prepare "test-$(cuda_extra)" || exit 1
cd "$root"
rm -rf "$report"
mkdir -p "$report"
step card nvidia-smi
step info "$python" -m gpuq info
step selftest "$python" -m gpuq selftest --device cuda
step tests "$python" -m pytest -n 4 --dist worksteal -q "$@"
step benchmark "$python" -m gpuq bench --device cuda --json "$report/benchmark.json"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
echo "all passed; the report is in $report"
