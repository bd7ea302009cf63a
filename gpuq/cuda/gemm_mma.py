"""The int8 GEMM by tensor cores: a block makes a tile of the result, a warp a part of it, which an epilogue finishes.

               columns of b                         a lane's sums in 16 rows × 8 columns, a product of tensor cores:
           ┌───────┬───────┬─ … ─┐
    rows   │warp 0 │warp 2 │     │                      columns  0 1   2 3   4 5   6 7
    of a   │64 × 64│       │     │                       row 0   0 0   1 1   2 2   3 3     lane
           ├───────┼───────┼─ … ─┤                           1   4 4   5 5   6 6   7 7
           │warp 1 │warp 3 │     │                           …                            rows 8 … 15: the lane's
           └───────┴───────┴─ … ─┘                           7  28 …            31 31    other two sums

The main loop is in mma_loop.py. After it a warp brings 16 rows of sums at a time through shared memory, to have four
neighbouring columns in a lane and whole rows of its part side by side:

    write    lane l: sums of row l / 4 and l / 4 + 8, columns 2·(l % 4) + 8·j        two words, rows 8 words apart in
    read     lane l: 4 columns from 4·l on, of one row after the other               banks: no two lanes meet

Blocks next to each other in time share operands in the L2 cache: they go down BAND tiles of rows before they go to the
next tile of columns. Codes are multiplied as they are, whatever their signs: the kernel has a main loop for each mix of
them. k beyond int32 ("deep") adds slices to int64 totals, in a tile whose registers hold both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.epilogue import FINISHES, Finish
from gpuq.cuda.gemm import arguments, make_column, make_finish_row, matrix_offsets
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.mma_loop import (
    AMPERE,
    MMA_COLUMNS,
    MMA_ROWS,
    STEP,
    TURING,
    make_sums,
    make_swizzle,
    rows_of_pass,
    steps_of,
)
from gpuq.cuda.numba_cuda import Capability, cuda, types
from gpuq.cuda.ptx_tensor import KINDS
from gpuq.cuda.tiles import AMPERE_TILES, BAND, CHUNK, TURING_TILES, WARP, Tile

BAND_BITS, WARP_BITS, CHUNK_BITS = BAND.bit_length() - 1, WARP.bit_length() - 1, CHUNK.bit_length() - 1
PADDING = 8  # words between staged rows, so that rows lie 8 banks apart
BLOCKS = types.Tuple((DIVISOR, DIVISOR, DIVISOR, types.int32))
NO_END: Capability = (1000, 0)


@functools.cache
def tile_kernel(tile: Tile, finish: str, since: Capability, deep: bool) -> Kernel:
    """The kernel (blocks, a, b, …), the rest as in gemm.py, for the capabilities from TURING or from AMPERE on."""
    chosen = FINISHES[finish]
    name = f"gemm_mma_{finish}_{tile}{'_turing' * (since == TURING)}{'_deep' * deep}"
    function, kinds = _make_gemm(tile, chosen, since, deep), (BLOCKS, *arguments(chosen))
    sizes = (tile.rows, tile.columns, tile.depth)
    span = (TURING, AMPERE) if since == TURING else (AMPERE, NO_END)
    shared = max(tile.shared_bytes, staged_bytes(tile, deep) + joined_bytes(tile))
    return Kernel(name, "gemm", function, kinds, tile.threads, sizes, shared, 1, *span)


def staged_bytes(tile: Tile, deep: bool) -> int:
    """Bytes of shared memory that sums take on their way to the epilogue: low words, and high ones if deep."""
    return tile.warps * MMA_ROWS * (tile.warp_columns + PADDING) * 4 * (2 if deep else 1)


def joined_bytes(tile: Tile) -> int:
    """Bytes of shared memory through which the sums of slices meet; those of the first stay where they are."""
    return (tile.slices - 1) * tile.warps * WARP * tile.sums * 4


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    found = []
    for since, tiles in ((AMPERE, AMPERE_TILES), (TURING, TURING_TILES)):
        found += [tile_kernel(tile, finish, since, False) for tile in tiles for finish in FINISHES]
        found += [tile_kernel(tiles[-1], finish, since, True) for finish in FINISHES]
    return found


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


def _make_gemm(tile: Tile, finish: Finish, since: Capability, deep: bool) -> Callable[..., Any]:
    rows, columns, chunks_per_slab, pass_rows = tile.rows, tile.columns, tile.depth // CHUNK, rows_of_pass(tile)
    chunk_bits, a_passes, b_passes = chunks_per_slab.bit_length() - 1, rows // pass_rows, columns // pass_rows
    warps, warp_bits = tile.warps, tile.warps.bit_length() - 1
    point_at_rows, point_at_columns = _make_point(a_passes, pass_rows), _make_point(b_passes, pass_rows)
    place_warp, finish_part = _make_place_warp(tile), _make_finish_part(tile, finish, deep)
    sums_count, total_type = tile.sums, types.int64 if deep else types.int32
    totals_count, take = (sums_count, _take_totals) if deep else (1, _take_sums)
    join_slices = _make_join_slices(tile, staged_bytes(tile, deep))
    sum_products = _make_choice(tile, since, deep)

    def gemm(
        blocks: Any, a: Any, b: Any, sizes: Any, chunks: int, axes: Any, a_points: Any, b_points: Any, row_values: Any,
        column_values: Any, settings: Any, result: int, overflow: int,
    ) -> None:  # fmt: skip
        m, n, k = sizes
        thread = types.int32(cuda.threadIdx.x)
        lane, warp, slice = thread & (WARP - 1), (thread >> WARP_BITS) & (warps - 1), thread >> (WARP_BITS + warp_bits)
        matrix, down, across = place_of(types.int32(cuda.blockIdx.x), blocks)
        first_row, first_column = types.int64(down) * rows, types.int64(across) * columns
        a_offset, b_offset, a_set, b_set, row_set, column_set = matrix_offsets(matrix, axes)
        own_row, own_chunk = thread >> chunk_bits, types.int32(thread & (chunks_per_slab - 1))
        a_source, b_source = cuda.local.array(a_passes, types.int64), cuda.local.array(b_passes, types.int64)
        a_start, b_start = a[0] + a_offset + own_chunk * CHUNK, b[0] + b_offset + own_chunk * CHUNK
        a_first, b_first = (a_start, a[1], first_row, m - 1), (b_start, b[1], first_column, n - 1)
        point_at_rows(a_source, own_row, a_first, b_first)
        point_at_columns(b_source, own_row, b_first, a_first)
        stages = ptx.shared_address(cuda.shared.array(0, types.uint8, alignment=128))
        warp_row, warp_column, places = place_warp(stages, warp, slice, lane, own_row, own_chunk)
        sums, totals = cuda.local.array(sums_count, types.int32), cuda.local.array(totals_count, total_type)
        for i in range(sums_count):
            sums[i] = 0
        for i in range(totals_count):
            totals[i] = 0
        sum_products(a[2], b[2], places, (a_source, b_source, own_chunk), chunks, sums, totals)
        cuda.syncthreads()
        join_slices(sums, stages, warp, slice, lane)
        if slice > 0:
            return
        starts = (a_set * m, row_set * m, b_set * n, column_set * n, types.int64(matrix) * m)
        part = (first_row + warp_row, first_column + warp_column)
        given = (a_points, row_values, settings, result, overflow)
        finish_part(take(sums, totals), stages, warp, lane, part, sizes, starts, (b_points, column_values), given)

    return gemm


@functools.cache
def _make_point(passes: int, pass_rows: int) -> Callable[..., Any]:
    """`point(sources, own_row, operand, other)`: addresses of every so many rows of an operand, which is its start, the
    bytes from row to row, the block's first row and the last of all. Beyond that they are rows of the other operand,
    which the block reads anyway: were they the last row again, all blocks would ask the cache for one line at once.
    """

    @scalar
    def point(sources: Any, own_row: int, operand: Any, other: Any) -> None:
        start, stride, first, last = operand
        for i in range(passes):
            row = own_row + i * pass_rows
            there = min(other[2] + row, other[3])
            sources[i] = start + (first + row) * stride if first + row <= last else other[0] + there * other[1]

    return point


@functools.cache
def _make_place_warp(tile: Tile) -> Callable[..., Any]:
    """`place_warp(stages, warp, slice, lane, own_row, own_chunk)`: the first row and column of a warp's part of the
    tile, and where a thread stores its first chunk and takes its first fragments from (mma_loop.py).
    """
    bits, warp_rows, warp_columns = (tile.rows // tile.warp_rows).bit_length() - 1, tile.warp_rows, tile.warp_columns
    swizzle, b_start, slice_bytes = make_swizzle(tile), tile.rows * tile.depth, steps_of(tile) * STEP

    @scalar
    def place_warp(stages: int, warp: int, slice: int, lane: int, own_row: int, own_chunk: int) -> Any:
        row = types.int32((warp & ((1 << bits) - 1)) * warp_rows)
        column = types.int32((warp >> bits) * warp_columns)
        to = types.int32(stages + swizzle(own_row, own_chunk))
        a_own = swizzle(row + (lane & 15), lane >> 4) ^ (slice * slice_bytes)
        b_own = swizzle(column + (lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1) ^ (slice * slice_bytes)
        a_place, b_place = types.int32(stages + a_own), types.int32(stages + b_start + b_own)
        return row, column, (to, a_place, b_place)

    return place_warp


@functools.cache
def _make_choice(tile: Tile, since: Capability, deep: bool) -> Callable[..., Any]:
    """`sum_products(a_mask, b_mask, …)`: the main loop of these signs; a mask is 0 for signed codes."""
    signed, signed_unsigned, unsigned_signed, unsigned = (make_sums(tile, since, kinds, deep) for kinds in KINDS)

    @scalar
    def sum_products(a_mask: int, b_mask: int, places: Any, sources: Any, chunks: int, sums: Any, totals: Any) -> None:
        if a_mask == 0:
            if b_mask == 0:
                signed(places, sources, chunks, sums, totals)
            else:
                signed_unsigned(places, sources, chunks, sums, totals)
        elif b_mask == 0:
            unsigned_signed(places, sources, chunks, sums, totals)
        else:
            unsigned(places, sources, chunks, sums, totals)

    return sum_products


@functools.cache
def _make_join_slices(tile: Tile, start: int) -> Callable[..., Any]:
    """`join_slices(sums, stages, warp, slice, lane)`: the first slice's sums += those of the others, which come through
    shared memory from `start` on, four neighbours of each lane side by side.
    """
    warps, slices, quads = tile.warps, tile.slices, tile.sums // 4
    store16_shared, load16_shared = ptx.store16_shared, ptx.load16_shared

    @scalar
    def join_slices(sums: Any, stages: int, warp: int, slice: int, lane: int) -> None:
        if slices > 1:
            words = cuda.local.array(4, types.uint32)
            own = types.int32(stages + start + (((slice - 1) * warps + warp) * quads * WARP + lane) * 16)
            if slice > 0:
                for quad in range(quads):
                    for i in range(4):
                        words[i] = types.uint32(sums[quad * 4 + i])
                    store16_shared(types.int32(own + quad * WARP * 16), words, 0)
            cuda.syncthreads()
            if slice == 0:
                for other in range(1, slices):
                    for quad in range(quads):
                        load16_shared(types.int32(own + (other * warps * quads + quad) * WARP * 16), words, 0)
                        for i in range(4):
                            sums[quad * 4 + i] += types.int32(words[i])

    return join_slices


@scalar
def _take_sums(sums: Any, totals: Any) -> Any:
    return sums


@scalar
def _take_totals(sums: Any, totals: Any) -> Any:
    return totals


def _make_finish_part(tile: Tile, finish: Finish, deep: bool) -> Callable[..., Any]:
    """`finish_part(totals, stages, warp, lane, part, sizes, starts, given)`: finishes and stores a warp's sums; `part`:
    its first row and column.
    """
    b_count, groups = tile.warp_columns // MMA_COLUMNS, tile.warp_rows // MMA_ROWS
    stride, planes = tile.warp_columns + PADDING, 2 if deep else 1  # words; low and high ones
    plane = MMA_ROWS * stride * 4
    lane_bits = (tile.warp_columns // 4).bit_length() - 1  # lanes of a row
    rows_at_once = WARP >> lane_bits
    total_type = types.int64 if deep else types.int32
    column_at, finish_row = make_column(finish), make_finish_row(finish, deep)
    join = _join_both if deep else _join_low
    store8_shared, load16_shared = ptx.store8_shared, ptx.load16_shared

    @scalar
    def stage(totals: Any, group: int, own: int) -> None:
        for j in range(b_count):
            for half in range(2):
                i = (group * b_count + j) * 4 + half * 2
                place = types.int32(own + (half * 8 * stride + j * MMA_COLUMNS) * 4)
                store8_shared(place, types.uint32(totals[i]), types.uint32(totals[i + 1]))
                if deep:
                    high, other = types.uint32(totals[i] >> 32), types.uint32(totals[i + 1] >> 32)
                    store8_shared(types.int32(place + plane), high, other)

    @scalar
    def finish_group(
        totals: Any, group: int, base: int, lane: int, part: Any, sizes: Any, starts: Any, own: Any, given: Any
    ) -> None:
        stage(totals, group, types.int32(base + ((lane >> 2) * stride + (lane & 3) * 2) * 4))
        cuda.syncwarp()
        words, four = cuda.local.array(8, types.uint32), cuda.local.array(4, total_type)
        row, column = types.int32(lane >> lane_bits), types.int32((lane & ((1 << lane_bits) - 1)) * 4)
        while row < MMA_ROWS:
            place = types.int32(base + (row * stride + column) * 4)
            load16_shared(place, words, 0)
            if deep:
                load16_shared(types.int32(place + plane), words, 4)
            for j in range(4):
                four[j] = join(words[j], words[4 + j])
            finish_row(four, part[0] + group * MMA_ROWS + row, part[1] + column, sizes, starts, own, given)
            row = types.int32(row + rows_at_once)
        cuda.syncwarp()

    @scalar
    def finish_part(
        totals: Any, stages: int, warp: int, lane: int, part: Any, sizes: Any, starts: Any, b_side: Any, given: Any
    ) -> None:
        base = types.int32(stages + warp * (planes * plane))
        column, last = part[1] + (lane & ((1 << lane_bits) - 1)) * 4, sizes[1] - 1
        own = (
            column_at(b_side[0], b_side[1], starts[2], starts[3], min(column, last)),
            column_at(b_side[0], b_side[1], starts[2], starts[3], min(column + 1, last)),
            column_at(b_side[0], b_side[1], starts[2], starts[3], min(column + 2, last)),
            column_at(b_side[0], b_side[1], starts[2], starts[3], min(column + 3, last)),
        )
        # one call after the other: NVVM leaves a loop of this size rolled, and `totals` in memory
        finish_group(totals, 0, base, lane, part, sizes, starts, own, given)
        if groups >= 2:
            finish_group(totals, 1, base, lane, part, sizes, starts, own, given)
        if groups == 4:
            finish_group(totals, 2, base, lane, part, sizes, starts, own, given)
            finish_group(totals, 3, base, lane, part, sizes, starts, own, given)

    return finish_part


@scalar
def _join_low(low: int, high: int) -> Any:
    return types.int32(low)


@scalar
def _join_both(low: int, high: int) -> Any:
    return types.int64(low) | types.int64(types.int32(high)) << 32
