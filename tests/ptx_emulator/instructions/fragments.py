"""Which lane and register holds which matrix element: the fragment layouts of mma.sync and ldmatrix.

Source: PTX ISA, "Matrix Fragments for mma.m8n8k16", "… for mma.m16n8k32" with 8-bit types, and "ldmatrix". Layouts are
index arrays: `rows[lane, i]` and `columns[lane, i]` of the lane's i-th element, registers in order, low bits first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LANE = np.arange(32)[:, None]
GROUP, MEMBER = LANE >> 2, LANE & 3  # "groupID" and "threadID_in_group"


@dataclass(frozen=True)
class Layout:
    """Element positions of one operand, (32, elements per lane) each, and the operand's shape."""

    rows: Array
    columns: Array
    shape: tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """The three layouts of one mma shape; A is m × k, B is k × n, the accumulator m × n."""

    a: Layout
    b: Layout
    accumulator: Layout


def _m8n8k16() -> Shape:
    byte, pair = np.arange(4), np.arange(2)
    return Shape(
        Layout(GROUP + 0 * byte, MEMBER * 4 + byte, (8, 16)),
        Layout(MEMBER * 4 + byte, GROUP + 0 * byte, (16, 8)),
        Layout(GROUP + 0 * pair, MEMBER * 2 + pair, (8, 8)),
    )


def _m16n8k32() -> Shape:
    a, b, c = np.arange(16), np.arange(8), np.arange(4)
    return Shape(
        Layout(GROUP + 8 * (a >> 2 & 1), MEMBER * 4 + (a & 3) + 16 * (a >> 3), (16, 32)),
        Layout(MEMBER * 4 + (b & 3) + 16 * (b >> 2), GROUP + 0 * b, (32, 8)),
        Layout(GROUP + 8 * (c >> 1), MEMBER * 2 + (c & 1), (16, 8)),
    )


SHAPES: dict[str, Shape] = {"m8n8k16": _m8n8k16(), "m16n8k32": _m16n8k32()}


def gather(layout: Layout, elements: Array) -> Array:
    """Matrices from lanes' elements, (warps, 32, elements) → (warps, rows, columns)."""
    matrix = np.empty((len(elements), *layout.shape), elements.dtype)
    matrix[:, layout.rows, layout.columns] = elements
    return matrix


def scatter(layout: Layout, matrix: Array) -> Array:
    """Lanes' elements from matrices, (warps, rows, columns) → (warps, 32, elements)."""
    return matrix[:, layout.rows, layout.columns]


def load_matrix(rows: Array, transposed: bool) -> Array:
    """What ldmatrix gives each lane of one 8 × 8 matrix of 16-bit elements: (warps, 8, 8) → (warps, 32, 2).

    Lane l gets elements 2·(l mod 4) and the next of row l / 4; transposed, of column l / 4.
    """
    if transposed:
        rows = rows.transpose(0, 2, 1)
    return rows.reshape(len(rows), 32, 2)
