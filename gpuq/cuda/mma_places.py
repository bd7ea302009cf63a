"""Where a block of the tensor-core GEMM and a warp in it have their work; see gemm_mma.py for the picture.

Blocks next to each other in time share operands in the L2 cache: they go down BAND tiles of rows before they go to the
next tile of columns. The warps of a slice go down the tile, then across.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.mma_loop import STEP, make_swizzle, steps_of
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.tiles import BAND, WARP, Tile

BAND_BITS, WARP_BITS = BAND.bit_length() - 1, WARP.bit_length() - 1
BLOCKS = types.Tuple((DIVISOR, DIVISOR, DIVISOR, types.int32))


def blocks_of(tile: Tile, m: int, n: int) -> tuple[int, tuple[Any, ...]]:
    """The blocks of a matrix, and the kernel's first argument: divisors by the blocks of a matrix, of a band and of the
    last band's columns; the last band.
    """
    down, across = -(-m // tile.rows), -(-n // tile.columns)
    bands = -(-down // BAND)
    rest = down - (bands - 1) * BAND
    return down * across, (divisor(down * across), divisor(BAND * across), divisor(rest), bands - 1)


@scalar
def place_of(block: int, blocks: Any) -> Any:
    """Which matrix a block belongs to, and which tile down and across it has there."""
    matrix, own = divide(block, blocks[0])
    band, inside = divide(own, blocks[1])
    across, down = inside >> BAND_BITS, inside & (BAND - 1)
    if band == blocks[3]:
        across, down = divide(inside, blocks[2])
    return matrix, types.int32(band * BAND + down), types.int32(across)


@functools.cache
def make_own(tile: Tile) -> Callable[..., Any]:
    """`own(thread)`: a thread's lane, warp and slice, and the first row and column of the warp's part of the tile."""
    slices, warps, warp_bits = tile.slices, tile.warps, tile.warps.bit_length() - 1
    row_bits = (tile.rows // tile.warp_rows).bit_length() - 1
    warp_rows, warp_columns = tile.warp_rows, tile.warp_columns

    @scalar
    def own(thread: int) -> Any:
        lane, warp, slice = thread & (WARP - 1), thread >> WARP_BITS, types.int32(0)
        if slices > 1:
            warp, slice = warp & (warps - 1), warp >> warp_bits
        row, column = (warp & ((1 << row_bits) - 1)) * warp_rows, (warp >> row_bits) * warp_columns
        return lane, warp, slice, types.int32(row), types.int32(column)

    return own


@functools.cache
def make_place_thread(tile: Tile) -> Callable[..., Any]:
    """`place_thread(stages, thread, row, chunk)`: where in shared memory a thread stores the first chunk that it
    copies, which is of that row, and takes its first fragments of a and b from (mma_loop.py).
    """
    own, swizzle = make_own(tile), make_swizzle(tile)
    b_start, slice_bytes = tile.rows * tile.depth, steps_of(tile) * STEP

    @scalar
    def place_thread(stages: int, thread: int, row: int, chunk: int) -> Any:
        lane, _, slice, warp_row, warp_column = own(thread)
        to = types.int32(stages + swizzle(row, chunk))
        a_own = swizzle(warp_row + (lane & 15), lane >> 4) ^ (slice * slice_bytes)
        b_own = swizzle(warp_column + (lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1) ^ (slice * slice_bytes)
        return to, types.int32(stages + a_own), types.int32(stages + b_start + b_own)

    return place_thread
