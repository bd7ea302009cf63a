"""The int8 GEMM of few rows, or few columns: a warp reads one row of codes of the long operand, once, and multiplies it
with up to 4 rows of the short one.

    long row    │ c0 c1 … c31 │ c32 … │           lane l takes chunks l, l + 32, … of 16 codes of every row: 512 bytes
    short rows  │ c0 c1 … c31 │ c32 … │ × 4       of the warp side by side; its 4 sums meet the other lanes' at the end

Lane r then finishes the sum with short row r. The long operand is b where m is small: columns of b; and a where n is
(`swapped`). int32 sums of a lane are exact for EXACT_DEPTH codes, which are 2,048 chunks; deeper products add them to
int64 sums in time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.epilogue import FINISHES, Finish
from gpuq.cuda.gemm import arguments, make_column, make_finish, make_row, matrix_offsets
from gpuq.cuda.indexing import DIVISOR, divide
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import CHUNK, DOT_ROWS, EVERYBODY, EXACT_DEPTH, THREADS, WARP

WARPS, WARP_BITS = THREADS // WARP, WARP.bit_length() - 1
SLICE_CHUNKS = EXACT_DEPTH // CHUNK * WARP  # along k, of which a lane has one in 32
TILES = types.Tuple((DIVISOR, DIVISOR, types.int32))  # blocks of a matrix, and for one set of short rows; swapped


@functools.cache
def dot_kernel(finish: str, deep: bool) -> Kernel:
    """The kernel (tiles, long, short, …), the rest as in gemm.py."""
    chosen = FINISHES[finish]
    name, tile = f"gemm_dots_{finish}{'_deep' * deep}", (DOT_ROWS, WARPS, WARP * CHUNK)
    return Kernel(name, "gemm", _make_dots(chosen, deep), (TILES, *arguments(chosen)), THREADS, tile)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [dot_kernel(finish, deep) for finish in FINISHES for deep in (False, True)]


@scalar
def _load_chunk(address: int, mask: int, words: Any) -> None:
    ptx.load16(address, words, 0)
    for word in range(4):
        words[word] = types.uint32(words[word] ^ types.uint32(mask))


def _make_sums(deep: bool) -> Callable[..., Any]:
    """`sum_products(long_row, long_mask, short, first, last, chunks, totals)`: the lane's sums of its chunks, with the
    rows of `short` from the first one on; those beyond the last are the last one.
    """
    total_type = types.int64 if deep else types.int32

    @scalar
    def sum_products(
        long_row: int, long_mask: int, short: Any, first: int, last: int, chunks: int, totals: Any
    ) -> None:
        lane = types.int32(cuda.threadIdx.x) & (WARP - 1)
        long_words, short_words = cuda.local.array(4, types.uint32), cuda.local.array(4, types.uint32)
        sums = cuda.local.array(DOT_ROWS, types.int32)
        for row in range(DOT_ROWS):
            sums[row], totals[row] = 0, 0
        chunk, until = types.int32(lane), types.int32(SLICE_CHUNKS)
        while chunk < chunks:
            _load_chunk(long_row + types.int64(chunk) * CHUNK, long_mask, long_words)
            for row in range(DOT_ROWS):
                own = short[0] + min(first + row, last) * short[1]
                _load_chunk(own + types.int64(chunk) * CHUNK, short[2], short_words)
                for word in range(4):
                    sums[row] = ptx.dp4a(long_words[word], short_words[word], sums[row])
            chunk = types.int32(chunk + WARP)
            if deep and chunk >= until:
                until = types.int32(until + SLICE_CHUNKS)
                for row in range(DOT_ROWS):
                    totals[row] += sums[row]
                    sums[row] = 0
        for row in range(DOT_ROWS):
            totals[row] = total_type(totals[row] + sums[row])

    return sum_products


def _make_dots(finish: Finish, deep: bool) -> Callable[..., Any]:
    total_type, sum_products, store_one = types.int64 if deep else types.int32, _make_sums(deep), _make_store(finish)
    row_at, column_at, finish_one = make_row(finish, deep), make_column(finish, deep), make_finish(finish, deep)

    @scalar
    def warp_sum(total: int) -> Any:
        """The sum of all lanes' totals, in all of them."""
        total = total_type(total + cuda.shfl_xor_sync(EVERYBODY, total, 16))
        total = total_type(total + cuda.shfl_xor_sync(EVERYBODY, total, 8))
        total = total_type(total + cuda.shfl_xor_sync(EVERYBODY, total, 4))
        total = total_type(total + cuda.shfl_xor_sync(EVERYBODY, total, 2))
        return total_type(total + cuda.shfl_xor_sync(EVERYBODY, total, 1))

    def dots(
        tiles: Any, long: Any, short: Any, sizes: Any, chunks: int, axes: Any, a_points: Any, b_points: Any, rows: Any,
        columns: Any, settings: Any, result: int, overflow: int,
    ) -> None:  # fmt: skip
        m, n, k = sizes
        swapped = tiles[2]
        matrix, block = divide(types.int32(cuda.blockIdx.x), tiles[0])
        set_of_rows, place_along = divide(block, tiles[1])
        along = types.int64(place_along) * WARPS + (types.int32(cuda.threadIdx.x) >> WARP_BITS)
        lane, first = types.int32(cuda.threadIdx.x) & (WARP - 1), types.int64(set_of_rows) * DOT_ROWS
        a_offset, b_offset, a_set, b_set, row_set, column_set = matrix_offsets(matrix, axes)
        long_offset, short_offset = (a_offset, b_offset) if swapped else (b_offset, a_offset)
        length, height = (m, n) if swapped else (n, m)
        if along >= length:
            return
        totals = cuda.local.array(DOT_ROWS, total_type)
        moved = (short[0] + short_offset, short[1], short[2])
        long_row = long[0] + long_offset + along * long[1]
        sum_products(long_row, long[2], moved, first, height - 1, chunks, totals)
        total = total_type(0)
        for row in range(DOT_ROWS):
            whole = warp_sum(totals[row])
            total = whole if lane == row else total
        if lane < DOT_ROWS and first + lane < height:
            i, j = (along, first + lane) if swapped else (first + lane, along)
            row_values = row_at(a_points, rows, a_set * m, row_set * m, i, settings)
            column_values = column_at(b_points, columns, b_set * n, column_set * n, j)
            place = (types.int64(matrix) * m + i) * n + j
            store_one(result, place, finish_one(total, row_values, column_values, k, settings, overflow))

    return dots


def _make_store(finish: Finish) -> Callable[..., Any]:
    """`store(result, place, bits)`: one element."""
    kind = {1: types.uint8, 2: types.uint16, 4: types.uint32}[finish.size]
    store_one, size = ptx.store[kind], finish.size
    return scalar(lambda result, place, bits: store_one(result + place * size, kind(bits)))
