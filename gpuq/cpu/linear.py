"""`linear` on the CPU with a packed weight, as one step; activations are quantized to int8, or real (`RealLayer`).

x (…, k) ─ quantize_rows ─► codes, a scale per row ─┬─ Product, with these as its rows' parameters ─► y (…, n)
└─ block_gemm.multiply, where parameters vary along k
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays
from gpuq.arithmetic import FLOAT32, FLOAT32_MAX, SMALLEST_NORMAL
from gpuq.arrays import View
from gpuq.cpu import block_gemm, real_gemm, rows
from gpuq.cpu.block_weight import BlockWeight
from gpuq.cpu.operators import HALF_CODES
from gpuq.cpu.pack import Packed
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

    nbytes: int  # of the arrays it holds

    def __init__(self, x: Array, real: int, scale: Array, y: Array) -> None:
        self._result_shape, self._real = (math.prod(x.shape[:-1]), y.shape[-1]), real
        self._least, self._largest = (float(scale.min()), float(scale.max())) if scale.size else (1.0, 1.0)

    def __call__(self, x: Array, packed: Any, y: Array) -> bool:
        """Compute y; or not, and true, where a product of scales is near the ends of the normal numbers."""
        codes, scales = quantize_rows(as_rows(x), self._real)
        if len(scales):
            least, largest = rows.extremes(scales)
            if not (least * self._least >= 2 * SMALLEST_NORMAL and largest * self._largest <= FLOAT32_MAX / 2):
                return True
        self._multiply(codes, read_only(scales), packed, y.reshape(self._result_shape))
        return False

    def _multiply(self, codes: Array, scales: Array, packed: Any, y: Array) -> None:
        raise NotImplementedError


class RealLayer:
    """The step of a layer with real activations; `weight`, where what it is called with is no BlockWeight itself, gives
    all but the codes.
    """

    def __init__(self, type: str, weight: BlockWeight | None, bias: Array, activation: int) -> None:
        self._bias, self._type, self.nbytes = bias, type, bias.nbytes
        self._weight: BlockWeight | None = None
        if weight is not None:
            no_codes = np.empty((0, *weight.panels.shape[1:]), weight.panels.dtype)  # a slice keeps all of them alive
            self._weight = replace(weight, panels=no_codes)
            self.nbytes += self._weight.nbytes
        self._settings = activation, HALF_CODES.get(type, FLOAT32)

    def __call__(self, x: Array, packed: Packed | BlockWeight, y: Array) -> None:
        """Compute y."""
        rows = arrays.real_numbers(View(as_rows(x), self._type, "cpu", False, None))
        weight = packed if isinstance(packed, BlockWeight) else self._with_codes(packed)
        real_gemm.multiply(rows, weight, self._bias, self._settings, y.reshape(len(rows), y.shape[-1]))

    def _with_codes(self, packed: Packed) -> BlockWeight:
        assert self._weight is not None  # what is called with has no parameters of its own
        return replace(self._weight, panels=packed.panels[0])


class PlainLayer(Layer):
    """With a weight whose parameters do not vary along k."""

    def __init__(
        self, x: Array, real: int, weight: PackedMatrix, scale: Array, bias: Array, activation: int, y: Array
    ) -> None:
        super().__init__(x, real, scale, y)
        (m, n), k = self._result_shape, weight.shape[0]
        shape, packed = MatmulShape(m, k, n, (), (), (), (m, n)), weight._packed
        zero, points = one_element(0), weight._zero_point
        assert points is not None  # it is no weight in blocks
        operands = Operands(np.empty((m, k), np.int8), packed, shape, zero, points, 2, packed.isa)
        columns, settings = [scale.reshape(-1), bias.reshape(-1)], (activation, real)
        self._product = Product("scaled", operands, [one_element(1.0)], columns, settings, y.reshape(m, n))
        self.nbytes = self._product.nbytes

    def _multiply(self, codes: Array, scales: Array, packed: Any, y: Array) -> None:
        self._product(codes, packed, y, (scales.reshape(1, -1),))


class BlockLayer(Layer):
    """With a weight that has other parameters in each block along k."""

    def __init__(self, x: Array, real: int, weight: BlockWeight, bias: Array, activation: int, y: Array) -> None:
        super().__init__(x, real, weight.scale, y)
        self._settings = activation, real
        self._bias = read_only(np.broadcast_to(bias, y.shape[-1:]).astype(np.float32))
        self.nbytes = self._bias.nbytes

    def _multiply(self, codes: Array, scales: Array, packed: Any, y: Array) -> None:
        points = np.zeros(len(codes), np.int64)
        block_gemm.multiply(codes, points, scales, packed, self._bias, self._settings, y)
