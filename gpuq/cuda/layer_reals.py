"""Layers with activations left as they are, float32, times a weight that is dequantized in registers.

    thread t    chunks t / 8, t / 8 + 32, … of its columns: codes ──► q − z as float32, exact ──► Σ x·(q − z) of a
                chunk, by fma, for each row ──► its sums += f32(S · that)
    thread s    the sum over all slots, from shared memory

A code's byte put below the byte 0x4B, of 2^23, is that number more: one subtraction, which is exact, makes q − z of it.
The weight is read once for every tile of rows, in the form that it is packed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import float_of, fma, scalar
from gpuq.cuda import ptx
from gpuq.cuda.columns import WIDTHS
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide
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

QUAD = 4
EXPONENT = np.uint32(0x4B000000)  # of 2^23
LOWER_HALVES = np.uint32(0x0F0F0F0F)
BYTE = (np.uint32(0x7540), np.uint32(0x7541), np.uint32(0x7542), np.uint32(0x7543))  # that byte, two zeros, 0x4B


@functools.cache
def reals_kernel(bits: int, tile: LayerTile) -> Kernel:
    """The kernel (tiles, x, weight, sizes, (chunks, chunks of a block, shift), parameters, ends)."""
    own = (types.Tuple((types.int32, DIVISOR, types.int32)),)
    return layer_kernel(f"layer_reals_{bits}bit", tile, _make_reals(bits, tile), own)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [reals_kernel(bits, tile) for bits in WIDTHS for tile in LAYER_TILES]


@scalar
def _unpack_quad(word: int, offset: Any, values: Any, first: int) -> None:
    """Four bytes, as numbers less `offset`, which is 2^23 and more."""
    for i in range(QUAD):
        values[first + i] = np.float32(float_of(ptx.permute_bytes(word, EXPONENT, BYTE[i])) - offset)


def _make_quads(bits: int) -> Callable[..., Any]:
    """`quad_of(words, first, quad)`: four neighbouring codes of the chunk that begins with word `first`, as bytes, each
    half a range more than it is.
    """
    flip = np.uint32(0x88888888 if bits == 4 else 0x80808080)

    @scalar
    def quad4(words: Any, first: int, quad: int) -> Any:
        word = types.uint32(words[first + quad % 4] ^ flip)
        return types.uint32(types.uint32(word >> types.uint32(4 * (quad // 4))) & LOWER_HALVES)

    @scalar
    def quad8(words: Any, first: int, quad: int) -> Any:
        return types.uint32(words[first + quad] ^ flip)

    return quad4 if bits == 4 else quad8


def _make_add_chunk(bits: int, tile: LayerTile) -> Callable[..., Any]:
    """`add_chunk(x, weight, places, chunk, offsets, dots)`: Σ x·(q − z) of one chunk of each column with each row."""
    (rows, columns), quad_of, quads = tile, _make_quads(bits), 32 // bits
    in_registers, words_of_columns, numbers = tile.rows * tile.columns, 4 * tile.columns, tile.columns * QUAD
    chunk_bytes = quads * QUAD * 4  # of x

    @scalar
    def add_quad(x_quad: int, step: int, rows_left: int, words: Any, quad: int, offsets: Any, dots: Any) -> None:
        """The same of four codes, x of which lies at `x_quad` for the first row."""
        part, values = cuda.local.array(QUAD, types.uint32), cuda.local.array(numbers, types.float32)
        for column in range(columns):
            _unpack_quad(quad_of(words, 4 * column, quad), offsets[column], values, column * QUAD)
        for row in range(rows):
            ptx.load16(x_quad + min(row, rows_left) * step, part, 0)
            for column in range(columns):
                place = row * columns + column
                for i in range(QUAD):
                    dots[place] = fma(float_of(part[i]), values[column * QUAD + i], dots[place])

    @scalar
    def add_chunk(x: Any, weight: Any, places: Any, chunk: int, offsets: Any, dots: Any) -> None:
        words, first, left = cuda.local.array(words_of_columns, types.uint32), places[0], places[1] - places[0]
        for column in range(columns):
            j = min(places[2] + column * LANES, places[3])
            ptx.load16(weight[0] + types.int64(chunk) * weight[1] + j * weight[2], words, column * 4)
        for place in range(in_registers):
            dots[place] = 0
        own = x[0] + first * x[1] + types.int64(chunk) * chunk_bytes
        # a loop of them is more than NVVM unrolls, and then nothing of it stays in registers
        add_quad(own, x[1], left, words, 0, offsets, dots)
        add_quad(own + 16, x[1], left, words, 1, offsets, dots)
        add_quad(own + 32, x[1], left, words, 2, offsets, dots)
        add_quad(own + 48, x[1], left, words, 3, offsets, dots)
        if quads == 8:
            add_quad(own + 64, x[1], left, words, 4, offsets, dots)
            add_quad(own + 80, x[1], left, words, 5, offsets, dots)
            add_quad(own + 96, x[1], left, words, 6, offsets, dots)
            add_quad(own + 112, x[1], left, words, 7, offsets, dots)

    return add_chunk


def _make_reals(bits: int, tile: LayerTile) -> Callable[..., Any]:
    (rows, columns), add_chunk, half = tile, _make_add_chunk(bits, tile), 1 << bits - 1
    places_of_tile, sums_of_tile, step = columns * LANES, tile.sums, tile.step
    room, in_registers = SLOTS * tile.step, rows * columns
    base = float(1 << 23) + half

    @scalar
    def sum_chunks(
        x: Any, weight: Any, places: Any, n: int, chunks: Any, parameters: Any, chunk: int, sums: Any
    ) -> None:
        """The sums of every 32nd chunk, from `chunk` on."""
        dots, scales = cuda.local.array(in_registers, types.float32), cuda.local.array(columns, types.float32)
        offsets = cuda.local.array(columns, types.float32)
        while chunk < chunks[0]:
            block, _ = divide(chunk, chunks[1])
            for column in range(columns):
                j = min(places[2] + column * LANES, places[3])
                scale, point = parameters_at(parameters, chunks[2], types.int64(block) * n + j)
                scales[column], offsets[column] = scale, np.float32(np.float32(base) + np.float32(point))
            add_chunk(x, weight, places, chunk, offsets, dots)
            for place in range(in_registers):
                sums[place] = fma(scales[place % columns], dots[place], sums[place])
            chunk = types.int32(chunk + SLOTS)

    def layer_reals(tiles: Any, x: Any, weight: Any, sizes: Any, chunks: Any, parameters: Any, ends: Any) -> None:
        m, n = sizes
        thread = types.int32(cuda.threadIdx.x)
        slot, lane = thread >> LANE_BITS, thread & (LANES - 1)
        down, across = tile_place(tiles)
        first_row, first_column = types.int64(down) * rows, types.int64(across) * places_of_tile
        places = (first_row, m - 1, first_column + lane, n - 1)
        sums, shared = cuda.local.array(in_registers, types.float32), cuda.shared.array(room, types.float32)
        for place in range(in_registers):
            sums[place] = 0
        sum_chunks(x, weight, places, n, chunks, parameters, slot, sums)
        for row in range(rows):
            for column in range(columns):
                shared[slot * step + row * places_of_tile + column * LANES + lane] = sums[row * columns + column]
        cuda.syncthreads()
        i, j = first_row + thread // places_of_tile, first_column + thread % places_of_tile
        if thread < sums_of_tile and i < m and j < n:
            total = np.float32(0)
            for other in range(SLOTS):
                total = np.float32(total + shared[other * step + thread])
            finish_sum(total, i, j, n, ends)

    return layer_reals
