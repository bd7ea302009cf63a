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
add up the sums of each pass in int64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32

from gpuq.arithmetic import correct, correct_in_int32, scalar
from gpuq.cpu import epilogue
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.microkernel import make_strip_product
from gpuq.cpu.spread import runner
from gpuq.cpu.strips import make_fill
from gpuq.cpu.tiles import STRIP

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

    Its arguments are a = (codes, flip, zero_points), b = (panels, sums, zero_points), with zero points shifted like
    the codes as they are multiplied; `maps`, which says of each product the matrix a, matrix b, row and column
    parameters; the epilogue's parameters `rows`, `columns` and `settings`; the blocks; the result; and `overflow`, an
    array of one flag, which is set when a result does not fit.
    """
    multiply_block = _make_block(finish, isa, deep)
    tile_columns = isa.columns

    @jit
    def gemm(arguments: Any, first: int, last: int) -> None:
        a, b, maps, rows, columns, settings, blocks, result, overflow = arguments
        block_rows, block_columns, steps = blocks
        m, n = result.shape[1], result.shape[2]
        down, across = (m + block_rows - 1) // block_rows, (n + block_columns - 1) // block_columns
        for block in range(first, last):
            t, i, j = block // (down * across), block % down * block_rows, block // down % across * block_columns
            i_end, j_end = min(i + block_rows, m), min(j + block_columns, n)
            place = maps[2, t], i, i_end, maps[3, t], j, j_end
            panels = b[0][maps[1, t], j // tile_columns : (j_end + tile_columns - 1) // tile_columns]
            vectors = a[2][maps[2, t], i:i_end], b[2][maps[3, t], j:j_end], b[1][maps[1, t], j:j_end]
            operands = a[0][maps[0, t], i:i_end], a[1], panels, steps
            if multiply_block(operands, vectors, place, rows, columns, settings, result[t]):
                overflow[0] = 1

    return gemm


def _make_block(finish: Callable[..., Any], isa: InstructionSet, deep: bool) -> Callable[..., Any]:
    """One block: whether any result overflowed."""
    fill, multiply, add_up = make_fill(isa), make_strip_product(isa), _add_in_int64 if deep else _keep
    correct_strip = _correct_strip if deep else _correct_strip_in_int32
    tile_rows, storage, exact = isa.rows, np.dtype(f"i{isa.a_bytes}").type, np.int64 if deep else np.int32

    @scalar
    def multiply_block(
        operands: Any, vectors: Any, place: Any, rows: Any, columns: Any, settings: Any, result: Any
    ) -> bool:
        codes, flip, panels, steps = operands
        p, i, i_end, c, j, j_end = place
        k, all_steps, group = codes.shape[1], panels.shape[1], panels.shape[3]
        whole = all_steps <= steps
        strip, width = np.empty((tile_rows, STRIP), storage), panels.shape[0] * panels.shape[2]
        strips = (i_end - i + tile_rows - 1) // tile_rows
        sums = np.empty((tile_rows if whole or deep else strips * tile_rows, width), np.int32)
        totals = np.empty((strips * tile_rows if deep else 0, width), exact)
        row_sums = np.zeros(i_end - i, exact)
        points = vectors[1].astype(exact), vectors[2].astype(exact)
        overflow = False
        for first in range(0, max(1, all_steps), steps):
            last = min(first + steps, all_steps)
            for top in range(0, i_end - i, tile_rows):
                end = min(top + tile_rows, i_end - i)
                own = sums if whole or deep else sums[top : top + tile_rows]
                fill(
                    codes[top:end], first * group, min(last * group, k), (last - first) * group, flip, strip,
                    row_sums[top:end],
                )  # fmt: skip
                multiply(end - top, strip, panels, first, last, own, first > 0 and not deep)
                strip_sums = add_up(own, totals[top:end], first > 0)
                if last == all_steps:
                    correct_strip(strip_sums, row_sums[top:end], vectors[0][top:end], points, k)
                    own_place = p, i + top, i + end, c, j, j_end
                    overflow |= finish(strip_sums, rows, columns, own_place, settings, result)
        return overflow

    return multiply_block


@scalar
def _keep(sums: Any, totals: Any, add: bool) -> Any:
    """The sums are the totals."""
    return sums


@scalar
def _add_in_int64(sums: Any, totals: Any, add: bool) -> Any:
    """totals (+)= sums."""
    for i in range(totals.shape[0]):
        for j in range(totals.shape[1]):
            totals[i, j] = (totals[i, j] if add else 0) + sums[i, j]
    return totals


@scalar
def _correct_strip(sums: Any, row_sums: Any, a_points: Any, columns: Any, k: int) -> None:
    """Equation (3) on the part of the strip that lies inside the product, in int64."""
    b_points, column_sums = columns
    for i in range(a_points.shape[0]):
        own = sums[i]
        for j in range(b_points.shape[0]):
            own[j] = correct(own[j], row_sums[i], column_sums[j], a_points[i], b_points[j], k)


@scalar
def _correct_strip_in_int32(sums: Any, row_sums: Any, a_points: Any, columns: Any, k: int) -> None:
    """The same in int32."""
    b_points, column_sums = columns
    for i in range(a_points.shape[0]):
        own, row_sum, a_point = sums[i], row_sums[i], int32(a_points[i])
        for j in range(b_points.shape[0]):
            own[j] = correct_in_int32(own[j], row_sum, column_sums[j], a_point, b_points[j], int32(k))
