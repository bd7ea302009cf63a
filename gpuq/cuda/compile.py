"""Kernels as objects: a Numba function with the types of its arguments, compiled once per compute capability and kept
on disk.

A kernel takes numbers and tuples of numbers alone; arrays come as addresses, because a Numba array would cost five
parameters and more, and because the emulator, numba-cuda and a graph all take numbers as they are.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite
import numba

from gpuq import code_cache
from gpuq.closures import describe, modules_of, named_by_contents
from gpuq.cuda import numba_cuda
from gpuq.cuda.numba_cuda import Capability, Compiled


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel before compilation.

    `name` is unique among gpuq's kernels; `role` says what family it is of ("elementwise", "reduce", "copy", "pack",
    "gemm"); `arguments` are the Numba types of its parameters, tuples flattened in order; `threads` is the size of a
    block; `tile` what one block computes, in elements; `shared_bytes` its dynamic shared memory; `resident` how many
    blocks a multiprocessor is to hold at least, without which ptxas spills registers to make room for more. It runs on
    compute capabilities from `since` on, but not from `before` on, which have another one in its place.
    """

    name: str
    role: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    threads: int
    tile: tuple[int, ...]
    shared_bytes: int = 0
    resident: int = 2
    since: Capability = (7, 5)
    before: Capability = (1000, 0)

    def __post_init__(self) -> None:
        named_by_contents(self.function)


@dataclass(frozen=True)
class Code:
    """A compiled kernel: what the driver loads (a cubin, or PTX), and the name of its entry there."""

    image: bytes
    entry: str


def compiled_code(kernel: Kernel, capability: Capability, form: str) -> Code:
    """The code of a kernel as "cubin" or "ptx", from the cache on disk where it is there."""
    stored = stored_code(kernel, capability, form)
    if stored is not None:
        return stored
    compiled = _front_end(kernel)
    image = compiled.cubin(capability) if form == "cubin" else compiled.ptx(capability).encode()
    code_cache.write(_path(kernel, capability, form), compiled.entry.encode() + b"\n" + image)
    return Code(image, compiled.entry)


def stored_code(kernel: Kernel, capability: Capability, form: str) -> Code | None:
    """The same if it is in the cache on disk; None if it would have to be compiled."""
    stored = code_cache.read(_path(kernel, capability, form))
    if stored is None:
        return None
    entry, _, image = stored.partition(b"\n")
    return Code(image, entry.decode())


def _path(kernel: Kernel, capability: Capability, form: str) -> Path:
    return code_cache.path_of(f"{kernel.name}-{form}", _depends_on(kernel, capability))


@functools.cache
def _front_end(kernel: Kernel) -> Compiled:
    return Compiled(kernel.function, kernel.arguments, kernel.threads, kernel.resident)


def _depends_on(kernel: Kernel, capability: Capability) -> tuple[object, ...]:
    return (
        code_cache.source_hash(modules_of(kernel.function) | {__name__, numba_cuda.__name__}),
        sys.version,
        numba.__version__,
        llvmlite.__version__,
        numba_cuda.versions(),
        describe(kernel.function),
        str(kernel.arguments),
        kernel.threads,
        kernel.resident,
        capability,
    )
