"""Layers of many rows by tensor cores: products of 8-bit codes and a weight whose parameters vary along k.

    slab of 128 codes   x: rows × 128 bytes, ─┐ cp.async, three slabs on their way          a step: 32 codes along k
                        weight: its chunks ───┴─► shared memory ──► mma.m16n8k32 ──► sums
    after a block       term = f32(acc)·f32(sx·sw) ──► total += term, in increasing k

            columns                     a warp has `warp_rows` × `warp_columns` of the tile, by 16 × 8:
         ┌───────┬───────┬─ …
    rows │warp 0 │warp 2 │              lane l    rows l / 4 and l / 4 + 8, columns 2·(l % 4) and the next
         ├───────┼───────┼─ …                     of a step it reads codes 8·(l % 4) … + 7 of row, and column, l / 4
         │warp 1 │warp 3 │
         └───────┴───────┴─ …

Which codes of a step meet in which lane is free, as long as both operands agree: a lane takes eight neighbours, which
are one access of x, and one word of 4-bit codes. Those are multiplied as numbers from 0 to 15, q + 8, and the sums of a
block begin with Σ x·(−8), one product for all columns. Where there are zero points, Σ x and Σ q are products with ones.
The order of additions is that of the definition, so the result has the bits of every other device.

x in shared memory: 32-byte pieces of a row change places with the row's number, so that four rows meet in no bank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gpuq.arithmetic import bits_of, scalar
from gpuq.cuda import ptx
from gpuq.cuda.columns import WIDTHS
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR
from gpuq.cuda.layer_blocks import EXTENTS, ROWS
from gpuq.cuda.layer_reals import LOWER_HALVES
from gpuq.cuda.layer_tiles import ENDS, INPUT, PARAMETERS, SIZES, WEIGHT, finish_sum, parameters_at, tile_place
from gpuq.cuda.mma_loop import AMPERE
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.ptx_tensor import cp_async16, cp_async_commit, cp_async_wait, mma_m16n8k32, mma_m16n8k32_to
from gpuq.cuda.tiles import CHUNK, ONES, WARP

SLAB, STEP, STAGES = 128, 32, 3  # codes along k
STEPS = SLAB // STEP
MMA_ROWS, MMA_COLUMNS = 16, 8
_load_total = ptx.load_shared[types.float32]
_wait, _wait_for_all, _load_word = cp_async_wait[STAGES - 2], cp_async_wait[0], ptx.load_shared[types.uint32]
LESS_HALF, HALF_RANGES = np.uint32(0xF8F8F8F8), np.uint32(0x88888888)  # bytes of −8; what makes codes of 4 bits q + 8
_load_scale = ptx.load[types.float32]
PAD = 64  # bytes behind a chunk of all columns of 8-bit codes: two chunks, read together, meet in no bank


class MmaTile(NamedTuple):
    """Rows and columns of a block of threads, and of each of its warps."""

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * WARP


LARGE, SMALL = MmaTile(64, 64, 32, 32), MmaTile(32, 32, 16, 16)  # the second fills a device with fewer rows
MMA_TILES = (LARGE, SMALL)
RESIDENT = {(LARGE, False): 3, (LARGE, True): 2, (SMALL, False): 5, (SMALL, True): 4}  # blocks that registers allow


@functools.cache
def mma_kernel(bits: int, tile: MmaTile, points: bool) -> Kernel:
    """The kernel (tiles, x, weight, sizes, extents, rows, parameters, ends), as layer_blocks.py has it; blocks must be
    whole steps. Without `points` neither side has zero points, and x is signed.
    """
    arguments = (DIVISOR, INPUT, WEIGHT, SIZES, EXTENTS, ROWS, PARAMETERS, ENDS)
    name, extents = f"layer_mma_{bits}bit_{tile.rows}x{tile.columns}", (tile.rows, tile.columns)
    name += "_points" * points
    shared, resident = STAGES * _stage_bytes(bits, tile), RESIDENT[tile, points]
    function = _make_layer(bits, tile, points)
    return Kernel(name, "gemm", function, arguments, tile.threads, extents, shared, resident, AMPERE)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [mma_kernel(bits, tile, points) for bits in WIDTHS for tile in MMA_TILES for points in (False, True)]


def _chunk_bytes(bits: int, tile: MmaTile) -> int:
    """Bytes in shared memory from a chunk of all columns to the next."""
    return tile.columns * CHUNK + (PAD if bits == 8 else 0)


def _stage_bytes(bits: int, tile: MmaTile) -> int:
    """Bytes of a slab of both operands."""
    return tile.rows * SLAB + bits * _chunk_bytes(bits, tile)


def _total_bytes(tile: MmaTile) -> int:
    """Bytes in shared memory from a row of totals to the next: four rows of a warp meet in no bank."""
    return 4 * (tile.columns + 8)


def _make_fill(bits: int, tile: MmaTile) -> Callable[..., Any]:
    """`fill(stage, slab, thread, x, weight, first, last, chunks)`: a slab of both operands on its way to shared memory;
    zeros behind the last chunk. `first` and `last` are a row and a column, `chunks` those of a column.
    """
    threads, columns, row_chunks, codes = tile.threads, tile.columns, SLAB // CHUNK, 8 * CHUNK // bits
    x_passes, weight_passes = tile.rows * row_chunks // threads, columns * bits // threads
    x_bytes, chunk_bytes = tile.rows * SLAB, _chunk_bytes(bits, tile)

    @scalar
    def fill(
        stage: int, slab: int, thread: int, x: Any, weight: Any, first: Any, last: Any, chunks: int
    ) -> None:  # fmt: skip
        depth, start = chunks * codes, types.int32(slab * SLAB)
        for i in range(x_passes):
            piece = types.int32(thread + i * threads)
            row, chunk = piece // row_chunks, piece % row_chunks
            source = x[0] + min(first[0] + row, last[0]) * x[1] + types.int64(start + chunk * CHUNK)
            to = types.int32(stage + row * SLAB + (chunk ^ ((row & 3) << 1)) * CHUNK)
            cp_async16(to, source, types.int32(start + chunk * CHUNK >= depth))
        for i in range(weight_passes):
            piece = types.int32(thread + i * threads)
            column, chunk = piece % columns, piece // columns
            own = types.int64(slab * bits + chunk)
            source = weight[0] + own * weight[1] + min(first[1] + column, last[1]) * weight[2]
            to = types.int32(stage + x_bytes + chunk * chunk_bytes + column * CHUNK)
            cp_async16(to, source, types.int32(own >= chunks))
        cp_async_commit()

    return fill


def _make_load_codes(bits: int) -> Callable[..., Any]:
    """`load_codes(place, words)`: a lane's eight codes of a column; those of 4 bits as q + 8."""

    @scalar
    def load8(place: int, words: Any) -> None:
        ptx.load8_shared(place, words, 0)

    @scalar
    def load4(place: int, words: Any) -> None:
        word = types.uint32(_load_word(place) ^ HALF_RANGES)
        words[0] = types.uint32(word & LOWER_HALVES)
        words[1] = types.uint32(types.uint32(word >> types.uint32(4)) & LOWER_HALVES)

    return load4 if bits == 4 else load8


def _make_load_rows(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    """`load_rows(place, flip, a, start, row_sums)`: a lane's codes of a step of all its rows; what a block's sums begin
    with, if it is the first; and the sums of rows, where there are zero points.
    """
    down, half, narrow = tile.warp_rows // MMA_ROWS, MMA_ROWS // 2 * SLAB, bits == 4
    add, add_to = mma_m16n8k32["s8", "s8"], mma_m16n8k32_to["s8", "s8"]

    @scalar
    def load_rows(place: int, flip: int, a: Any, start: Any, row_sums: Any) -> None:
        own, ones = cuda.local.array(2, types.uint32), cuda.local.array(2, types.uint32)
        less, zeros = cuda.local.array(2, types.uint32), cuda.local.array(4, types.int32)
        less[0], less[1], ones[0], ones[1] = LESS_HALF, LESS_HALF, ONES, ONES
        zeros[0], zeros[1], zeros[2], zeros[3] = 0, 0, 0, 0
        for i in range(down):
            for side in range(2):  # codes 0 … 3 and 4 … 7 of a lane are a step's first and second half
                ptx.load8_shared(types.int32(place + (2 * i + side) * half), own, 0)
                a[4 * i + side] = types.uint32(own[0] ^ flip) if points else own[0]
                a[4 * i + 2 + side] = types.uint32(own[1] ^ flip) if points else own[1]
            if narrow:
                add_to(start, 4 * i, zeros, 0, a, 4 * i, less, 0)
            if points:
                add(row_sums, 4 * i, a, 4 * i, ones, 0)

    return load_rows


def _make_step(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    """`add_step(first, x_place, weight_place, flip, sums, row_sums, column_sums)`: the products of 32 codes along k,
    which a lane reads from these places on, to the sums; to none where it is a block's first.
    """
    down, across, load_codes = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS, _make_load_codes(bits)
    kinds, load_rows, a_words = ("s8", "u8" if bits == 4 else "s8"), _make_load_rows(bits, tile, points), 4 * down
    multiply, multiply_to, column_bytes = mma_m16n8k32[kinds], mma_m16n8k32_to[kinds], MMA_COLUMNS * CHUNK
    add, narrow = mma_m16n8k32["s8", "s8"], bits == 4

    @scalar
    def add_step(
        first: Any, x_place: int, weight_place: int, flip: int, sums: Any, row_sums: Any, column_sums: Any
    ) -> None:  # fmt: skip
        a, b = cuda.local.array(a_words, types.uint32), cuda.local.array(2, types.uint32)
        start, ones = cuda.local.array(a_words, types.int32), cuda.local.array(4, types.uint32)
        less = cuda.local.array(2, types.uint32)
        less[0], less[1] = LESS_HALF, LESS_HALF
        ones[0], ones[1], ones[2], ones[3] = ONES, ONES, ONES, ONES
        for i in range(a_words):
            start[i] = 0
        load_rows(x_place, flip, a, start, row_sums)
        if first:
            for j in range(across):
                load_codes(types.int32(weight_place + j * column_bytes), b)
                for i in range(down):
                    multiply_to(sums, 4 * (i * across + j), start, 4 * i, a, 4 * i, b, 0)
                if points:
                    multiply(column_sums, 4 * j, ones, 0, b, 0)
        else:
            for j in range(across):
                load_codes(types.int32(weight_place + j * column_bytes), b)
                for i in range(down):
                    if narrow:
                        add(sums, 4 * (i * across + j), a, 4 * i, less, 0)
                    multiply(sums, 4 * (i * across + j), a, 4 * i, b, 0)
                if points:
                    multiply(column_sums, 4 * j, ones, 0, b, 0)

    return add_step


def _make_parameters(tile: MmaTile, points: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`load_rows_of(block, places, m, shift, given, scales, points)`, `load_columns_of(block, places, whole, n, shift,
    given, scales, points)`: what a lane's rows and columns have in a block. A tile within the columns of the weight is
    `whole`: its addresses need no look at each.
    """
    rows, columns = 2 * tile.warp_rows // MMA_ROWS, 2 * tile.warp_columns // MMA_COLUMNS

    @scalar
    def load_rows_of(
        block: int, places: Any, m: int, shift: int, given: Any, row_scales: Any, row_points: Any
    ) -> None:  # fmt: skip
        for i in range(rows):
            index = min(places[0] + 8 * i, m - 1) * given[2] + types.int64(block) * given[3]
            if points:
                row_scales[i], row_points[i] = parameters_at(given, shift, index)
            else:
                row_scales[i] = _load_scale(given[0] + index * 4)

    @scalar
    def load_columns_of(
        block: int, places: Any, whole: Any, n: int, shift: int, given: Any, scales: Any, column_points: Any
    ) -> None:  # fmt: skip
        row = types.int64(block) * n
        own = given[0] + (row + places[1]) * 4
        if points or not whole:
            for j in range(columns):
                index = row + min(places[1] + (j >> 1) * MMA_COLUMNS + (j & 1), n - 1)
                scales[j], point = parameters_at(given, shift, index)
                if points:
                    column_points[j] = point
        else:
            for j in range(columns):
                scales[j] = _load_scale(own + ((j >> 1) * MMA_COLUMNS + (j & 1)) * 4)

    return load_rows_of, load_columns_of


def _make_correct(bits: int, tile: MmaTile) -> Callable[..., Any]:
    """`correct(codes, depth, row_points, points, sums, row_sums, column_sums)`: what zero points add, off the sums of a
    block, of whose `depth` codes so many are the weight's.
    """
    down, across = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS
    extra = 8 if bits == 4 else 0  # of each code as it was added up

    @scalar
    def correct(
        codes: int, depth: int, row_points: Any, points: Any, sums: Any, row_sums: Any, column_sums: Any
    ) -> None:
        for j in range(across):
            for side in range(2):
                more = types.int32(codes * points[2 * j + side] + extra * depth)
                column_sums[4 * j + side] = types.int32(column_sums[4 * j + side] - more)
        for i in range(down):
            for j in range(across):
                for part in range(4):
                    place, side = 4 * (i * across + j) + part, part & 1
                    less_rows = types.int32(points[2 * j + side] * row_sums[4 * i + (part & 2)])
                    less_columns = types.int32(row_points[2 * i + (part >> 1)] * column_sums[4 * j + side])
                    sums[place] = types.int32(sums[place] - types.int32(less_rows + less_columns))

    return correct


def _make_add_terms(tile: MmaTile) -> Callable[..., Any]:
    """`add_terms(row_scales, scales, sums, totals)`: a block's scaled sums to the totals."""
    down, across = tile.warp_rows // MMA_ROWS, tile.warp_columns // MMA_COLUMNS

    @scalar
    def add_terms(row_scales: Any, scales: Any, sums: Any, totals: Any) -> None:
        for i in range(down):
            for j in range(across):
                for part in range(4):
                    place = 4 * (i * across + j) + part
                    scale = np.float32(row_scales[2 * i + (part >> 1)] * scales[2 * j + (part & 1)])
                    term = np.float32(np.float32(sums[place]) * scale)
                    totals[place] = np.float32(totals[place] + term)

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


def _make_layer(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    rows, columns, warp_rows, warp_columns = tile
    down, across, warps_down = warp_rows // MMA_ROWS, warp_columns // MMA_COLUMNS, rows // warp_rows
    fill, add_step, add_terms = _make_fill(bits, tile), _make_step(bits, tile, points), _make_add_terms(tile)
    (load_rows_of, load_columns_of), correct = _make_parameters(tile, points), _make_correct(bits, tile)
    put_totals, finish_tile, total_bytes = _make_put_totals(tile), _make_finish_tile(tile), _total_bytes(tile)
    stage_bytes, x_bytes, chunk_bytes = _stage_bytes(bits, tile), rows * SLAB, _chunk_bytes(bits, tile)
    codes_of_chunk, step_bytes = 8 * CHUNK // bits, STEP * bits // (8 * CHUNK) * chunk_bytes
    a_words, b_words, own_rows, own_columns = 4 * down, 4 * across, 2 * down, 2 * across
    ring, in_registers = STAGES * stage_bytes, 4 * down * across

    def layer_mma(
        tiles: Any, x: Any, weight: Any, sizes: Any, extents: Any, row_parameters: Any, parameters: Any, ends: Any
    ) -> None:
        (m, n), (count, chunks, length, last_length, shift, row_shift) = sizes, extents
        thread = types.int32(cuda.threadIdx.x)
        warp, group, member = thread >> 5, (thread >> 2) & 7, thread & 3
        place_down, place_across = tile_place(tiles)
        first, last = (types.int64(place_down) * rows, types.int64(place_across) * columns), (m - 1, n - 1)
        own_row, own_column = (warp % warps_down) * warp_rows + group, (warp // warps_down) * warp_columns
        places, whole = (first[0] + own_row, first[1] + own_column + 2 * member), first[1] + columns <= n
        stages = ptx.shared_address(cuda.shared.array(0, types.uint8, alignment=128))
        all_chunks, flip = types.int32(count * chunks), types.uint32(types.uint32(row_shift) * ONES)
        for slab in range(STAGES - 1):
            fill(types.int32(stages + slab * stage_bytes), slab, thread, x, weight, first, last, all_chunks)
        sums, totals = cuda.local.array(in_registers, types.int32), cuda.local.array(in_registers, types.float32)
        row_sums, column_sums = cuda.local.array(a_words, types.int32), cuda.local.array(b_words, types.int32)
        row_scales, scales = cuda.local.array(own_rows, types.float32), cuda.local.array(own_columns, types.float32)
        row_points, own_points = cuda.local.array(own_rows, types.int32), cuda.local.array(own_columns, types.int32)
        for place in range(in_registers):
            totals[place] = 0
        _clear(row_sums, a_words)
        _clear(column_sums, b_words)
        load_rows_of(0, places, m, row_shift, row_parameters, row_scales, row_points)
        load_columns_of(0, places, whole, n, shift, parameters, scales, own_points)
        depth = types.int32(chunks * codes_of_chunk)
        steps, steps_of_block = types.int32(count * depth // STEP), depth // STEP
        x_place = types.int32(stages + own_row * SLAB + member * 8)
        within = member * 4 if bits == 4 else (member >> 1) * chunk_bytes + (member & 1) * 8
        weight_place = types.int32(stages + x_bytes + (own_column + group) * CHUNK + within)
        read, write, slab = types.int32(0), types.int32((STAGES - 1) * stage_bytes), types.int32(STAGES - 1)
        left, block, step = types.int32(steps_of_block), types.int32(0), types.int32(0)
        while step < steps:
            own = step & (STEPS - 1)
            if own == 0:
                read = types.int32(read + stage_bytes) if step > 0 else read
                read = types.int32(0) if read == ring else read
                _wait()
                cuda.syncthreads()
                fill(types.int32(stages + write), slab, thread, x, weight, first, last, all_chunks)
                slab, write = types.int32(slab + 1), types.int32(write + stage_bytes)
                write = types.int32(0) if write == ring else write
            x_step = types.int32(x_place + read + ((own ^ (group & 3)) * STEP))
            weight_step = types.int32(weight_place + read + own * step_bytes)
            add_step(left == steps_of_block, x_step, weight_step, flip, sums, row_sums, column_sums)
            step, left = types.int32(step + 1), types.int32(left - 1)
            if left == 0:
                if points:
                    codes = last_length if block == count - 1 else length
                    correct(codes, depth, row_points, own_points, sums, row_sums, column_sums)
                    _clear(row_sums, a_words)
                    _clear(column_sums, b_words)
                add_terms(row_scales, scales, sums, totals)
                left, block = types.int32(steps_of_block), types.int32(min(block + 1, count - 1))
                if row_parameters[3] != 0:
                    load_rows_of(block, places, m, row_shift, row_parameters, row_scales, row_points)
                load_columns_of(block, places, whole, n, shift, parameters, scales, own_points)
        _wait_for_all()
        cuda.syncthreads()
        put_totals(types.int32(stages + own_row * total_bytes + (own_column + 2 * member) * 4), totals)
        cuda.syncthreads()
        finish_tile(stages, thread, first, sizes, ends)

    return layer_mma
