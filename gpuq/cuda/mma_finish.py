"""What follows the main loop of the tensor-core GEMM: sums of slices meet, then an epilogue finishes and stores them.

A warp brings 16 rows of sums at a time through shared memory, to have four neighbouring columns in a lane and whole
rows of its part side by side:

    write    lane l: sums of row l / 4 and l / 4 + 8, columns 2·(l % 4) + 8·j        two words, rows 8 words apart in
    read     lane l: 4 columns from 4·l on, of one row after the other               banks: no two lanes meet

Parameters are in shared memory already (mma_parameters.py). Where the block and the warp have their part is found once
more here, so that it takes no registers in the main loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.epilogue import Finish
from gpuq.cuda.gemm import make_finish_row
from gpuq.cuda.mma_loop import MMA_COLUMNS, MMA_ROWS
from gpuq.cuda.mma_parameters import COLUMN_WORDS, join_words, make_columns_of, make_row_of
from gpuq.cuda.mma_places import make_own, place_of
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import WARP, Tile

PADDING = 8  # words between staged rows, so that rows lie 8 banks apart


def staged_bytes(tile: Tile, deep: bool) -> int:
    """Bytes of shared memory that sums take on their way to the epilogue: low words, and high ones if deep."""
    return tile.warps * MMA_ROWS * (tile.warp_columns + PADDING) * 4 * (2 if deep else 1)


def joined_bytes(tile: Tile, deep: bool) -> int:
    """Bytes of shared memory through which the sums of slices meet; those of the first stay where they are."""
    return (tile.slices - 1) * tile.warps * WARP * all_sums(tile, deep) * 4


def all_sums(tile: Tile, deep: bool) -> int:
    """Sums of a thread: of the result, and of rows in fragments of their own."""
    return tile.sums + (tile.warp_rows // MMA_ROWS * 4 if tile.sums_rows(deep) else 0)


def make_finish_tile(tile: Tile, finish: Finish, deep: bool) -> Callable[..., Any]:
    """`finish_tile(sums, totals, stages, area, blocks, sizes, given)`: all that a thread does with its sums; parameters
    are in the area, `given` is what `make_finish_row` takes.
    """
    rows, columns, own, take = tile.rows, tile.columns, make_own(tile), _take_totals if deep else _take_sums
    join_slices, finish_part = _make_join_slices(tile, deep), _make_finish_part(tile, finish, deep)

    @scalar
    def finish_tile(sums: Any, totals: Any, stages: int, area: int, blocks: Any, sizes: Any, given: Any) -> None:
        lane, warp, slice, warp_row, warp_column = own(ptx.thread_anew())
        join_slices(sums, stages, warp, slice, lane)
        if slice == 0:
            matrix, down, across = place_of(ptx.block_anew(), blocks)
            first = types.int64(matrix) * sizes[0], types.int64(down) * rows, types.int64(across) * columns
            finish_part(take(sums, totals), stages, area, warp, lane, first, (warp_row, warp_column), sizes, given)

    return finish_tile


@functools.cache
def _make_join_slices(tile: Tile, deep: bool) -> Callable[..., Any]:
    """`join_slices(sums, stages, warp, slice, lane)`: the first slice's sums += those of the others, which come through
    shared memory behind what is staged, four neighbours of each lane side by side.
    """
    warps, slices, quads = tile.warps, tile.slices, all_sums(tile, deep) // 4
    start = staged_bytes(tile, deep)
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
    """`finish_part(totals, stages, area, warp, lane, first, part, sizes, given)`: finishes and stores a warp's sums.
    `first`: of the matrix in the result, and the tile's row and column; `part`: the warp's row and column there.
    """
    b_count, groups = tile.warp_columns // MMA_COLUMNS, tile.warp_rows // MMA_ROWS
    width, stride, planes = tile.warp_columns, tile.warp_columns + PADDING, 2 if deep else 1  # words; low, high ones
    plane = MMA_ROWS * stride * 4
    lane_bits = (tile.warp_columns // 4).bit_length() - 1  # lanes of a row
    rows_at_once = WARP >> lane_bits
    total_type = types.int64 if deep else types.int32
    row_of, (load_columns, column_of) = make_row_of(tile, finish, deep), make_columns_of(tile, finish, deep)
    finish_row = make_finish_row(finish, deep)
    sums_rows, sums_count = tile.sums_rows(deep), tile.sums
    blocks = b_count + sums_rows
    join = join_words if deep else _join_low
    store8_shared, load16_shared, load_shared = ptx.store8_shared, ptx.load16_shared, ptx.load_shared[types.uint32]

    @scalar
    def stage(totals: Any, group: int, own: int) -> None:
        for j in range(blocks):  # the last one of sums of rows, if it has them: they lie in the padding
            for half in range(2):
                i = ((group * b_count + j) * 4 if j < b_count else sums_count + group * 4) + half * 2
                place = types.int32(own + (half * 8 * stride + j * MMA_COLUMNS) * 4)
                store8_shared(place, types.uint32(totals[i]), types.uint32(totals[i + 1]))
                if deep:
                    high, other = types.uint32(totals[i] >> 32), types.uint32(totals[i + 1] >> 32)
                    store8_shared(types.int32(place + plane), high, other)

    @scalar
    def finish_group(
        totals: Any, group: int, base: int, area: int, lane: int, first: Any, part: Any, sizes: Any, columns: Any,
        given: Any,
    ) -> None:  # fmt: skip
        stage(totals, group, types.int32(base + ((lane >> 2) * stride + (lane & 3) * 2) * 4))
        cuda.syncwarp()
        tile_row = types.int32(part[0] + group * MMA_ROWS)
        words, four = cuda.local.array(8, types.uint32), cuda.local.array(4, total_type)
        row, column = types.int32(lane >> lane_bits), types.int32((lane & ((1 << lane_bits) - 1)) * 4)
        there = types.int32(min(sizes[0] - first[1] - tile_row, MMA_ROWS))  # rows of the group that the result has
        while row < there:
            place = types.int32(base + (row * stride + column) * 4)
            load16_shared(place, words, 0)
            if deep:
                load16_shared(types.int32(place + plane), words, 4)
            for j in range(4):
                four[j] = join(words[j], words[4 + j])
            point, row_sum, values = row_of(area, types.int32(tile_row + row))
            if sums_rows:
                row_sum = types.int32(load_shared(types.int32(base + (row * stride + width) * 4)))
            of_row = point, row_sum, values
            where = first[1] + tile_row + row, first[2] + part[1] + column
            finish_row(four, of_row, where, sizes, first[0], columns, given)
            row = types.int32(row + rows_at_once)
        cuda.syncwarp()

    @scalar
    def finish_part(
        totals: Any, stages: int, area: int, warp: int, lane: int, first: Any, part: Any, sizes: Any, given: Any
    ) -> None:
        base, words = types.int32(stages + warp * (planes * plane)), cuda.local.array(COLUMN_WORDS, types.uint32)
        load_columns(area, types.int32(part[1] + (lane & ((1 << lane_bits) - 1)) * 4), words)
        own = column_of(words, 0), column_of(words, 1), column_of(words, 2), column_of(words, 3)
        # one call after the other: NVVM leaves a loop of this size rolled, and `totals` in memory
        finish_group(totals, 0, base, area, lane, first, part, sizes, own, given)
        if groups >= 2:
            finish_group(totals, 1, base, area, lane, first, part, sizes, own, given)
        if groups == 4:
            finish_group(totals, 2, base, area, lane, first, part, sizes, own, given)
            finish_group(totals, 3, base, area, lane, first, part, sizes, own, given)

    return finish_part


@scalar
def _join_low(low: int, high: int) -> Any:
    return types.int32(low)
