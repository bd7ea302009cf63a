"""Times the first call of every operator on the CPU, each in processes of its own.

    python benchmarks/first_call.py [--processor] [OPERATOR …]

Per operator: the first call with an empty cache, which compiles its kernels, and the first call of a process that finds
them there. Besides, what `import gpuq` takes beyond `import numba`. Seconds, or with --processor seconds of processor
time, which say more on a machine that does other things too. Nothing is judged here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

CALLS = {
    "quantize_linear": "gpuq.quantize_linear(x, 0.1, np.uint8(3))",
    "dequantize_linear": "gpuq.dequantize_linear(a, 0.1, np.int8(3))",
    "fake_quantize": "gpuq.fake_quantize(x, 0.1, np.int8(3))",
    "dynamic_quantize_linear": "gpuq.dynamic_quantize_linear(x)",
    "requantize": "gpuq.requantize(x.view(np.int32), multiplier=0.3, zero_point=3)",
    "matmul_integer": "gpuq.matmul_integer(a, a)",
    "scaled_matmul": "gpuq.scaled_matmul(a, a, 0.1, 0.2)",
    "qlinear_matmul": "gpuq.qlinear_matmul(a, 0.1, np.int8(0), a, 0.2, np.int8(0), 0.3, np.int8(0))",
    "prepack": "gpuq.prepack(a)",
    "choose_qparams": "gpuq.choose_qparams(-1.0, 2.0)",
    "large quantize_linear": "gpuq.quantize_linear(np.ones(1 << 23, np.float32), 0.1, np.uint8(3))",
}
SCRIPT = """
import time
import numpy as np
import numba
begin = time.{clock}()
import gpuq
imported = time.{clock}()
x, a = np.ones((16, 16), np.float32), np.ones((16, 16), np.int8)
start = time.{clock}()
{call}
print(imported - begin, time.{clock}() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time first calls.")
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help=", ".join(CALLS))
    parser.add_argument("--processor", action="store_true", help="seconds of processor time")
    options = parser.parse_args()
    clock = "process_time" if options.processor else "perf_counter"
    print(f"{'':24} {'empty cache':>12} {'found there':>12} {'import gpuq':>12}   seconds")
    for name in options.operators or CALLS:
        with tempfile.TemporaryDirectory() as folder:
            _, compiling = measure(CALLS[name], clock, folder)
            importing, loading = measure(CALLS[name], clock, folder)
        print(f"{name:24} {compiling:12.2f} {loading:12.3f} {importing:12.3f}", flush=True)


def measure(call: str, clock: str, folder: str) -> tuple[float, float]:
    """Seconds of the import and of the call in a new process with that cache."""
    environment = {**os.environ, "GPUQ_CACHE_DIR": folder, "GPUQ_DEVICE": "cpu"}
    script = SCRIPT.format(clock=clock, call=call)
    printed = subprocess.check_output([sys.executable, "-c", script], env=environment, text=True)
    importing, calling = map(float, printed.split())
    return importing, calling


if __name__ == "__main__":
    main()
