"""The kernels of calibration: extremes of real numbers, and how many fall into each bin of bins.py's grid.

    channel 0  │ block 0: TILE values │ block 1 │ … │ block 0 again …      grid: (pieces, channels)
    channel 1  │ block 0 …                                                 `step` bytes from channel to channel

A block takes TILE values of one channel at a time, as visits.py has it.

    extremes:  a thread keeps lowest and highest key and how many numbers are not finite, the block's threads meet in
               shared memory, and every block stores its own three: the host has few of them to compare
    counts:    a block counts in shared memory and adds to the channel's counts what is not 0 in the end; runs of fewer
               than DIRECT values are added to the channel's counts at once
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import bits_of, scalar
from gpuq.bins import PLACES, ordered, place_of
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import THREADS, TILE
from gpuq.cuda.visits import make_visit_all

REALS = ("float32", "float16", "bfloat16", "float64")
DIRECT = PLACES // 2  # a block looks at all its counts twice


@functools.cache
def extremes_kernel(real: str) -> Kernel:
    """The kernel (x, step, run, lows, highs, others): three results for each channel and block, int32 but for keys of
    float64. Halves have the keys of the float32 that they are.
    """
    arguments = (types.int64, types.int64, types.int32, types.int64, types.int64, types.int64)
    return Kernel(f"extremes_{real}", "reduce", _make_extremes(real), arguments, THREADS, (TILE,))


@functools.cache
def counts_kernel(real: str) -> Kernel:
    """The kernel (x, step, run, factors, counts): 1 / w of each channel, in float64 for float64, else in float32; int32
    counts (channels, PLACES), which it adds to.
    """
    arguments = (types.int64, types.int64, types.int32, types.int64, types.int64)
    return Kernel(f"counts_{real}", "reduce", _make_counts(real), arguments, THREADS, (TILE,))


def _make_extremes(real: str) -> Callable[..., Any]:
    key, infinity, key_bits = (
        (types.int64, 0x7FF0000000000000, _bits_of_float64)
        if real == "float64"
        else (types.int32, 0x7F800000, _bits_of_float32)
    )
    key_bytes, shift = key.bitwidth // 8, key.bitwidth - 1
    magnitude, smallest = (1 << shift) - 1, -(1 << shift)
    store, store_int = ptx.store[key], ptx.store[types.int32]

    @scalar
    def visit(value: Any, state: Any) -> None:
        bits = key_bits(value)
        finite = bits & key(infinity) != key(infinity)
        found = ordered(bits, shift, key(magnitude), key)
        state[0] = min(state[0], found if finite else key(magnitude))
        state[1] = max(state[1], found if finite else key(smallest))
        state[2] = key(state[2] + (key(0) if finite else key(1)))

    visit_all = make_visit_all(real, visit)

    def extremes(x: int, step: int, run: int, lows: int, highs: int, others: int) -> None:
        state, thread = cuda.local.array(3, key), types.int32(cuda.threadIdx.x)
        state[0], state[1], state[2] = key(magnitude), key(smallest), key(0)
        visit_all(x + types.int64(cuda.blockIdx.y) * step, run, state)
        all_lows, all_highs = cuda.shared.array(THREADS, key), cuda.shared.array(THREADS, key)
        all_others = cuda.shared.array(THREADS, key)
        all_lows[thread], all_highs[thread], all_others[thread] = state[0], state[1], state[2]
        half = types.int32(THREADS // 2)
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                all_lows[thread] = min(all_lows[thread], all_lows[thread + half])
                all_highs[thread] = max(all_highs[thread], all_highs[thread + half])
                all_others[thread] = key(all_others[thread] + all_others[thread + half])
            half = types.int32(half // 2)
        if thread == 0:
            place = types.int64(cuda.blockIdx.y) * types.int64(cuda.gridDim.x) + types.int64(cuda.blockIdx.x)
            store(lows + place * key_bytes, all_lows[0])
            store(highs + place * key_bytes, all_highs[0])
            store_int(others + place * 4, types.int32(all_others[0]))

    return extremes


@scalar
def _bits_of_float32(value: Any) -> Any:
    return np.int32(bits_of(np.float32(value)))


@scalar
def _bits_of_float64(value: Any) -> Any:
    low, high = ptx.words_of(value)
    return np.int64(np.int64(np.int32(high)) << 32 | np.int64(low))


def _make_counts(real: str) -> Callable[..., Any]:
    number = types.float64 if real == "float64" else types.float32
    load_factor, factor_bytes, add = ptx.load[number], number.bitwidth // 8, ptx.atomic_add_int32

    @scalar
    def visit(value: Any, state: Any) -> None:
        shared, factor, own, direct = state
        place = types.int32(place_of(number(value), factor))
        if direct:
            add(own + types.int64(place) * 4, types.int32(1))
        else:
            cuda.atomic.add(shared, place, types.int32(1))

    visit_all = make_visit_all(real, visit)

    def counts(x: int, step: int, run: int, factors: int, results: int) -> None:
        channel = types.int64(cuda.blockIdx.y)
        shared, direct = cuda.shared.array(PLACES, types.int32), run < DIRECT
        own = results + channel * (PLACES * 4)
        place = types.int32(cuda.threadIdx.x)
        while place < PLACES and not direct:
            shared[place] = 0
            place = types.int32(place + THREADS)
        cuda.syncthreads()
        factor = load_factor(factors + channel * factor_bytes)
        visit_all(x + channel * step, run, (shared, factor, own, direct))
        cuda.syncthreads()
        place = types.int32(cuda.threadIdx.x)
        while place < PLACES and not direct:
            if shared[place] != 0:
                add(own + types.int64(place) * 4, shared[place])
            place = types.int32(place + THREADS)

    return counts


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [make(real) for make in (extremes_kernel, counts_kernel) for real in REALS]
