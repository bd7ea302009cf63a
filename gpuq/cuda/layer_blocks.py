"""Layers with int8 activations and a weight that has other parameters in each block along k.

    thread t    block t / 8 of the 32 of a round: Σ x·q of its columns and rows, by dp4a
                term = f32(acc)·f32(sx·sw) ──► shared memory [slot][sum]
    thread s    total of sum s += the round's terms, in increasing k, while others multiply the next round

Terms of two rounds have room, so a round takes one barrier. 4-bit codes are multiplied where they lie in a byte's upper
half, which makes sums 16 times as large; the lower halves are moved there.

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


@functools.cache
def blocks_kernel(bits: int, tile: LayerTile) -> Kernel:
    """The kernel (tiles, x, weight, sizes, (blocks, chunks of a block, shift), row_scales, parameters, ends)."""
    own = (types.UniTuple(types.int32, 3), types.int64)
    return layer_kernel(f"layer_blocks_{bits}bit", tile, _make_blocks(bits, tile), own)


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
                place, first = row * columns + column, row * x_words_of_row + 2 * word
                sums[place] = ptx.dp4a(x_words[first], low, sums[place])
                sums[place] = ptx.dp4a(x_words[first + 1], high, sums[place])

    return add4 if bits == 4 else add8


def _make_sum_block(bits: int, tile: LayerTile) -> Callable[..., Any]:
    """`sum_block(x, weight, places, chunk, last, with_sums, sums, row_sums)`: Σ x·q (times 16, of 4-bit codes) of the
    chunks from `chunk` to `last`, and Σ x of rows where zero points ask for it.
    """
    (rows, columns), add_chunk = tile, _make_add_chunk(bits, tile)
    x_words_of_row, x_accesses, room = 32 // bits, 8 // bits, tile.rows * 32 // bits

    @scalar
    def sum_block(
        x: Any, weight: Any, places: Any, chunk: int, last: int, with_sums: bool, sums: Any, row_sums: Any
    ) -> None:
        x_words, words = cuda.local.array(room, types.uint32), cuda.local.array(4, types.uint32)
        while chunk < last:
            for row in range(rows):
                own = x[0] + min(places[0] + row, places[1]) * x[1] + types.int64(chunk) * (x_accesses * CHUNK)
                for access in range(x_accesses):
                    ptx.load16(own + access * CHUNK, x_words, row * x_words_of_row + access * 4)
            if with_sums:
                for row in range(rows):
                    for word in range(x_words_of_row):
                        row_sums[row] = ptx.dp4a(x_words[row * x_words_of_row + word], ONES, row_sums[row])
            for column in range(columns):
                j = min(places[2] + column * LANES, places[3])
                ptx.load16(weight[0] + types.int64(chunk) * weight[1] + j * weight[2], words, 0)
                add_chunk(x_words, words, column, sums)
            chunk = types.int32(chunk + 1)

    return sum_block


def _make_blocks(bits: int, tile: LayerTile) -> Callable[..., Any]:
    (rows, columns), sum_block, less = tile, _make_sum_block(bits, tile), 8 - bits
    places_of_tile, sums_of_tile, step = columns * LANES, tile.sums, tile.step
    room, in_registers, buffer = 2 * SLOTS * tile.step, rows * columns, SLOTS * tile.step
    load_scale = ptx.load[types.float32]

    @scalar
    def store_terms(
        x: Any, weight: Any, places: Any, n: int, block: int, chunks: int, shift: int, row_scales: int,
        parameters: Any, terms: Any, first: int,
    ) -> None:  # fmt: skip
        """The terms of one block: its scaled sums."""
        sums, row_sums = cuda.local.array(in_registers, types.int32), cuda.local.array(rows, types.int32)
        for place in range(in_registers):
            sums[place] = 0
        for row in range(rows):
            row_sums[row] = 0
        start = types.int32(block * chunks)
        sum_block(x, weight, places, start, types.int32(start + chunks), parameters[1] != 0, sums, row_sums)
        for column in range(columns):
            j = min(places[2] + column * LANES, places[3])
            scale, point = parameters_at(parameters, shift, types.int64(block) * n + j)
            for row in range(rows):
                row_scale = load_scale(row_scales + min(places[0] + row, places[1]) * 4)
                accumulator = types.int32((sums[row * columns + column] >> less) - types.int32(point * row_sums[row]))
                place = types.int32(first + row * places_of_tile + column * LANES)
                terms[place] = np.float32(accumulator) * (row_scale * scale)

    def layer_blocks(
        tiles: Any, x: Any, weight: Any, sizes: Any, blocks: Any, row_scales: int, parameters: Any, ends: Any
    ) -> None:
        (m, n), (count, chunks, shift) = sizes, blocks
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
                store_terms(x, weight, places, n, block, chunks, shift, row_scales, parameters, terms, own)
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
