"""Products whose b has other parameters in each block of k, on the CPU: weights quantized block by block.

    k:      ├ block 0 ┤├ block 1 ┤ …         sums of each block by block_tile.py, corrected by equation (3)
    total = f32(f32(acc 0)·f32(sa·sb 0)) + …  in float32, in increasing k, in L1
    y     = act(total + bias)

A strip of a is filled for as many blocks of k as DEPTH holds; the tiles of each take their own steps of it. So blocks
are whole groups of the instruction, and no longer than DEPTH; products of others are added up one by one
(block_products.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32

from gpuq.arithmetic import row_constant, scalar
from gpuq.cpu.block_tile import make_block_product
from gpuq.cpu.block_weight import BlockWeight, codes_of_step
from gpuq.cpu.blocking import SMALLEST, choose_blocks
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.rows import finish_row
from gpuq.cpu.spread import find_crew, runner
from gpuq.cpu.strips import make_fill
from gpuq.cpu.threads import num_threads
from gpuq.cpu.tiles import DEPTH, STRIP
from gpuq.layout import read_only

Array = npt.NDArray[Any]


def multiply(
    codes: Array, points: Array, scale: Array, b: BlockWeight, bias: Array, settings: tuple[int, int], y: Array
) -> None:
    """y (m, n) = act(Σ over blocks + bias), for codes (m, k) with zero points and scales of rows; settings: the
    activation, and what y holds, float32 or the bits of a half type.
    """
    (m, k), n, isa = codes.shape, y.shape[1], INSTRUCTION_SETS[b.isa]
    flip = np.uint8(0 if codes.dtype == np.int8 else 128)
    stored = read_only(codes.view(np.uint8))
    own_points = read_only((points - int(flip)).astype(np.int32))
    rows = np.empty((b.scale.shape[1], m, 2), np.int32)
    smallest = -(-SMALLEST // max(1, k * 16))
    _run_numbers(find_crew(m, smallest), (stored, flip, own_points, b.length, rows), m, smallest)
    threads = num_threads() if m * k * n >= 2 * SMALLEST else 1
    cut = choose_blocks(m, k, n, isa, 1, threads)
    count = -(-m // cut.rows) * -(-n // cut.columns)
    given = (stored, flip, b.panels, b.length // codes_of_step(isa, b.bits)), (read_only(rows), scale)
    parameters = b.numbers, b.scale, bias
    _kernel(b.isa, b.bits)(find_crew(count, 1), (*given, parameters, settings, (cut.rows, cut.columns), y), count, 1)


@jit
def _find_numbers(arguments: Any, first: int, last: int) -> None:
    """Zero point, and Σ (a − za) of each block, of rows first … last of signed codes: (blocks, rows, 2)."""
    codes, flip, points, length, numbers = arguments
    for row in range(first, last):
        for block in range(numbers.shape[0]):
            part = codes[row, block * length : min((block + 1) * length, codes.shape[1])]
            total = int32(0)
            for i in range(part.shape[0]):
                total = int32(total + int32(np.int8(part[i] ^ flip)))
            numbers[block, row, 0] = points[row]
            numbers[block, row, 1] = row_constant(total, points[row], int32(part.shape[0]))


_run_numbers = runner(_find_numbers)


@functools.cache
def _kernel(isa_name: str, bits: int) -> Callable[..., Any]:
    return runner(_make_gemm(INSTRUCTION_SETS[isa_name], bits))


def _make_gemm(isa: InstructionSet, bits: int) -> Callable[..., Any]:
    """The job over blocks first … last of the result, down its columns of blocks."""
    sum_blocks, storage = _make_sum_blocks(isa, bits), np.dtype(f"i{isa.a_bytes}").type
    tile_rows, tile_columns = isa.rows, isa.columns

    @jit
    def gemm(arguments: Any, first: int, last: int) -> None:
        (codes, flip, panels, steps), (rows, a_scale), parameters, settings, cut, y = arguments
        (block_rows, block_columns), (m, n), (numbers, b_scale, bias) = cut, y.shape, parameters
        down = (m + block_rows - 1) // block_rows
        for block in range(first, last):
            i, j = block % down * block_rows, block // down * block_columns
            i_end, j_end = min(i + block_rows, m), min(j + block_columns, n)
            own = slice(j // tile_columns, (j_end + tile_columns - 1) // tile_columns)
            b = panels[own], numbers[own], b_scale[own]
            strip = np.empty((tile_rows, STRIP), storage)
            # a tile's rows may be more than there are: their numbers and scales are then read, and not used
            own_rows, scales = np.zeros((numbers.shape[1], tile_rows, 2), np.int32), np.ones(tile_rows, np.float32)
            totals = np.empty((tile_rows, b[0].shape[0] * tile_columns), np.float32)
            for top in range(i, i_end, tile_rows):
                end = min(top + tile_rows, i_end)
                own_rows[:, : end - top], scales[: end - top] = rows[:, top:end], a_scale[top:end]
                totals[: end - top] = 0
                sum_blocks((codes[top:end], flip, own_rows, scales), b, steps, strip, totals)
                for row in range(top, end):
                    finish_row(totals[row - top][: j_end - j], bias[j:j_end], settings, y[row, j:j_end])

    return gemm


def _make_sum_blocks(isa: InstructionSet, bits: int) -> Callable[..., Any]:
    """totals += Σ over blocks of k, for the rows of a strip and some panels."""
    fill, multiply, step_bytes = make_fill(isa), make_block_product(isa, bits), isa.columns * isa.group
    group = codes_of_step(isa, bits)

    @scalar
    def sum_blocks(a: Any, b: Any, steps: int, strip: Any, totals: Any) -> None:
        (codes, flip, rows, scales), (panels, numbers, b_scale) = a, b
        count, k, all_steps = codes.shape[0], codes.shape[1], panels.shape[1]
        together, unused = max(1, DEPTH // (steps * group)), np.zeros(count, np.int32)
        for block in range(0, numbers.shape[1], together):
            blocks, first = min(together, numbers.shape[1] - block), block * steps
            stop = min(first + together * steps, all_steps)
            fill(codes, first * group, min(stop * group, k), (stop - first) * group, flip, strip, unused)
            multiply(
                count, panels.shape[0], (stop - first, steps), blocks,
                (strip.ctypes.data, rows.ctypes.data + block * rows.strides[0], rows.strides[0], scales.ctypes.data),
                (panels.ctypes.data + first * step_bytes, panels.strides[0]),
                (numbers.ctypes.data + block * numbers.strides[1], numbers.strides[0], numbers.strides[1]),
                (b_scale.ctypes.data + block * b_scale.strides[1], b_scale.strides[0], b_scale.strides[1]),
                (totals.ctypes.data, totals.strides[0]),
            )  # fmt: skip

    return sum_blocks
