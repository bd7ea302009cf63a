"""Rows of activations quantized on a GPU, each with a scale of its own, by one kernel that nobody waits for.

    row of x ── absmax of its finite numbers ─► sx = max(f32(absmax / 127), 2^-126) ─► codes, in rows of whole chunks

A block takes a row twice: the second time it comes from the caches. A thread takes quads of four neighbours where rows
are aligned for that, else one number after the other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import bits_of, float_of, row_scale, scalar, to_grid
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.division import divide_bounded
from gpuq.cuda.elementwise import SIZES, make_load_one
from gpuq.cuda.lanes import make_unpack
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.strided import contiguous
from gpuq.cuda.tiles import MOST_BLOCKS, QUAD, THREADS
from gpuq.device_array import DeviceArray, address_of
from gpuq.division import bounded, reciprocal_of

Array = npt.NDArray[Any]
REALS = ("float32", "float16", "bfloat16")
INFINITY_BITS = 0x7F800000
LOW, HIGH = np.float32(-128), np.float32(127)


def quantize_rows(work: Work, x: Array, real: str, codes: Array, scales: Array) -> None:
    """int8 codes of each row of x (…, k), in C order, and the rows' float32 scales."""
    source, target = work.input(x), work.result(codes)
    if source.ndim != 2 or source.strides[-1] != source.itemsize or not source.flags.aligned:
        source = _joined(contiguous(work, source)) if x.size else source
    m, k, whole = math.prod(x.shape[:-1]), x.shape[-1], QUAD * source.itemsize
    aligned = (address_of(source), source.strides[0] if m > 1 else 0)
    quads = int(k % QUAD == 0 and all(each % whole == 0 for each in aligned))
    for first in range(0, m, MOST_BLOCKS):
        count, step = min(MOST_BLOCKS, m - first), source.strides[0] if x.size else 0
        addresses = address_of(source) + first * step, address_of(target) + first * k
        sizes = (step, k, quads)
        work.launch(rows_kernel(real), count, *addresses, *sizes, address_of(work.result(scales)) + first * 4)


def _joined(array: DeviceArray) -> DeviceArray:
    """All axes but the last as one."""
    joined: Any = array.reshape(-1, array.shape[-1])
    return joined


@functools.cache
def rows_kernel(real: str) -> Kernel:
    """The kernel (x, codes, step, k, quads, scales): bytes from row to row of x, and whether rows are aligned for
    quads.
    """
    arguments = (types.int64, types.int64, types.int64, types.int64, types.int32, types.int64)
    return Kernel(f"quantize_rows_{real}", "reduce", _make_rows(real), arguments, THREADS, (1,))


def _make_rows(real: str) -> Callable[..., Any]:
    load_quad, load_one, size = _make_load_quad(real), make_load_one(real), SIZES[real]
    store_scale, store_quad, store_code = (ptx.store[kind] for kind in (types.float32, types.uint32, types.int8))

    @scalar
    def largest_of(source: int, k: int, quads: int, thread: int) -> Any:
        """The bits of the largest finite magnitude that the thread sees."""
        found, four = types.int32(0), cuda.local.array(QUAD, types.float32)
        index, end = types.int64(thread) * QUAD, k - k % QUAD if quads else types.int64(0)
        while index < end:
            load_quad(source + index * size, four)
            found = max(max(found, _magnitude(four[0])), max(_magnitude(four[1]), _magnitude(four[2])))
            found = max(found, _magnitude(four[3]))
            index += THREADS * QUAD
        index = end + thread
        while index < k:
            found = max(found, _magnitude(np.float32(load_one(source, index))))
            index += THREADS
        return found

    @scalar
    def store_codes(source: int, target: int, k: int, quads: int, thread: int, divisor: Any) -> None:
        four = cuda.local.array(QUAD, types.float32)
        index, end = types.int64(thread) * QUAD, k - k % QUAD if quads else types.int64(0)
        while index < end:
            load_quad(source + index * size, four)
            low = _code(four[0], divisor) | _code(four[1], divisor) << 8
            high = _code(four[2], divisor) | _code(four[3], divisor) << 8
            store_quad(target + index, types.uint32(low | high << 16))
            index += THREADS * QUAD
        index = end + thread
        while index < k:
            store_code(target + index, types.int8(_code(np.float32(load_one(source, index)), divisor)))
            index += THREADS

    def quantize_rows(x: int, codes: int, step: int, k: int, quads: int, scales: int) -> None:
        thread, row = types.int32(cuda.threadIdx.x), types.int64(cuda.blockIdx.x)
        source, target = x + row * step, codes + row * k
        scale = row_scale(float_of(types.uint32(_largest_of_block(largest_of(source, k, quads, thread), thread))))
        if thread == 0:
            store_scale(scales + row * 4, scale)
        store_codes(source, target, k, quads, thread, bounded(scale, reciprocal_of(scale), LOW, HIGH))

    return quantize_rows


@scalar
def _magnitude(value: Any) -> Any:
    """Bits of |value|, which are ordered as the numbers are; 0 where it is not finite."""
    bits = types.int32(bits_of(value) & types.uint32(0x7FFFFFFF))
    return bits if bits < INFINITY_BITS else types.int32(0)


@scalar
def _code(value: Any, divisor: Any) -> Any:
    """Equation (2) with zero point 0: the 8 bits of a code."""
    return types.uint32(bits_of(to_grid(divide_bounded(value, divisor), value))) & types.uint32(0xFF)


@scalar
def _largest_of_block(found: int, thread: int) -> Any:
    """The largest of all threads' numbers, in all of them."""
    all_found = cuda.shared.array(THREADS, types.int32)
    all_found[thread] = found
    half = types.int32(THREADS // 2)
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            all_found[thread] = max(all_found[thread], all_found[thread + half])
        half = types.int32(half // 2)
    cuda.syncthreads()
    return all_found[0]


def _make_load_quad(real: str) -> Callable[..., Any]:
    """`load(address, four)`: four neighbours as float32."""
    unpack, load_word, whole = make_unpack(real), ptx.load[types.uint32], SIZES[real] == 4

    @scalar
    def load(address: int, four: Any) -> None:
        words = cuda.local.array(QUAD, types.uint32)
        if whole:
            ptx.load16(address, words, 0)
        else:
            words[0], words[1] = load_word(address), load_word(address + 4)
        for i in range(QUAD):
            four[i] = np.float32(unpack(words, i))

    return load


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [rows_kernel(real) for real in REALS]
