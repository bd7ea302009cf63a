"""Sums of two products: what blocks along k that no kernel of layers takes are added up by, one after the other.

thread t of all    elements 4·t … 4·t + 3, by one access of 16 bytes where all four are there
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import bits_of, float_of
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.strided import contiguous
from gpuq.cuda.tiles import QUAD, THREADS
from gpuq.device_array import DeviceArray


def add_reals(work: Work, first: DeviceArray, second: DeviceArray, total: DeviceArray) -> None:
    """total = first + second, float32 arrays of one shape."""
    one, other = (contiguous(work, array, ptx.VECTOR_BYTES) for array in (first, second))
    if total.size:
        work.launch(add_kernel(), -(-total.size // (QUAD * THREADS)), one, other, total, total.size)


@functools.cache
def add_kernel() -> Kernel:
    """The kernel (first, second, total, count)."""
    arguments = (types.int64, types.int64, types.int64, types.int64)
    return Kernel("add_float32", "elementwise", _make_add(), arguments, THREADS, (QUAD * THREADS,))


def _make_add() -> Callable[..., Any]:
    load, store = ptx.load[types.float32], ptx.store[types.float32]

    def add(first: int, second: int, total: int, count: int) -> None:
        index = (types.int64(cuda.blockIdx.x) * THREADS + types.int32(cuda.threadIdx.x)) * QUAD
        if index + QUAD <= count:
            one, other = cuda.local.array(QUAD, types.uint32), cuda.local.array(QUAD, types.uint32)
            ptx.load16(first + index * 4, one, 0)
            ptx.load16(second + index * 4, other, 0)
            for i in range(QUAD):
                one[i] = bits_of(np.float32(float_of(one[i]) + float_of(other[i])))
            ptx.store16(total + index * 4, one, 0)
            return
        while index < count:
            store(total + index * 4, np.float32(load(first + index * 4) + load(second + index * 4)))
            index += 1

    return add


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [add_kernel()]
