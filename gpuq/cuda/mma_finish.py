"""What follows the main loop of the tensor-core GEMM: sums of slices meet, then an epilogue finishes and stores them.

A warp brings 16 rows of sums at a time through shared memory, to have four neighbouring columns in a lane and whole
rows of its part side by side:

    write    lane l: sums of row l / 4 and l / 4 + 8, columns 2·(l % 4) + 8·j        two words, rows 8 words apart in
    read     lane l: 4 columns from 4·l on, of one row after the other               banks: no two lanes meet

Where the block and the warp have their part is found once more here, so that it takes no registers in the main loop.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.epilogue import Finish
from gpuq.cuda.gemm import make_column, make_finish_row, matrix_offsets
from gpuq.cuda.mma_loop import MMA_COLUMNS, MMA_ROWS
from gpuq.cuda.mma_places import make_own, place_of
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import WARP, Tile

PADDING = 8  # words between staged rows, so that rows lie 8 banks apart


def staged_bytes(tile: Tile, deep: bool) -> int:
    """Bytes of shared memory that sums take on their way to the epilogue: low words, and high ones if deep."""
    return tile.warps * MMA_ROWS * (tile.warp_columns + PADDING) * 4 * (2 if deep else 1)


def joined_bytes(tile: Tile) -> int:
    """Bytes of shared memory through which the sums of slices meet; those of the first stay where they are."""
    return (tile.slices - 1) * tile.warps * WARP * all_sums(tile) * 4


def all_sums(tile: Tile) -> int:
    """Sums of a thread: of the result, and of rows in fragments of their own."""
    return tile.sums + (tile.warp_rows // MMA_ROWS * 4 if tile.sums_rows else 0)


def make_finish_tile(tile: Tile, finish: Finish, deep: bool) -> Callable[..., Any]:
    """`finish_tile(sums, totals, stages, blocks, axes, sizes, columns, given)`: all that a thread does with its sums;
    `columns` are b_points and the column parameters, `given` what `make_finish_row` takes.
    """
    rows, columns_of_tile, own, take = tile.rows, tile.columns, make_own(tile), _take_totals if deep else _take_sums
    join_slices, finish_part = _make_join_slices(tile, staged_bytes(tile, deep)), _make_finish_part(tile, finish, deep)

    @scalar
    def finish_tile(
        sums: Any, totals: Any, stages: int, blocks: Any, axes: Any, sizes: Any, columns: Any, given: Any
    ) -> None:
        lane, warp, slice, warp_row, warp_column = own(ptx.thread_anew())
        join_slices(sums, stages, warp, slice, lane)
        if slice == 0:
            m, n, _ = sizes
            matrix, down, across = place_of(ptx.block_anew(), blocks)
            _, _, a_set, b_set, row_set, column_set = matrix_offsets(matrix, axes)
            starts = (a_set * m, row_set * m, b_set * n, column_set * n, types.int64(matrix) * m)
            part = types.int64(down) * rows + warp_row, types.int64(across) * columns_of_tile + warp_column
            finish_part(take(sums, totals), stages, warp, lane, part, sizes, starts, columns, given)

    return finish_tile


@functools.cache
def _make_join_slices(tile: Tile, start: int) -> Callable[..., Any]:
    """`join_slices(sums, stages, warp, slice, lane)`: the first slice's sums += those of the others, which come through
    shared memory from `start` on, four neighbours of each lane side by side.
    """
    warps, slices, quads = tile.warps, tile.slices, all_sums(tile) // 4
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
    width, stride, planes = tile.warp_columns, tile.warp_columns + PADDING, 2 if deep else 1  # words; low, high ones
    plane = MMA_ROWS * stride * 4
    lane_bits = (tile.warp_columns // 4).bit_length() - 1  # lanes of a row
    rows_at_once = WARP >> lane_bits
    total_type = types.int64 if deep else types.int32
    column_at, finish_row = make_column(finish, deep), make_finish_row(finish, deep, tile.sums_rows)
    sums_rows, sums_count, blocks = tile.sums_rows, tile.sums, b_count + tile.sums_rows
    join = _join_both if deep else _join_low
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
            index = part[0] + group * MMA_ROWS + row
            row_sum = types.int64(0)
            if sums_rows:
                row_sum = types.int64(types.int32(load_shared(types.int32(base + (row * stride + width) * 4))))
            finish_row(four, row_sum, index, part[1] + column, sizes, starts, own, given)
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
