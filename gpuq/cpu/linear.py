"""`linear` on the CPU with int8 activations and a packed weight whose parameters do not vary along k, as one step.

x (…, k) ─ quantize_rows ─► codes, a scale per row ─ Product, with these as its rows' parameters ─► y (…, n)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import FLOAT32_MAX, SMALLEST_NORMAL
from gpuq.cpu import rows
from gpuq.cpu.products import Product
from gpuq.cpu.spread import find_crew
from gpuq.layout import MatmulShape, one_element, read_only
from gpuq.operands import Operands
from gpuq.packed import PackedMatrix

Array = npt.NDArray[Any]
ROW_ELEMENTS = 1 << 15  # of the smallest piece of quantizing rows: 10 µs and more


def quantize_rows(x: Array, real: int) -> tuple[Array, Array]:
    """int8 codes of each row of a contiguous (m, k), and the rows' scales."""
    codes, scales = np.empty(x.shape, np.int8), np.empty(len(x), np.float32)
    smallest = -(-ROW_ELEMENTS // max(1, x.shape[1]))
    rows.quantize_rows(find_crew(len(x), smallest), (read_only(x), real, codes, scales), len(x), smallest)
    return codes, scales


def as_rows(x: Array) -> Array:
    """The elements of an array, contiguous and aligned, all axes but the last as one."""
    x = x if x.flags.c_contiguous and x.flags.aligned else x.copy(order="C")
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class Layer:
    """The step (steps.py) of such a layer, for x of one shape and type."""

    def __init__(
        self, x: Array, real: int, weight: PackedMatrix, scale: Array, bias: Array, activation: int, y: Array
    ) -> None:
        m, (k, n) = math.prod(x.shape[:-1]), weight.shape
        shape = MatmulShape(m, k, n, (), (), (), (m, n))
        codes, packed = np.empty((m, k), np.int8), weight._packed
        operands = Operands(codes, packed, shape, one_element(0), weight._zero_point, 2, packed.isa)
        columns = [scale.reshape(-1), bias.reshape(-1)]
        result = y.reshape(m, n)
        self._product = Product("scaled", operands, [one_element(1.0)], columns, (activation, real), result)
        self._least, self._largest = (float(scale.min()), float(scale.max())) if scale.size else (1.0, 1.0)
        self._real, self._result_shape = real, (m, n)

    def __call__(self, x: Array, packed: Any, y: Array) -> bool:
        """Compute y; or not, and true, where a product of scales is near the ends of the normal numbers."""
        codes, scales = quantize_rows(as_rows(x), self._real)
        if len(scales):
            least, largest = rows.extremes(scales)
            if not (least * self._least >= 2 * SMALLEST_NORMAL and largest * self._largest <= FLOAT32_MAX / 2):
                return True
        self._product(codes, packed, y.reshape(self._result_shape), (read_only(scales.reshape(1, -1)),))
        return False
