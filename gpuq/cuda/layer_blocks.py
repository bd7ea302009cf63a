"""Products of codes of 8 bits and a weight, of which one has, or both have, other parameters in each block along k.

    thread t    block t / 8 of the 32 of a round: Σ x·q of its columns and rows, by dp4a
                acc  = Σ x·q − zw·Σ x − zx·(Σ q − codes·zw)
                term = f32(acc)·f32(sx·sw) ──► shared memory [slot][sum]
    thread s    total of sum s += the round's terms, in increasing k, while others multiply the next round

Terms of two rounds have room, so a round takes one barrier. 4-bit codes are multiplied where they lie in a byte's upper
half, which makes sums 16 times as large; the lower halves are moved there. Unsigned x has its codes' highest bit
flipped, and 128 taken from zx. Sums of x are formed where the weight has zero points, those of the weight where x has.

The order of additions is that of the definition, so the result has the bits of every other device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.columns import WIDTHS
from gpuq.cuda.compile import Kernel
from gpuq.cuda.layer_tiles import (
    FOUR_ROWS,
    LANE_BITS,
    LANES,
    LAYER_TILES,
    SLOTS,
    LayerTile,
    finish_sum,
    layer_kernel,
    parameters_at,
    tile_place,
)
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import CHUNK, ONES

UPPER_HALVES = np.uint32(0xF0F0F0F0)
# blocks, chunks of one, its codes, those of the last one, the weight's shift, and x's: 128 where it is unsigned
EXTENTS = types.UniTuple(types.int32, 6)
# of x's scales, float32, and zero points, int32, or 0: where they lie; numbers from row to row, and block to block
ROWS = types.UniTuple(types.int64, 4)


@functools.cache
def blocks_kernel(bits: int, tile: LayerTile) -> Kernel:
    """The kernel (tiles, x, weight, sizes, extents, rows, parameters, ends)."""
    resident = 2 if bits == 4 and tile is FOUR_ROWS else 3  # as without zero points; that one would spill on 12.0
    return layer_kernel(f"layer_blocks_{bits}bit", tile, _make_blocks(bits, tile), (EXTENTS, ROWS), resident)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [blocks_kernel(bits, tile) for bits in WIDTHS for tile in LAYER_TILES]


def _make_add_chunk(bits: int, tile: LayerTile) -> Callable[..., Any]:
    """`add_chunk(x_words, words, column, sums)`: the products of a chunk of a column with those of all rows."""
    rows, columns, x_words_of_row = tile.rows, tile.columns, 32 // bits

    @scalar
    def add8(x_words: Any, words: Any, column: int, sums: Any) -> None:
        for word in range(4):
            for row in range(rows):
                place = row * columns + column
                sums[place] = ptx.dp4a(x_words[row * x_words_of_row + word], words[word], sums[place])

    @scalar
    def add4(x_words: Any, words: Any, column: int, sums: Any) -> None:
        for word in range(4):
            high = types.uint32(words[word] & UPPER_HALVES)
            low = types.uint32(types.uint32(words[word] << types.uint32(4)) & UPPER_HALVES)
            for row in range(rows):
                place, first = row * columns + column, row * x_words_of_row + word
                sums[place] = ptx.dp4a(x_words[first], low, sums[place])
                sums[place] = ptx.dp4a(x_words[first + 4], high, sums[place])

    return add4 if bits == 4 else add8


def _make_add_column(bits: int) -> Callable[..., Any]:
    """`add_column(words, total)`: total and the sum of a chunk of a column; times 16, of 4-bit codes."""

    @scalar
    def add8(words: Any, total: Any) -> Any:
        for word in range(4):
            total = ptx.dp4a(words[word], ONES, total)
        return total

    @scalar
    def add4(words: Any, total: Any) -> Any:
        for word in range(4):
            total = ptx.dp4a(types.uint32(words[word] & UPPER_HALVES), ONES, total)
            total = ptx.dp4a(types.uint32(types.uint32(words[word] << types.uint32(4)) & UPPER_HALVES), ONES, total)
        return total

    return add4 if bits == 4 else add8


def _make_sum_block(bits: int, tile: LayerTile) -> Callable[..., Any]:
    """`sum_block(x, weight, places, chunks, flip, wanted, sums, row_sums, column_sums)`: Σ x·q of the chunks from the
    first to the last, and Σ x and Σ q where they are wanted; what q is in is times 16, of 4-bit codes.
    """
    (rows, columns), add_chunk, add_column = tile, _make_add_chunk(bits, tile), _make_add_column(bits)
    x_words_of_row, x_accesses, room = 32 // bits, 8 // bits, tile.rows * 32 // bits

    @scalar
    def sum_block(
        x: Any, weight: Any, places: Any, chunks: Any, flip: Any, wanted: Any,
        sums: Any, row_sums: Any, column_sums: Any,
    ) -> None:  # fmt: skip
        x_words, words = cuda.local.array(room, types.uint32), cuda.local.array(4, types.uint32)
        chunk, last = chunks
        while chunk < last:
            for row in range(rows):
                own = x[0] + min(places[0] + row, places[1]) * x[1] + types.int64(chunk) * (x_accesses * CHUNK)
                for access in range(x_accesses):
                    ptx.load16(own + access * CHUNK, x_words, row * x_words_of_row + access * 4)
            for word in range(room):
                x_words[word] = types.uint32(x_words[word] ^ flip)
            if wanted[0]:
                for row in range(rows):
                    for word in range(x_words_of_row):
                        row_sums[row] = ptx.dp4a(x_words[row * x_words_of_row + word], ONES, row_sums[row])
            for column in range(columns):
                j = min(places[2] + column * LANES, places[3])
                ptx.load16(weight[0] + types.int64(chunk) * weight[1] + j * weight[2], words, 0)
                add_chunk(x_words, words, column, sums)
                if wanted[1]:
                    column_sums[column] = add_column(words, column_sums[column])
            chunk = types.int32(chunk + 1)

    return sum_block


def _make_store_terms(bits: int, tile: LayerTile) -> Callable[..., Any]:
    """`store_terms(x, weight, places, n, block, extents, row_parameters, parameters, terms, first)`: the scaled sums of
    one block.
    """
    (rows, columns), sum_block, less = tile, _make_sum_block(bits, tile), 8 - bits
    places_of_tile, in_registers = columns * LANES, rows * columns

    @scalar
    def store_terms(
        x: Any, weight: Any, places: Any, n: int, block: int, extents: Any, row_parameters: Any,
        parameters: Any, terms: Any, first: int,
    ) -> None:  # fmt: skip
        count, chunks, length, last_length, shift, row_shift = extents
        sums, row_sums = cuda.local.array(in_registers, types.int32), cuda.local.array(rows, types.int32)
        column_sums = cuda.local.array(columns, types.int32)
        for place in range(in_registers):
            sums[place] = 0
        for row in range(rows):
            row_sums[row] = 0
        for column in range(columns):
            column_sums[column] = 0
        wanted = parameters[1] != 0, row_parameters[1] != 0
        start, flip = types.int32(block * chunks), types.uint32(types.uint32(row_shift) * ONES)
        own, codes = (start, types.int32(start + chunks)), last_length if block == count - 1 else length
        sum_block(x, weight, places, own, flip, wanted, sums, row_sums, column_sums)
        for row in range(rows):
            index = min(places[0] + row, places[1]) * row_parameters[2] + types.int64(block) * row_parameters[3]
            row_scale, row_point = parameters_at(row_parameters, row_shift, index)
            for column in range(columns):
                j = min(places[2] + column * LANES, places[3])
                scale, point = parameters_at(parameters, shift, types.int64(block) * n + j)
                column_sum = types.int32((column_sums[column] >> less) - types.int32(codes * point))
                less_rows = types.int32(point * row_sums[row]) + types.int32(row_point * column_sum)
                accumulator = types.int32((sums[row * columns + column] >> less) - types.int32(less_rows))
                place = types.int32(first + row * places_of_tile + column * LANES)
                terms[place] = np.float32(accumulator) * (row_scale * scale)

    return store_terms


def _make_blocks(bits: int, tile: LayerTile) -> Callable[..., Any]:
    rows, store_terms, places_of_tile = tile.rows, _make_store_terms(bits, tile), tile.columns * LANES
    sums_of_tile, step, room, buffer = tile.sums, tile.step, 2 * SLOTS * tile.step, SLOTS * tile.step

    def layer_blocks(
        tiles: Any, x: Any, weight: Any, sizes: Any, extents: Any, row_parameters: Any, parameters: Any, ends: Any
    ) -> None:
        (m, n), count = sizes, extents[0]
        thread = types.int32(cuda.threadIdx.x)
        slot, lane = thread >> LANE_BITS, thread & (LANES - 1)
        down, across = tile_place(tiles)
        first_row, first_column = types.int64(down) * rows, types.int64(across) * places_of_tile
        places = (first_row, m - 1, first_column + lane, n - 1)
        terms = cuda.shared.array(room, types.float32)
        total, first, base = np.float32(0), types.int32(0), types.int32(0)
        while first < count:
            block = types.int32(first + slot)
            if block < count:
                own = types.int32(base + slot * step + lane)
                store_terms(x, weight, places, n, block, extents, row_parameters, parameters, terms, own)
            cuda.syncthreads()
            if thread < sums_of_tile:
                other, last = types.int32(base + thread), types.int32(base + min(SLOTS, count - first) * step)
                while other < last:
                    total = np.float32(total + terms[other])
                    other = types.int32(other + step)
            first, base = types.int32(first + SLOTS), types.int32(buffer - base)
        i, j = first_row + thread // places_of_tile, first_column + thread % places_of_tile
        if thread < sums_of_tile and i < m and j < n:
            finish_sum(total, i, j, n, ends)

    return layer_blocks
