"""Layers of many rows by tensor cores: products of 8-bit codes and a weight whose parameters vary along k.

    slab of 128 codes   x: rows × 128 bytes, ─┐ cp.async, two slabs on their way            a step: 32 codes along k
                        weight: its chunks ───┴─► shared memory ──► mma.m16n8k32 ──► sums
    after a block       term = f32(acc)·f32(sx·sw) ──► total += term, in increasing k

            columns                     a warp has `warp_rows` × `warp_columns` of the tile, by 16 × 8:
         ┌───────┬───────┬─ …
    rows │warp 0 │warp 2 │              lane l    rows l / 4 and l / 4 + 8, columns 2·(l % 4) and the next
         ├───────┼───────┼─ …
         │warp 1 │warp 3 │
         └───────┴───────┴─ …

layer_slabs.py brings slabs to shared memory, layer_steps.py multiplies. The order of additions is that of the
definition, so the result has the bits of every other device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import bits_of, float_of, scalar
from gpuq.cuda import ptx
from gpuq.cuda.columns import WIDTHS
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR
from gpuq.cuda.layer_blocks import EXTENTS, ROWS
from gpuq.cuda.layer_slabs import SLAB, STAGES, STEPS, MmaTile, make_fill, stage_of
from gpuq.cuda.layer_steps import EXTRA, make_step
from gpuq.cuda.layer_tiles import ENDS, INPUT, PARAMETERS, SIZES, WEIGHT, finish_sum, parameters_at, tile_place
from gpuq.cuda.mma_loop import AMPERE, MMA_COLUMNS, MMA_ROWS, STEP
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.ptx_tensor import cp_async_wait
from gpuq.cuda.tiles import CHUNK, ONES, WARP

_load_scale, _load_total = ptx.load[types.float32], ptx.load_shared[types.float32]
_wait, _wait_for_all = cp_async_wait[STAGES - 2], cp_async_wait[0]
LARGE, SMALL = MmaTile(64, 64, 32, 32), MmaTile(32, 32, 16, 16)  # the second fills a device with fewer rows
MMA_TILES = (LARGE, SMALL)
RESIDENT = {(LARGE, False): 3, (LARGE, True): 2, (SMALL, False): 5, (SMALL, True): 4}  # blocks that registers allow


@functools.cache
def mma_kernel(bits: int, tile: MmaTile, points: bool) -> Kernel:
    """The kernel (tiles, x, weight, sizes, (extents, steps of a block), rows, parameters, ends), the rest as in
    layer_blocks.py; blocks must be whole steps. Without `points` neither side has zero points, and x is signed.
    """
    arguments = (DIVISOR, INPUT, WEIGHT, SIZES, types.Tuple((EXTENTS, DIVISOR)), ROWS, PARAMETERS, ENDS)
    name, extents = f"layer_mma_{bits}bit_{tile.rows}x{tile.columns}", (tile.rows, tile.columns)
    name += "_points" * points
    shared, resident = STAGES * stage_of(bits, tile, points).all, RESIDENT[tile, points]
    function = _make_layer(bits, tile, points)
    return Kernel(name, "gemm", function, arguments, tile.threads, extents, shared, resident, AMPERE)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [mma_kernel(bits, tile, points) for bits in WIDTHS for tile in MMA_TILES for points in (False, True)]


def _total_bytes(tile: MmaTile) -> int:
    """Bytes in shared memory from a row of totals to the next: four rows of a warp meet in no bank."""
    return 4 * (tile.columns + 8)


def _make_load_rows_of(tile: MmaTile, points: bool) -> Callable[..., Any]:
    """`load_rows_of(block, row, last, shift, given, scales, points)`: what a lane's rows, from `row` on, have in a
    block.
    """
    rows = 2 * tile.warp_rows // MMA_ROWS

    @scalar
    def load_rows_of(
        block: int, row: int, last: int, shift: int, given: Any, row_scales: Any, row_points: Any
    ) -> None:  # fmt: skip
        for i in range(rows):
            index = min(row + 8 * i, last) * given[2] + types.int64(block) * given[3]
            if points:
                row_scales[i], row_points[i] = parameters_at(given, shift, index)
            else:
                row_scales[i] = _load_scale(given[0] + index * 4)

    return load_rows_of


def _make_correct(bits: int, tile: MmaTile) -> Callable[..., Any]:
    """`correct(place, codes, row_points, sums, row_sums, column_sums)`: what zero points add, off the sums of a block.
    Those of a lane's columns lie from `place` on, and have `codes[2]` more; of the block's codes `codes[0]` are the
    weight's, `codes[1]` all.
    """
    down, across = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS
    extra = EXTRA[bits]

    @scalar
    def correct(place: int, codes: Any, row_points: Any, sums: Any, row_sums: Any, column_sums: Any) -> None:
        points = cuda.local.array(2, types.uint32)
        for j in range(across):
            ptx.load8_shared(types.int32(place + j * (MMA_COLUMNS * 4)), points, 0)
            for side in range(2):
                point = types.int32(types.int32(points[side]) - codes[2])
                more = types.int32(codes[0] * point + extra * codes[1])
                column_sum = types.int32(column_sums[4 * j + side] - more)
                for i in range(down):
                    for half in range(2):
                        own, row = 4 * (i * across + j) + 2 * half + side, 4 * i + 2 * half
                        less_rows = types.int32(point * row_sums[row])
                        less_columns = types.int32(row_points[2 * i + half] * column_sum)
                        sums[own] = types.int32(sums[own] - types.int32(less_rows + less_columns))

    return correct


def _make_add_terms(tile: MmaTile) -> Callable[..., Any]:
    """`add_terms(place, row_scales, sums, totals)`: a block's scaled sums to the totals; the scales of a lane's columns
    lie from `place` on.
    """
    down, across = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS

    @scalar
    def add_terms(place: int, row_scales: Any, sums: Any, totals: Any) -> None:
        scales = cuda.local.array(2, types.uint32)
        for j in range(across):
            ptx.load8_shared(types.int32(place + j * (MMA_COLUMNS * 4)), scales, 0)
            for i in range(down):
                for part in range(4):
                    own = 4 * (i * across + j) + part
                    scale = np.float32(row_scales[2 * i + (part >> 1)] * float_of(scales[part & 1]))
                    totals[own] = np.float32(totals[own] + np.float32(np.float32(sums[own]) * scale))

    return add_terms


@scalar
def _clear(words: Any, count: int) -> None:
    for i in range(count):
        words[i] = 0


def _make_put_totals(tile: MmaTile) -> Callable[..., Any]:
    """`put_totals(place, totals)`: a lane's totals to shared memory, from its first one's place on."""
    down, across, row_bytes = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS, _total_bytes(tile)

    @scalar
    def put_totals(place: int, totals: Any) -> None:
        for i in range(down):
            for j in range(across):
                for side in range(2):
                    own, two = place + (MMA_ROWS * i + 8 * side) * row_bytes, 4 * (i * across + j) + 2 * side
                    first, second = bits_of(totals[two]), bits_of(totals[two + 1])
                    ptx.store8_shared(types.int32(own + MMA_COLUMNS * j * 4), first, second)

    return put_totals


def _make_finish_tile(tile: MmaTile) -> Callable[..., Any]:
    """`finish_tile(area, thread, first, sizes, ends)`: the tile's totals, from shared memory, finished and stored."""
    columns, threads, row_bytes, pieces = tile.columns, tile.threads, _total_bytes(tile), tile.rows * tile.columns

    @scalar
    def finish_tile(area: int, thread: int, first: Any, sizes: Any, ends: Any) -> None:
        piece = types.int32(thread)
        while piece < pieces:
            row, column = piece // columns, piece % columns
            i, j = first[0] + row, first[1] + column
            if i < sizes[0] and j < sizes[1]:
                finish_sum(_load_total(types.int32(area + row * row_bytes + column * 4)), i, j, sizes[1], ends)
            piece = types.int32(piece + threads)

    return finish_tile


def _make_sum_blocks(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    """`sum_blocks(stages, lane, operands, edges, extents, shifts, row_parameters, parameters, totals)`: all of k.

    lane       thread, its first row of the result, what it reads first of x, and of the weight, in a stage, and where
               its columns' parameters lie
    extents    blocks, chunks of one, its steps (a divisor), its codes, those of the last one, n
    """
    stage, fill, add_step = stage_of(bits, tile, points), make_fill(bits, tile, points), make_step(bits, tile, points)
    load_rows_of, correct, add_terms = (
        _make_load_rows_of(tile, points),
        _make_correct(bits, tile),
        _make_add_terms(tile),
    )
    chunk_codes, step_bytes = 8 * CHUNK // bits, STEP * bits // (8 * CHUNK) * stage.chunk
    stage_bytes, ring, row_bytes = stage.all, STAGES * stage.all, tile.columns * 4
    down, across = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS
    in_registers, a_words, b_words, own_rows = 4 * down * across, 4 * down, 4 * across, 2 * down
    scales_place, points_place = stage.scales, stage.points

    @scalar
    def sum_blocks(
        stages: int, lane: Any, operands: Any, edges: Any, extents: Any, shifts: Any, row_parameters: Any,
        parameters: Any, totals: Any,
    ) -> None:  # fmt: skip
        thread, first_row, x_place, weight_place, column_place = lane
        count, chunks, steps_of, length, last_length, n = extents
        steps_of_block = steps_of[2]
        steps = types.int32(count * steps_of_block)
        given = types.int32(count * chunks), steps, steps_of, n
        flip = types.uint32(types.uint32(shifts[1]) * ONES)
        sums, row_sums = cuda.local.array(in_registers, types.int32), cuda.local.array(a_words, types.int32)
        column_sums = cuda.local.array(b_words, types.int32)
        row_scales, row_points = cuda.local.array(own_rows, types.float32), cuda.local.array(own_rows, types.int32)
        _clear(row_sums, a_words)
        _clear(column_sums, b_words)
        load_rows_of(0, first_row, edges[2], shifts[1], row_parameters, row_scales, row_points)
        for slab in range(STAGES - 1):
            fill(types.int32(stages + slab * stage_bytes), slab, thread, operands, edges, given, parameters)
        read, write, slab = types.int32(0), types.int32((STAGES - 1) * stage_bytes), types.int32(STAGES - 1)
        left, block, step = types.int32(steps_of_block), types.int32(0), types.int32(0)
        while step < steps:
            own = step & (STEPS - 1)
            if own == 0:
                read = types.int32(read + stage_bytes) if step > 0 else read
                read = types.int32(0) if read == ring else read
                _wait()
                cuda.syncthreads()
                fill(types.int32(stages + write), slab, thread, operands, edges, given, parameters)
                slab, write = types.int32(slab + 1), types.int32(write + stage_bytes)
                write = types.int32(0) if write == ring else write
            x_step = types.int32(x_place + read + (((2 * own + (thread >> 4 & 1)) ^ (thread & 7)) * CHUNK))
            weight_step = types.int32(weight_place + read + own * step_bytes)
            add_step(left == steps_of_block, x_step, weight_step, flip, sums, row_sums, column_sums)
            step, left = types.int32(step + 1), types.int32(left - 1)
            if left == 0:
                place = types.int32(column_place + read + own * row_bytes)
                if points:
                    codes = last_length if block == count - 1 else length, chunks * chunk_codes, shifts[0]
                    correct(types.int32(place + points_place), codes, row_points, sums, row_sums, column_sums)
                    _clear(row_sums, a_words)
                    _clear(column_sums, b_words)
                add_terms(types.int32(place + scales_place), row_scales, sums, totals)
                left, block = types.int32(steps_of_block), types.int32(block + 1)
                if row_parameters[3] != 0 and block < count:
                    load_rows_of(block, first_row, edges[2], shifts[1], row_parameters, row_scales, row_points)

    return sum_blocks


def _make_layer(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    rows, columns, warp_rows, warp_columns = tile
    in_registers, warps_down = warp_rows * warp_columns // WARP, rows // warp_rows
    stage, sum_blocks = stage_of(bits, tile, points), _make_sum_blocks(bits, tile, points)
    put_totals, finish_tile, total_bytes = _make_put_totals(tile), _make_finish_tile(tile), _total_bytes(tile)

    def layer_mma(
        tiles: Any, x: Any, weight: Any, sizes: Any, extents: Any, row_parameters: Any, parameters: Any, ends: Any
    ) -> None:
        (m, n), (count, chunks, length, last_length, shift, row_shift) = sizes, extents[0]
        thread = types.int32(cuda.threadIdx.x)
        warp, group, member = thread >> 5, (thread >> 2) & 7, thread & 3
        down, across = tile_place(tiles)
        first_row, first_column = types.int64(down) * rows, types.int64(across) * columns
        own_row, own_column = (warp % warps_down) * warp_rows + group, (warp // warps_down) * warp_columns
        stages = ptx.shared_address(cuda.shared.array(0, types.uint8, alignment=128))
        totals = cuda.local.array(in_registers, types.float32)
        for place in range(in_registers):
            totals[place] = 0
        x_place = types.int32(stages + ((warp % warps_down) * warp_rows + (thread & 15)) * SLAB)
        weight_place = types.int32(stages + stage.weight + (own_column + group) * CHUNK + member * 4)
        column_place = types.int32(stages + (own_column + 2 * member) * 4)
        lane = thread, first_row + own_row, x_place, weight_place, column_place
        edges, own_shift = (first_row, first_column, m - 1, n - 1), shift if parameters[1] != 0 else 0
        given, shifts = (count, chunks, extents[1], length, last_length, n), (own_shift, row_shift)
        sum_blocks(stages, lane, (x, weight), edges, given, shifts, row_parameters, parameters, totals)
        _wait_for_all()
        cuda.syncthreads()
        put_totals(types.int32(stages + own_row * total_bytes + (own_column + 2 * member) * 4), totals)
        cuda.syncthreads()
        finish_tile(stages, thread, (first_row, first_column), sizes, ends)

    return layer_mma
