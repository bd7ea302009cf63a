"""Times the PTX emulator of tests/, all of its checks on, and prints a table; needs numba-cuda, but no GPU.

    python benchmarks/emulator.py [--repeats N] [--json FILE]

A figure is the median of some runs; a run before them compiles the kernel and translates its PTX, which is not counted.
The first kernel is one of the emulator's own tests, the others are gpuq's, launched by a call on device arrays, which
kernels may not write to, as in the operators' tests. Each run's result is compared with NumPy's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np

import gpuq
from emulated import Driver, download, upload
from gpuq import reference
from gpuq.cuda import driver
from ptx_emulator.kernels import CASES, check_gemm

ELEMENTS, EXTENT = 1 << 20, 128
REPEATS = 7


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of each kernel (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args(given)
    found = {name: _seconds(run, arguments.repeats) for name, run in runs().items()}
    for name, seconds in found.items():
        print(f"{name:42} {seconds * 1e3:8.1f} ms", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def runs() -> dict[str, Callable[[], None]]:
    """What is timed, by its name."""
    emulated = Driver((8, 0))
    driver.bindings, driver.CODE_FORM = lambda: emulated, "ptx"  # this process has no other device
    generator = np.random.default_rng(0)
    x = generator.normal(0, 5, ELEMENTS).astype(np.float32)
    q = reference.quantize_linear(x, 0.05, np.uint8(128))
    a, b = (generator.integers(-128, 128, (EXTENT, EXTENT)).astype(np.int8) for _ in range(2))
    tensor_cores = CASES["gemm"].compile()

    def operator(name: str, *given: Any) -> Callable[[], None]:
        there = [upload(emulated, each, read_only=True) if isinstance(each, np.ndarray) else each for each in given]
        expected = getattr(reference, name)(*given)

        def run() -> None:
            found = download(emulated, getattr(gpuq, name)(*there))
            if (found != expected).any():
                raise ValueError(f"{name}: the emulator's result is not the reference's")

        return run

    cube = "x".join([str(EXTENT)] * 3)
    return {
        f"tensor-core product {cube}": lambda: check_gemm(tensor_cores, 0, EXTENT, EXTENT, EXTENT),
        f"quantize_linear {ELEMENTS}": operator("quantize_linear", x, 0.05, np.uint8(128)),
        f"dequantize_linear {ELEMENTS}": operator("dequantize_linear", q, 0.05, np.uint8(128)),
        f"matmul_integer {cube}": operator("matmul_integer", a, b),
    }


def _seconds(run: Callable[[], Any], repeats: int) -> float:
    """The median time of a run in seconds."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()
