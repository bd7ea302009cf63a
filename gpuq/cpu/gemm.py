"""The CPU's int8 GEMM: packed operands in, one block of exact int64 accumulators at a time, finished by an epilogue.

                    COLUMN_BLOCK columns of b
                   ┌──┬──┬──┬──┐
                   │  │  │  │  │  each tile: TILE × TILE int32 sums over K_BLOCK codes, added to int64 accumulators
      ROW_BLOCK    ├──┼──┼──┼──┤  the block: corrected for zero points by equation (3), then finished (epilogue.py)
      rows of a    │  │  │  │  │
                   └──┴──┴──┴──┘

`int32(...)` around every sum keeps Numba from widening it to int64: so LLVM finds the multiply-add of 16-bit pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32

from gpuq.arithmetic import correct, scalar
from gpuq.cpu import epilogue
from gpuq.cpu.compile import jit
from gpuq.cpu.tiles import COLUMN_BLOCK, K_BLOCK, ROW_BLOCK, TILE


@jit
def multiply_tile(a: Any, b: Any, accumulators: Any) -> None:
    """accumulators[i, j] += a[i] · b[j] for TILE rows of each; one row holds k consecutive codes."""
    a0, a1, a2, a3 = a[0], a[1], a[2], a[3]
    b0, b1, b2, b3 = b[0], b[1], b[2], b[3]
    c00 = c01 = c02 = c03 = c10 = c11 = c12 = c13 = int32(0)
    c20 = c21 = c22 = c23 = c30 = c31 = c32 = c33 = int32(0)
    for k in range(a.shape[1]):
        w, x, y, z = int32(b0[k]), int32(b1[k]), int32(b2[k]), int32(b3[k])
        r = int32(a0[k])
        c00, c01 = int32(c00 + int32(r * w)), int32(c01 + int32(r * x))
        c02, c03 = int32(c02 + int32(r * y)), int32(c03 + int32(r * z))
        r = int32(a1[k])
        c10, c11 = int32(c10 + int32(r * w)), int32(c11 + int32(r * x))
        c12, c13 = int32(c12 + int32(r * y)), int32(c13 + int32(r * z))
        r = int32(a2[k])
        c20, c21 = int32(c20 + int32(r * w)), int32(c21 + int32(r * x))
        c22, c23 = int32(c22 + int32(r * y)), int32(c23 + int32(r * z))
        r = int32(a3[k])
        c30, c31 = int32(c30 + int32(r * w)), int32(c31 + int32(r * x))
        c32, c33 = int32(c32 + int32(r * y)), int32(c33 + int32(r * z))
    tile = ((c00, c01, c02, c03), (c10, c11, c12, c13), (c20, c21, c22, c23), (c30, c31, c32, c33))
    for i in range(TILE):
        for j in range(TILE):
            accumulators[i, j] += tile[i][j]


@scalar
def multiply_block(a: Any, b: Any, accumulators: Any) -> None:
    """accumulators = a · bᵀ for the packed rows of one block."""
    accumulators[:] = 0
    for first in range(0, a.shape[1], K_BLOCK):
        for j in range(0, b.shape[0], TILE):
            for i in range(0, a.shape[0], TILE):
                multiply_tile(
                    a[i : i + TILE, first : first + K_BLOCK],
                    b[j : j + TILE, first : first + K_BLOCK],
                    accumulators[i : i + TILE, j : j + TILE],
                )


@scalar
def correct_block(
    accumulators: Any, row_sums: Any, column_sums: Any, a_zero_point: Any, b_zero_point: Any, k: int
) -> None:
    """Equation (3) on the part of the block that lies inside the product."""
    for i in range(row_sums.shape[0]):
        for j in range(column_sums.shape[0]):
            accumulators[i, j] = correct(
                accumulators[i, j], row_sums[i], column_sums[j], a_zero_point[i], b_zero_point[j], k
            )


def make_gemm(finish: Callable[..., Any]) -> Callable[..., Any]:
    """The GEMM with one epilogue.

    `a` and `b` are (panels, sums, zero_points) with zero points shifted like the codes; `maps` says which matrix, row
    and column parameters each product takes; `rows` and `columns` are the epilogue's parameters. Returns whether any
    result overflowed.
    """

    @jit
    def gemm(a: Any, b: Any, k: int, maps: Any, rows: Any, columns: Any, settings: Any, result: Any) -> bool:
        a_panels, a_sums, a_zero_points = a
        b_panels, b_sums, b_zero_points = b
        a_map, b_map, row_map, column_map = maps
        m, n = result.shape[1], result.shape[2]
        accumulators = np.empty((ROW_BLOCK, COLUMN_BLOCK), np.int64)
        overflow = False
        for t in range(result.shape[0]):
            a_panel, b_panel, p, c = a_panels[a_map[t]], b_panels[b_map[t]], row_map[t], column_map[t]
            for j in range(0, n, COLUMN_BLOCK):
                for i in range(0, m, ROW_BLOCK):
                    i_end, j_end = min(i + ROW_BLOCK, m), min(j + COLUMN_BLOCK, n)
                    multiply_block(a_panel[i : i + ROW_BLOCK], b_panel[j : j + COLUMN_BLOCK], accumulators)
                    correct_block(
                        accumulators,
                        a_sums[a_map[t], i:i_end],
                        b_sums[b_map[t], j:j_end],
                        a_zero_points[p, i:i_end],
                        b_zero_points[c, j:j_end],
                        k,
                    )
                    overflow |= finish(accumulators, rows, p, i, columns, c, j, settings, result[t, i:i_end, j:j_end])
        return overflow

    return gemm


gemm_int32 = make_gemm(epilogue.finish_int32)
gemm_scaled = make_gemm(epilogue.finish_scaled)
gemm_quantized = make_gemm(epilogue.finish_quantized)
