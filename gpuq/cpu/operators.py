"""The CPU's side of every elementwise operator: arrays and checked parameters in, kernels called on contiguous memory.

An array that is not contiguous, aligned or in native byte order is copied first, a result for such an array copied
back: at most one copy of each, nothing else. Arrays in Fortran order are walked as the transposed arrays they are,
without a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import BFLOAT16, FLOAT16, FLOAT32, GRID32, GRID64
from gpuq.cpu import elementwise
from gpuq.cpu.quantizing import divides
from gpuq.cpu.spread import find_crew
from gpuq.cpu.steps import take
from gpuq.cpu.tiles import ELEMENTS, STREAMED
from gpuq.dtypes import QuantizedType
from gpuq.layout import Granularity, broadcast_flat
from gpuq.quantizer import Quantizer
from gpuq.validate import Integers, Reals

Array = npt.NDArray[Any]
HALF_CODES = {"float16": FLOAT16, "bfloat16": BFLOAT16}


def quantize(x: Array, x_type: str, q: Array, quantizer: Quantizer) -> None:
    """q = saturate(round(x / S) + z)."""
    _quantize(False, x, x_type, q, quantizer)


def fake_quantize(x: Array, x_type: str, y: Array, quantizer: Quantizer) -> None:
    """y = S·(saturate(round(x / S) + z) − z) in x's type."""
    _quantize(True, x, x_type, y, quantizer)


def dequantize(
    q: Array, kind: QuantizedType, y: Array, y_type: str, scale: Reals, zero_point: Integers, grain: Granularity
) -> None:
    """y = S·(q − z), rounded to y's type."""
    sign = 1 << (8 * q.itemsize - 1) if kind.signed else 0
    wide, double, real = q.itemsize == 4, y_type == "float64", HALF_CODES.get(y_type, FLOAT32)
    if grain.kind == "tensor":
        kernel = elementwise.uniform_dequantize_kernel(wide, double)
        take(Walk(kernel, q, y, (scale, zero_point, sign, real), "source"), q, y)
        return
    integer: Any = np.int64 if wide else np.int32
    parameters = np.asarray(scale, _scale_type(double)), (np.asarray(zero_point) + sign).astype(integer)
    _walk(elementwise.dequantize_kernel(), q, y, grain, parameters, (integer(sign), real), "source")


def requantize(
    accumulator: Array,
    q: Array,
    kind: QuantizedType,
    lowest: int,
    parameters: tuple[Reals | Integers, ...],
    grain: Granularity,
    mode: str,
    activation: int,
) -> None:
    """q from int32 accumulators; parameters: multiplier, shift, bias, zero point, y_scale."""
    settings = (lowest, kind.qmax, activation)
    if grain.kind == "tensor":
        kernel = elementwise.uniform_requantize_kernel(mode)
        take(Walk(kernel, accumulator, q, (*parameters, *settings), "target"), accumulator, q)
        return
    *others, y_scale = parameters
    given = (*map(np.asarray, others), np.asarray(y_scale, np.float32))
    _walk(elementwise.requantize_kernel(mode), accumulator, q, grain, given, settings, "target")


def dynamic_quantize(x: Array, x_type: str, y: Array, scale: Array, zero_point: Array) -> None:
    """ONNX's DynamicQuantizeLinear: uint8 codes, and the scale (float32) and zero point (uint8), each of shape (), of
    x's range.
    """
    kernel, numbers = elementwise.dynamic_quantize_kernel(x_type == "float64"), (HALF_CODES.get(x_type, FLOAT32),)
    walk = Walk(kernel, x, y, numbers)
    take(functools.partial(_quantize_by_range, walk), x, y, scale, zero_point)


def _quantize_by_range(walk: Walk, x: Array, y: Array, scale: Array, zero_point: Array) -> None:
    scale[...], zero_point[...] = walk(x, y) or (1, 0)  # of no elements


class Walk:
    """The step of an elementwise operator, for sources and targets of one shape, type and memory order.

    Kernels take flat, contiguous, aligned arrays, codes as unsigned ones of their size, and `parameters`.
    """

    def __init__(
        self, kernel: Callable[..., Any], source: Array, target: Array, parameters: tuple[Any, ...], codes: str = ""
    ) -> None:
        self._kernel, self._parameters, self._size = kernel, parameters, source.size
        self._reversed = is_reversed(source)
        self._source_type = _unsigned(source) if codes == "source" else None
        self._target_type = _unsigned(target) if codes == "target" else None
        self._copied = not _is_flat(source, self._reversed)
        self._staged = not _is_flat(target, self._reversed)
        self._streamed = source.nbytes + target.nbytes >= STREAMED

    def __call__(self, source: Array, target: Array) -> Any:
        """Call the kernel; its result."""
        if self._size == 0:
            return None
        if self._reversed:
            source, target = source.T, target.T
        x = _flat(source.copy() if self._copied else source.view(), self._source_type)
        x.setflags(write=False)  # this view's, no other's
        staged = np.empty(target.shape, target.dtype) if self._staged else target
        y = _flat(staged, self._target_type)
        found = self._kernel(*find_crew(self._size, ELEMENTS), ELEMENTS, x, y, self._streamed, *self._parameters)
        if self._staged:
            target[...] = staged
        return found


def is_reversed(source: Array) -> bool:
    """Whether an array is walked as the transposed one that it is, which is contiguous."""
    return source.flags.f_contiguous and not source.flags.c_contiguous


def _is_flat(array: Array, transposed: bool) -> bool:
    flags = array.flags
    return (flags.f_contiguous if transposed else flags.c_contiguous) and flags.aligned


def _flat(array: Array, type: Any) -> Array:
    """A view of a contiguous array without axes but one, its elements as those of that type, if it is another one."""
    flat = array if array.ndim == 1 else array.reshape(-1)
    return flat if type is None else flat.view(type)


def _walk(
    kernel: Callable[..., Any],
    source: Array,
    target: Array,
    grain: Granularity,
    parameters: tuple[Array, ...],
    settings: tuple[Any, ...],
    codes: str = "",
) -> None:
    """Walk over elements that have several parameters of a kind."""
    shape = source.shape
    if is_reversed(source):
        grain, shape = grain.transposed(source.ndim), shape[::-1]
        parameters = tuple(p if p.size == 1 else p.T for p in parameters)
    if source.size == 0:
        return
    flat = tuple(broadcast_flat(p, grain.parameter_shape(shape)) for p in parameters)
    take(Walk(kernel, source, target, (flat, grain.runs(shape), settings), codes), source, target)


def _quantize(fake: bool, x: Array, x_type: str, target: Array, quantizer: Quantizer) -> None:
    """Call a kernel that quantizes, with rounding in float32 where that holds every offset (arithmetic.py: grid)."""
    kind, lowest, scale, zero_point, grain, rounding = quantizer
    double, real = x_type == "float64", HALF_CODES.get(x_type, FLOAT32)
    wide, codes = double or kind.bits > 16, "" if fake else "target"
    if grain.kind == "tensor":
        if divides(rounding, wide, scale):
            kernel = elementwise.uniform_quantize_kernel(fake, rounding, wide, double)
        else:
            kernel = elementwise.undivided_quantize_kernel(fake)
        take(Walk(kernel, x, target, (scale, zero_point, lowest, kind.qmax, real), codes), x, target)
        return
    work: Any = np.float64 if wide else np.float32
    parameters = np.asarray(scale, _scale_type(double)), np.asarray(zero_point, work)
    settings = (work(lowest), work(kind.qmax), GRID64 if wide else GRID32, real, rounding)
    make = elementwise.fake_quantize_kernel if fake else elementwise.quantize_kernel
    _walk(make(rounding), x, target, grain, parameters, settings, codes)


def _scale_type(double: bool) -> Any:
    return np.float64 if double else np.float32


def _unsigned(codes: Array) -> Any:
    """What kernels see these codes as, where that is another type."""
    return None if codes.dtype.kind == "u" else np.dtype(f"u{codes.itemsize}")
