"""The range of an array and what dynamic quantization makes of it, without a word to the host.

    x ── finite_range ─► lowest and highest order key ─► scale, reciprocal, zero point ── quantize ─► y

An order key (arithmetic.py) is an int32 that orders floats as they are ordered, so that atomic minimum and maximum of
integers find the range; every key counts from that of 0.0, which is 0, and so do the two results.

    finite_range:  a block takes TILE elements at a time, as visits.py has it; then the block's threads meet in shared
    memory, and the first of them adds three atomic operations: two keys, and one more block done. The last block of all
    finds the range complete, and chooses the parameters.

The state of it in memory, zero before:  lowest key, highest key | blocks done | scale, reciprocal | zero point (int64)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import dynamic_scale, dynamic_zero_point, from_order_key, order_key, scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import THREADS, TILE
from gpuq.cuda.visits import make_visit_all
from gpuq.division import reciprocal_of

BLOCKS_DONE, PARAMETERS, STATE_BYTES = 8, 16, 32  # of the state


@functools.cache
def range_kernel(real: str) -> Kernel:
    """The kernel (x, count, state, scale, zero_point, total): the last of `total` blocks of all launches for an array
    stores the parameters of DynamicQuantizeLinear.
    """
    arguments = (types.int64, types.int32, *(types.int64,) * 4)
    return Kernel(f"finite_range_{real}", "reduce", _make_range(real), arguments, THREADS, (TILE,))


def _make_range(real: str) -> Callable[..., Any]:
    choose = _make_choose()

    @scalar
    def visit(value: Any, state: Any) -> None:
        key = order_key(np.float32(value))
        state[0], state[1] = min(state[0], key), max(state[1], key)

    visit_all = make_visit_all(real, visit)

    def finite_range(x: int, count: int, state: int, scale: int, zero_point: int, total: int) -> None:
        thread, found = types.int32(cuda.threadIdx.x), cuda.local.array(2, types.int32)
        found[0] = found[1] = types.int32(0)
        visit_all(x, count, found)
        lows, highs = cuda.shared.array(THREADS, types.int32), cuda.shared.array(THREADS, types.int32)
        lows[thread], highs[thread] = found[0], found[1]
        half = types.int32(THREADS // 2)
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                lows[thread] = min(lows[thread], lows[thread + half])
                highs[thread] = max(highs[thread], highs[thread + half])
            half = types.int32(half // 2)
        if thread == 0:
            ptx.atomic_min(state, lows[0])
            ptx.atomic_max(state + 4, highs[0])
            cuda.threadfence()
            if ptx.atomic_add(state + BLOCKS_DONE, types.int64(1)) == total - 1:
                cuda.threadfence()
                choose(state, scale, zero_point)

    return finite_range


def _make_choose() -> Callable[..., Any]:
    """`choose(state, scale, zero_point)`: scale and zero point of the range, for the caller and for what quantizes."""
    store_float, store_code, store_int = (ptx.store[kind] for kind in (types.float32, types.uint8, types.int64))

    @scalar
    def choose(state: int, scale: int, zero_point: int) -> None:
        low = from_order_key(ptx.atomic_min(state, types.int32(0)))  # where atomic operations look, not in a cache
        chosen = dynamic_scale(low, from_order_key(ptx.atomic_max(state + 4, types.int32(0))))
        point = dynamic_zero_point(low, chosen)
        store_float(scale, chosen)
        store_code(zero_point, types.uint8(point))
        store_float(state + PARAMETERS, chosen)
        store_float(state + PARAMETERS + 4, reciprocal_of(chosen))
        store_int(state + PARAMETERS + 8, point)

    return choose


@functools.cache
def reciprocal_kernel() -> Kernel:
    """The kernel (scales, reciprocals, count, plain): reciprocals of scales for division.py, or plain f32(1 / S)."""
    load, store = ptx.load[types.float32], ptx.store[types.float32]

    def reciprocals(scales: int, results: int, count: int, plain: int) -> None:
        index = types.int32(types.int32(cuda.blockIdx.x) * THREADS + types.int32(cuda.threadIdx.x))
        if index < count:
            scale = load(scales + types.int64(index) * 4)
            result = np.float32(1) / scale if plain else reciprocal_of(scale)
            store(results + types.int64(index) * 4, result)

    kinds = (types.int64, types.int64, types.int32, types.int32)
    return Kernel("reciprocals", "reduce", reciprocals, kinds, THREADS, (THREADS,))


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    reals = ("float32", "float16", "bfloat16", "float64")
    return [*(range_kernel(real) for real in reals), reciprocal_kernel()]
