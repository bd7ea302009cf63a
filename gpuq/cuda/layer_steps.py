"""A step of a layer by tensor cores: 32 codes along k of a warp's rows and columns, from shared memory to its sums.

    lane l    of x         rows l / 4, l / 4 + 8, …, codes 4·(l % 4) … + 3 of the step, and 16 codes on: by ldmatrix
              of weight    the same codes, columns l / 4, l / 4 + 8, …: one word of 4-bit codes
              sums         rows l / 4, l / 4 + 8, …, columns 2·(l % 4) and the next, of each 16 × 8

Codes of 4 bits are multiplied as numbers from 0 to 15, q + 8, and the sums of a block begin with Σ x·(−8), one product
for all columns. Where there are zero points, Σ x and Σ q are products with ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.layer_reals import LOWER_HALVES
from gpuq.cuda.layer_slabs import SLAB, MmaTile, stage_of
from gpuq.cuda.mma_loop import MMA_COLUMNS, MMA_ROWS
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.ptx_tensor import ldmatrix_x4, mma_m16n8k32, mma_m16n8k32_to
from gpuq.cuda.tiles import CHUNK, ONES

EXTRA = {4: 8, 8: 0}  # that a code of so many bits has more where it is multiplied
LESS_HALF, HALF_RANGES = np.uint32(0xF8F8F8F8), np.uint32(0x88888888)  # bytes of −8; what makes codes of 4 bits q + 8
_load_word = ptx.load_shared[types.uint32]


def _make_load_codes(bits: int, tile: MmaTile) -> Callable[..., Any]:
    """`load_codes(place, words)`: a lane's eight codes of a column; those of 4 bits as q + 8."""
    chunk_bytes = stage_of(bits, tile, False).chunk

    @scalar
    def load8(place: int, words: Any) -> None:
        words[0], words[1] = _load_word(place), _load_word(types.int32(place + chunk_bytes))

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
    down, row_bytes, narrow = tile.warp_rows // MMA_ROWS, MMA_ROWS * SLAB, bits == 4
    add, add_to = mma_m16n8k32["s8", "s8"], mma_m16n8k32_to["s8", "s8"]

    @scalar
    def load_rows(place: int, flip: int, a: Any, start: Any, row_sums: Any) -> None:
        less, ones = cuda.local.array(2, types.uint32), cuda.local.array(2, types.uint32)
        zeros = cuda.local.array(4, types.int32)
        less[0], less[1], ones[0], ones[1] = LESS_HALF, LESS_HALF, ONES, ONES
        zeros[0], zeros[1], zeros[2], zeros[3] = 0, 0, 0, 0
        for i in range(down):
            ldmatrix_x4(types.int32(place + i * row_bytes), a, 4 * i)
            if points:
                for word in range(4):
                    a[4 * i + word] = types.uint32(a[4 * i + word] ^ flip)
            if narrow:
                add_to(start, 4 * i, zeros, 0, a, 4 * i, less, 0)
            if points:
                add(row_sums, 4 * i, a, 4 * i, ones, 0)

    return load_rows


def make_step(bits: int, tile: MmaTile, points: bool) -> Callable[..., Any]:
    """`add_step(first, x_place, weight_place, flip, sums, row_sums, column_sums)`: the products of 32 codes along k,
    which a lane reads from these places on, to the sums; to none where it is a block's first.
    """
    down, across, load_codes = (
        tile.warp_rows // MMA_ROWS,
        tile.warp_columns // MMA_COLUMNS,
        _make_load_codes(bits, tile),
    )
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
