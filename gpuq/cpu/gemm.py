"""The CPU's int8 GEMM: blocks of the result, each made by one thread, each strip finished by an epilogue while it is in
L1.

                 a block's columns of b, packed (pack.py), in L2
                ┌────┬────┬────┬────┐
    a strip of  │tile│tile│tile│tile│  tiles: int32 sums over a pass along k, by the micro-kernel
    a, in L1    ├────┴────┴────┴────┤
                │ a strip's sums    │  after the last pass: corrected for zero points by equation (3), then finished
                └───────────────────┘  (epilogue.py) into their part of the result

Blocks and passes are chosen by blocking.py. Where one pass holds all of k, a block needs sums for one strip alone;
else for all its strips, and further passes add to them. int32 sums are exact up to EXACT_DEPTH codes; deeper products
add up the sums of each pass in int64. The last pass corrects tiles while they are in registers (microkernel.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32

from gpuq.arithmetic import correct, row_constant, scalar
from gpuq.cpu import epilogue
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.microkernel import make_strip_product
from gpuq.cpu.spread import runner
from gpuq.cpu.strips import make_fill
from gpuq.cpu.tiles import LINE, STRIP, strip_bytes
from gpuq.cpu.workspace import array_at, first_line, keep, whole_lines

FINISHES = {"int32": epilogue.finish_int32, "scaled": epilogue.finish_scaled, "quantized": epilogue.finish_quantized}


@functools.cache
def gemm_kernel(finish: str, isa_name: str, deep: bool) -> Callable[..., Any]:
    """The GEMM with one epilogue on one instruction set, spread over threads by its blocks (spread.py); `deep` for
    products of more than EXACT_DEPTH codes along k.
    """
    return runner(make_gemm(FINISHES[finish], INSTRUCTION_SETS[isa_name], deep))


def make_gemm(finish: Callable[..., Any], isa: InstructionSet, deep: bool) -> Callable[..., Any]:
    """The job `gemm(arguments, first, last)`: blocks first … last of all products, down the columns of blocks of one
    product after another.

    Its arguments are matrices = (codes of a, panels of b, their sums, result); numbers = (flip, zero points of a and
    b), shifted like the codes as they are multiplied; `maps`, which says of each product the matrix a, matrix b, row
    and column parameters; the epilogue's parameters `rows`, `columns` and `settings`; the blocks; and `overflow`, an
    array of one flag, which is set when a result does not fit.
    """
    multiply_block = (_make_deep_block if deep else _make_block)(finish, isa)
    tile_columns = isa.columns

    @jit
    def gemm(arguments: Any, first: int, last: int) -> None:
        matrices, numbers, maps, rows, columns, settings, blocks, overflow = arguments
        a, b, sums, result = matrices
        flip, a_points, b_points = numbers
        block_rows, block_columns, steps = blocks
        m, n = result.shape[1], result.shape[2]
        down, across = (m + block_rows - 1) // block_rows, (n + block_columns - 1) // block_columns
        for block in range(first, last):
            t, i, j = block // (down * across), block % down * block_rows, block // down % across * block_columns
            i_end, j_end = min(i + block_rows, m), min(j + block_columns, n)
            place = maps[2, t], i, i_end, maps[3, t], j, j_end
            panels = b[maps[1, t], j // tile_columns : (j_end + tile_columns - 1) // tile_columns]
            vectors = a_points[maps[2, t], i:i_end], b_points[maps[3, t], j:j_end], sums[maps[1, t], j:j_end]
            operands = a[maps[0, t], i:i_end], flip, panels, steps
            if multiply_block(operands, vectors, place, rows, columns, settings, result[t]):
                overflow[0] = 1

    return gemm


def _make_block(finish: Callable[..., Any], isa: InstructionSet) -> Callable[..., Any]:
    """One block; false, as no sum overflows. Whole tiles of int32 results go where they belong, from registers."""
    fill, multiply, (room_bytes, cut) = make_fill(isa), make_strip_product(isa), _make_cut(isa)
    tile_rows, tile_columns, direct = isa.rows, isa.columns, finish is epilogue.finish_int32 and isa.dot != ""

    @scalar
    def multiply_block(
        operands: Any, vectors: Any, place: Any, rows: Any, columns: Any, settings: Any, result: Any
    ) -> bool:
        codes, flip, panels, steps = operands
        p, i, i_end, c, j, j_end = place
        k, count, all_steps, group = codes.shape[1], panels.shape[0], panels.shape[1], panels.shape[3]
        strips, width = (i_end - i + tile_rows - 1) // tile_rows, count * tile_columns
        sum_rows = tile_rows if all_steps <= steps else strips * tile_rows
        room = np.empty(room_bytes(sum_rows, i_end - i, width), np.uint8)
        strip, sums, row_sums, own_rows, own_columns = cut(room, sum_rows, i_end - i, width)
        row_sums[:] = 0
        _note_columns(own_columns, vectors[2], vectors[1])
        for first in range(0, max(1, all_steps), steps):
            last = min(first + steps, all_steps)
            part, is_last = (first * group, min(last * group, k), (last - first) * group), last == all_steps
            for top in range(0, i_end - i, tile_rows):
                end, own = min(top + tile_rows, i_end - i), sums[top % sums.shape[0] :]
                fill(codes[top:end], *part, flip, strip, row_sums[top:end])
                if is_last:
                    _note_rows(own_rows, vectors[0][top:end], row_sums[top:end], k)
                done = (j_end - j) // tile_columns if direct and is_last else 0
                for start, stop in ((0, done), (done, count)):
                    columns_here = start * tile_columns
                    target, stride = own[0, columns_here:].ctypes.data, own.strides[0]
                    if stop == done:
                        target, stride = result[i + top, j:].ctypes.data, result.strides[0]
                    if start < stop:
                        ends = is_last, own_rows, own_columns[:, columns_here:]
                        multiply(
                            end - top, strip, panels[start:stop], first, last, own[:, columns_here:], first > 0, ends,
                            target, stride,
                        )  # fmt: skip
                if is_last and done < count:
                    own_place = p, i + top, i + end, c, j + done * tile_columns, j_end, done * tile_columns
                    finish(own, rows, columns, own_place, settings, result)
        keep(room)
        return False

    return multiply_block


def _make_cut(isa: InstructionSet) -> tuple[Callable[..., int], Callable[..., Any]]:
    """`room_bytes(sum_rows, rows, width)`: the workspace of a block of so many rows and columns of whole tiles, with
    sums of so many rows; `cut(room, …)`: a strip, the sums, sums of rows of a, row numbers and column numbers in it.
    """
    storage, tile_rows = np.dtype(f"i{isa.a_bytes}").type, isa.rows
    strip_size, number_size = tile_rows * strip_bytes(isa), 8 * tile_rows

    @scalar
    def room_bytes(sum_rows: int, rows: int, width: int) -> int:
        return strip_size + number_size + 4 * (sum_rows * width + rows + 2 * width) + 5 * LINE

    @scalar
    def cut(room: Any, sum_rows: int, rows: int, width: int) -> Any:
        strip = first_line(room)
        sums = strip + strip_size
        row_sums = sums + whole_lines(4 * sum_rows * width)
        row_numbers = row_sums + whole_lines(4 * rows)
        column_numbers = row_numbers + whole_lines(number_size)
        return (
            array_at(strip, (tile_rows, STRIP), storage),
            array_at(sums, (sum_rows, width), np.int32),
            array_at(row_sums, (rows,), np.int32),
            array_at(row_numbers, (tile_rows, 2), np.int32),
            array_at(column_numbers, (2, width), np.int32),
        )

    return room_bytes, cut


@scalar
def _note_columns(numbers: Any, sums: Any, points: Any) -> None:
    """What equation (3) takes of each column, in int32: (2, width); undefined beyond the last column."""
    for j in range(sums.shape[0]):
        numbers[0, j], numbers[1, j] = sums[j], points[j]


@scalar
def _note_rows(numbers: Any, points: Any, row_sums: Any, k: int) -> None:
    """What equation (3) takes of each row: (rows, 2)."""
    for row in range(points.shape[0]):
        point = int32(points[row])
        numbers[row, 0], numbers[row, 1] = point, row_constant(row_sums[row], point, int32(k))


def _make_deep_block(finish: Callable[..., Any], isa: InstructionSet) -> Callable[..., Any]:
    """One block of a product so deep that the sums of passes are added in int64: whether any result overflowed."""
    fill, multiply, storage = make_fill(isa), make_strip_product(isa), np.dtype(f"i{isa.a_bytes}").type
    tile_rows = isa.rows

    @scalar
    def multiply_block(
        operands: Any, vectors: Any, place: Any, rows: Any, columns: Any, settings: Any, result: Any
    ) -> bool:
        codes, flip, panels, steps = operands
        p, i, i_end, c, j, j_end = place
        k, all_steps, group = codes.shape[1], panels.shape[1], panels.shape[3]
        strip, width = np.empty((tile_rows, STRIP), storage), panels.shape[0] * panels.shape[2]
        sums, unused = np.empty((tile_rows, width), np.int32), np.zeros((2, width), np.int32)
        totals, row_sums = np.zeros((i_end - i, width), np.int64), np.zeros(i_end - i, np.int64)
        overflow = False
        for first in range(0, max(1, all_steps), steps):
            last = min(first + steps, all_steps)
            part = first * group, min(last * group, k), (last - first) * group
            for top in range(0, i_end - i, tile_rows):
                end = min(top + tile_rows, i_end - i)
                fill(codes[top:end], *part, flip, strip, row_sums[top:end])
                multiply(end - top, strip, panels, first, last, sums, False, (False, unused, unused), 0, 0)
                _add_in_int64(totals[top:end], sums)
                if last == all_steps:
                    _correct_strip(totals[top:end], row_sums[top:end], vectors[0][top:end], vectors[1:], k)
                    own_place = p, i + top, i + end, c, j, j_end, 0
                    overflow |= finish(totals[top:end], rows, columns, own_place, settings, result)
        return overflow

    return multiply_block


@scalar
def _add_in_int64(totals: Any, sums: Any) -> None:
    """totals += sums."""
    for i in range(totals.shape[0]):
        for j in range(totals.shape[1]):
            totals[i, j] += sums[i, j]


@scalar
def _correct_strip(sums: Any, row_sums: Any, a_points: Any, columns: Any, k: int) -> None:
    """Equation (3) on the part of the strip that lies inside the product, in int64."""
    b_points, column_sums = columns
    for i in range(a_points.shape[0]):
        own = sums[i]
        for j in range(b_points.shape[0]):
            own[j] = correct(own[j], row_sums[i], column_sums[j], a_points[i], b_points[j], k)
