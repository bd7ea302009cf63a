"""The CPU's int8 GEMM: packed operands in, one block of exact sums at a time, finished by an epilogue while it is in
the cache.

                 COLUMNS columns of b
                ┌────┬────┬────┬────┐
                │tile│    │    │    │  tiles: int32 sums over DEPTH codes by the micro-kernel, added to the block's sums
      ROWS rows ├────┼────┼────┼────┤  the block: sums of the whole k, corrected for zero points by equation (3), then
      of a      │    │    │    │    │  finished (epilogue.py) into its part of the result
                └────┴────┴────┴────┘

int32 sums are exact up to EXACT_DEPTH codes; deeper products add slices of that depth to int64 sums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import correct, scalar
from gpuq.cpu import epilogue
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.microkernel import make_panel_product
from gpuq.cpu.tiles import COLUMNS, DEPTH, EXACT_DEPTH, ROWS

FINISHES = {"int32": epilogue.finish_int32, "scaled": epilogue.finish_scaled, "quantized": epilogue.finish_quantized}


def count_blocks(shape: tuple[int, ...]) -> int:
    """Blocks of a result of shape (products, m, n)."""
    return shape[0] * -(-shape[1] // ROWS) * -(-shape[2] // COLUMNS)


@functools.cache
def gemm_kernel(finish: str, isa_name: str, deep: bool) -> Callable[..., Any]:
    """The GEMM with one epilogue on one instruction set; `deep` for products of more than EXACT_DEPTH codes along k."""
    isa = INSTRUCTION_SETS[isa_name]
    return make_gemm(
        FINISHES[finish], _make_deep_block(isa) if deep else make_block(isa), isa, np.int64 if deep else np.int32
    )


def make_block(isa: InstructionSet) -> Callable[..., Any]:
    """`multiply_block(rows, a, b, sums, totals)`: totals = a · bᵀ for `rows` rows of the panels of one block."""
    multiply_panels = make_panel_product(isa)

    @jit
    def multiply_block(rows: int, a: Any, b: Any, sums: Any, totals: Any) -> None:
        steps = max(DEPTH // a.shape[3], 1)
        totals[:] = 0
        for first in range(0, a.shape[1], steps):
            multiply_panels(rows, a, b, first, min(first + steps, a.shape[1]), totals)

    return multiply_block


def _make_deep_block(isa: InstructionSet) -> Callable[..., Any]:
    """The same in slices that int32 holds exactly, added up in int64 totals."""
    multiply_slice = make_block(isa)

    @jit
    def multiply_block(rows: int, a: Any, b: Any, sums: Any, totals: Any) -> None:
        steps = EXACT_DEPTH // a.shape[3]
        totals[:] = 0
        for first in range(0, a.shape[1], steps):
            multiply_slice(rows, a[:, first : first + steps], b[:, first : first + steps], sums, sums)
            totals += sums

    return multiply_block


@scalar
def _correct_block(totals: Any, row_sums: Any, column_sums: Any, a_points: Any, b_points: Any, k: int) -> None:
    """Equation (3) on the part of the block that lies inside the product."""
    kind = totals.dtype.type
    for i in range(a_points.shape[0]):
        own, row_sum, a_point = totals[i], row_sums[i], a_points[i]
        for j in range(b_points.shape[0]):
            own[j] = kind(correct(own[j], row_sum, column_sums[j], a_point, b_points[j], k))


def make_gemm(
    finish: Callable[..., Any], multiply_block: Callable[..., Any], isa: InstructionSet, exact: Any
) -> Callable[..., Any]:
    """The loop over the blocks first … last of all products: down the columns of blocks of one product after another.

    `a` and `b` are (panels, sums, zero_points) with zero points shifted like the codes; `maps` says which matrix, row
    and column parameters each product takes; `rows` and `columns` are the epilogue's parameters. `exact` is the type
    of the totals. Returns whether any result overflowed.
    """
    row_panels, column_panels = ROWS // isa.rows, COLUMNS // isa.columns

    @jit
    def gemm(
        a: Any, b: Any, k: int, maps: Any, rows: Any, columns: Any, settings: Any, result: Any, first: int, last: int
    ) -> bool:
        a_panels, a_sums, a_points = a
        b_panels, b_sums, b_points = b
        a_map, b_map, row_map, column_map = maps
        m, n = result.shape[1], result.shape[2]
        down, across = (m + ROWS - 1) // ROWS, (n + COLUMNS - 1) // COLUMNS
        sums = np.empty((ROWS, COLUMNS), np.int32)
        totals = np.empty((ROWS, COLUMNS), exact)
        overflow = False
        for block in range(first, last):
            t, i, j = block // (down * across), block % down, block // down % across
            a_block = a_panels[a_map[t], i * row_panels : (i + 1) * row_panels]
            b_block = b_panels[b_map[t], j * column_panels : (j + 1) * column_panels]
            p, i, i_end = row_map[t], i * ROWS, min((i + 1) * ROWS, m)
            c, j, j_end = column_map[t], j * COLUMNS, min((j + 1) * COLUMNS, n)
            multiply_block(i_end - i, a_block, b_block, sums, totals)
            row_sums, column_sums = a_sums[a_map[t], i:i_end], b_sums[b_map[t], j:j_end]
            _correct_block(totals, row_sums, column_sums, a_points[p, i:i_end], b_points[c, j:j_end], k)
            overflow |= finish(totals, rows, columns, (p, i, i_end, c, j, j_end), settings, result[t])
        return overflow

    return gemm
