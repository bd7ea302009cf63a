"""The list of all CUDA kernels, and what ptxas says of their machine code; no GPU is needed for either.

Kernel ── numba-cuda, libNVVM ──► PTX ── ptxas ──► cubin, registers, stack, spills
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from gpuq.cuda import (
    columns,
    gemm_dots,
    gemm_mma,
    layer_blocks,
    layer_mma,
    layer_reals,
    observe,
    pack,
    quantizers,
    reduce,
    requantizers,
    row_sums,
    rows,
    strided,
    sums,
    transpose,
)
from gpuq.cuda.compile import Kernel, compiled_code
from gpuq.cuda.numba_cuda import Capability, find_tool

CAPABILITIES: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
USAGE = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
REGISTERS = re.compile(r"Used (\d+) registers")


class Assembled(NamedTuple):
    """A kernel's machine code and what it takes of a multiprocessor; stack and spills are bytes per thread."""

    cubin: bytes
    registers: int
    stack: int
    spills: int


@functools.cache
def all_kernels() -> tuple[Kernel, ...]:
    """Every kernel that a call may launch."""
    elementwise = (quantizers, requantizers, reduce, observe, strided, transpose, rows, sums)
    modules = (*elementwise, pack, row_sums, columns, gemm_dots, gemm_mma, layer_blocks, layer_mma, layer_reals)
    return tuple(kernel for module in modules for kernel in module.kernels())


def kernels_of(capability: Capability) -> tuple[Kernel, ...]:
    """Those of a compute capability."""
    return tuple(kernel for kernel in all_kernels() if kernel.since <= capability < kernel.before)


def ptx_of(kernel: Kernel, capability: Capability) -> tuple[str, str]:
    """The PTX of a kernel for a compute capability, and the name of its entry."""
    code = compiled_code(kernel, capability, "ptx")
    return code.image.decode(), code.entry


def find_ptxas() -> str | None:
    """The path of ptxas, of the package nvidia-cuda-nvcc or of a CUDA toolkit; None where there is none."""
    return find_tool("ptxas")


def assemble(ptx: str, capability: Capability, ptxas: str) -> Assembled:
    """Let ptxas make machine code of PTX.

    Raises
    ------
    RuntimeError
        ptxas refuses it, with what it says: it is older than the PTX, most likely.
    """
    with tempfile.TemporaryDirectory(prefix="gpuq-") as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx, encoding="utf-8")
        command = [ptxas, "-v", "-arch=sm_{}{}".format(*capability), "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode != 0:
            raise RuntimeError(f"{ptxas}: {said.strip()}")
        cubin = target.read_bytes()
    usage, registers = USAGE.search(said), REGISTERS.search(said)
    if usage is None or registers is None:
        raise RuntimeError(f"{ptxas}: its report is not understood: {said.strip()}")
    spills = int(usage["stores"]) + int(usage["loads"])
    return Assembled(cubin, int(registers[1]), int(usage["stack"]), spills)
