"""Packing for the CPU's GEMM: rows of a, or columns of b, become rows of k consecutive int8 codes, with their sums.

                  k ──►                         k, padded to a multiple of DEPTH ──►
      rows  ┌───────────┐               rows   ┌──────────────────┬──────┐
       │    │ any layout│     ──►        │     │ int8, contiguous │ 0  0 │   sums[row] = Σ codes
       ▼    └───────────┘      padded to ▼     ├──────────────────┴──────┤
                          a multiple of TILE   │ 0                       │
                                               └─────────────────────────┘

uint8 codes are stored as q − 128 (their sign bit flipped) and their zero points move by 128 with them, so the kernel
knows one type only. The padding is 0 and adds nothing to products or sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.compile import jit
from gpuq.cpu.tiles import DEPTH, PACK_BLOCK, TILE
from gpuq.layout import read_only

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Packed:
    """Packed matrices: panels (count, rows padded, k padded) int8, sums (count, rows) int64, and 128 for unsigned
    codes.
    """

    panels: Array
    sums: Array
    shift: int


def pack(codes: Array) -> Packed:
    """Pack matrices of shape (count, rows, k) of int8 or uint8, in any layout; for b give the transposed view."""
    count, rows, k = codes.shape
    shift = 128 if codes.dtype == np.uint8 else 0
    panels = np.zeros((count, -(-rows // TILE) * TILE, -(-k // DEPTH) * DEPTH), np.int8)
    sums = np.zeros((count, rows), np.int64)
    _pack(read_only(codes.view(np.uint8)), panels, sums, np.uint8(shift))
    return Packed(panels, sums, shift)


@jit
def _pack(codes: Any, panels: Any, sums: Any, flip: Any) -> None:
    count, rows, k = codes.shape
    for matrix in range(count):
        for first_row in range(
            0, rows, PACK_BLOCK
        ):  # blocks, so that a transposed source still meets the cache by lines
            for first in range(0, k, PACK_BLOCK):
                for row in range(first_row, min(first_row + PACK_BLOCK, rows)):
                    total = np.int64(0)
                    for i in range(first, min(first + PACK_BLOCK, k)):
                        code = np.int8(codes[matrix, row, i] ^ flip)
                        panels[matrix, row, i] = code
                        total += code
                    sums[matrix, row] += total
