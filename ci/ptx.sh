#!/usr/bin/env bash
# Compiles every CUDA kernel for every compute capability, without a GPU, and prints a table of the registers it takes;
# then one of the tensor-core products' main loops, see ci/machine_code: bash ci/ptx.sh. PTX, machine code and lists go to
# .kernels. Sets up what it needs; see environment.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare "test-$(cuda_extra)"
cd "$root"
folder=.kernels
capabilities=(7.5 8.0 8.6 8.9 9.0 10.0 12.0)
cores="$("$python" -c 'import os; print(os.cpu_count())')"
mkdir -p "$folder"
echo "compiling for ${capabilities[*]} (minutes; the compiled kernels are kept)" >&2
printf '%s\n' "${capabilities[@]}" |
    xargs -P "$cores" -I{} "$python" -m gpuq kernels --cc {} --out "$folder/{}" >/dev/null
"$python" - "$folder" "${capabilities[@]}" <<'PYTHON'
import json
import pathlib
import sys

folder, capabilities = pathlib.Path(sys.argv[1]), sys.argv[2:]
lists = [json.loads((folder / each / "kernels.json").read_text(encoding="utf-8")) for each in capabilities]
kernels = {kernel["name"]: kernel for each in lists for kernel in each}
found = [{kernel["name"]: kernel for kernel in each} for each in lists]
width = max(map(len, kernels))


def text(kernel):
    """Registers, and what should not be; a product of 7.5 is not there from 8.0 on, nor the other way."""
    return "" if kernel is None else f"{kernel['registers']}" + "!" * bool(kernel["stack"] or kernel["spills"])


print(f"{'registers of a thread, by compute capability':{width}}  {'role':11}  threads  shared  "
      + "  ".join(f"{each:>4}" for each in capabilities))
for name, kernel in kernels.items():
    print(f"{name:{width}}  {kernel['role']:11}  {kernel['threads']:7}  {kernel['dynamic_shared_bytes']:6}  "
          + "  ".join(f"{text(each.get(name)):>4}" for each in found))
wrong = sum(bool(kernel["stack"] or kernel["spills"]) for each in lists for kernel in each)
print(f"{wrong} of {sum(map(len, lists))} use the stack or spill registers (marked !)")
PYTHON
echo
PYTHONPATH=ci "$python" -m machine_code --names "gemm_mma_int32_*" "${capabilities[@]/#/$folder/}"
