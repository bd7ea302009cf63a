"""Sums of rows of codes that the GEMM reads in place: a warp adds one row up, 16 codes of it in each lane at a time.

    row    │ c0 c1 … c31 │ c32 … c63 │ …        lane l takes chunks l, l + 32, …

Rows that are packed are summed on the way, see pack.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import CHUNK, EVERYBODY, ONES, THREADS, WARP
from gpuq.device_array import DeviceArray

WARPS, WARP_BITS = THREADS // WARP, WARP.bit_length() - 1


def sum_rows(
    work: Work, source: DeviceArray, matrix_stride: int, count: int, signs: tuple[int, int], sums: DeviceArray
) -> None:
    """Sums of `count` matrices (…, rows, k) of aligned rows of whole chunks. `signs`: 128 for unsigned codes, else 0;
    and what is added to each code again that dp4a took for signed.
    """
    rows, k = source.shape[-2:]
    blocks = -(-rows // WARPS)
    steps = (matrix_stride, source.strides[-2])
    work.launch(row_sums_kernel(), blocks * count, source, steps, divisor(blocks), (rows, k // CHUNK), signs, sums)


@functools.cache
def row_sums_kernel() -> Kernel:
    """The kernel (source, steps, blocks, extents, signs, sums)."""
    pair = types.UniTuple(types.int64, 2)
    arguments = (types.int64, pair, DIVISOR, pair, types.UniTuple(types.int32, 2), types.int64)
    return Kernel("row_sums", "pack", _make_row_sums(), arguments, THREADS, (WARPS, WARP * CHUNK))


def _make_row_sums() -> Callable[..., Any]:
    store, dp4a = ptx.store[types.int64], ptx.dp4a

    @scalar
    def sum_of(words: Any, signs: Any) -> Any:
        """The sum of a chunk's codes."""
        total, flip = types.int32(signs[1] * CHUNK), types.uint32(signs[0] * ONES)
        total = dp4a(types.uint32(words[0] ^ flip), ONES, total)
        total = dp4a(types.uint32(words[1] ^ flip), ONES, total)
        total = dp4a(types.uint32(words[2] ^ flip), ONES, total)
        return dp4a(types.uint32(words[3] ^ flip), ONES, total)

    def row_sums(source: int, steps: Any, blocks: Any, extents: Any, signs: Any, sums: int) -> None:
        rows, chunks = extents
        thread = types.int32(cuda.threadIdx.x)
        matrix, block = divide(types.int32(cuda.blockIdx.x), blocks)
        row = types.int64(block) * WARPS + (thread >> WARP_BITS)
        if row >= rows:
            return
        words, total = cuda.local.array(4, types.uint32), types.int64(0)
        chunk = types.int64(thread & (WARP - 1))
        address = source + matrix * steps[0] + row * steps[1] + chunk * CHUNK
        while chunk < chunks:
            ptx.load16(address, words, 0)
            total += sum_of(words, signs)
            address, chunk = address + WARP * CHUNK, chunk + WARP
        for bits in range(WARP_BITS):
            total += cuda.shfl_xor_sync(EVERYBODY, total, 1 << bits)
        if thread & (WARP - 1) == 0:
            store(sums + (types.int64(matrix) * rows + row) * 8, total)

    return row_sums


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [row_sums_kernel()]
