"""The CPU's side of every elementwise operator: arrays and checked parameters in, kernels called on contiguous memory.

An array that is not contiguous, aligned or in native byte order is copied first, a result for such an array copied
back: at most one copy of each, nothing else. Arrays in Fortran order are walked as the transposed arrays they are,
without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import BFLOAT16, FLOAT16, FLOAT32, GRID32, GRID64
from gpuq.cpu import elementwise
from gpuq.cpu.quantizing import divides
from gpuq.cpu.spread import find_crew
from gpuq.cpu.tiles import ELEMENTS, STREAMED
from gpuq.dtypes import QuantizedType
from gpuq.layout import Granularity, broadcast_flat, read_only
from gpuq.quantizer import Quantizer
from gpuq.validate import Integers, Reals

Array = npt.NDArray[Any]
HALF_CODES = {"float16": FLOAT16, "bfloat16": BFLOAT16}


def quantize(x: Array, x_type: str, q: Array, quantizer: Quantizer) -> None:
    """q = saturate(round(x / S) + z)."""
    _quantize(False, x, x_type, _unsigned(q), quantizer)


def fake_quantize(x: Array, x_type: str, y: Array, quantizer: Quantizer) -> None:
    """y = S·(saturate(round(x / S) + z) − z) in x's type."""
    _quantize(True, x, x_type, y, quantizer)


def dequantize(
    q: Array, kind: QuantizedType, y: Array, y_type: str, scale: Reals, zero_point: Integers, grain: Granularity
) -> None:
    """y = S·(q − z), rounded to y's type."""
    sign = 1 << (8 * q.itemsize - 1) if kind.signed else 0
    codes, wide, double, real = _unsigned(q), q.itemsize == 4, y_type == "float64", HALF_CODES.get(y_type, FLOAT32)
    if grain.kind == "tensor":
        kernel = elementwise.uniform_dequantize_kernel(wide, double)
        _walk_uniform(kernel, codes, y, (scale, zero_point, sign, real))
        return
    integer: Any = np.int64 if wide else np.int32
    parameters = np.asarray(scale, _scale_type(double)), (np.asarray(zero_point) + sign).astype(integer)
    _walk(elementwise.dequantize_kernel(), codes, y, grain, parameters, (integer(sign), real))


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
        _walk_uniform(kernel, accumulator, _unsigned(q), (*parameters, *settings))
        return
    *others, y_scale = parameters
    given = (*map(np.asarray, others), np.asarray(y_scale, np.float32))
    _walk(elementwise.requantize_kernel(mode), accumulator, _unsigned(q), grain, given, settings)


def dynamic_quantize(x: Array, x_type: str, y: Array, scale: Array, zero_point: Array) -> None:
    """ONNX's DynamicQuantizeLinear: uint8 codes, and the scale (float32) and zero point (uint8), each of shape (), of
    x's range.
    """
    kernel = elementwise.dynamic_quantize_kernel(x_type == "float64")
    found = _walk_uniform(kernel, x, y, (HALF_CODES.get(x_type, FLOAT32),))
    scale[...], zero_point[...] = found or (1, 0)  # of no elements


def _walk_uniform(kernel: Callable[..., Any], source: Array, target: Array, numbers: tuple[Any, ...]) -> Any:
    """Call a kernel of which all elements share their parameters, on flat, contiguous, aligned arrays; its result."""
    size = source.size
    if size == 0:
        return None
    if source.ndim > 1 and source.flags.f_contiguous:
        source, target = source.T, target.T
    flags = target.flags
    staged = target if flags.c_contiguous and flags.aligned else np.empty(target.shape, target.dtype)
    x, y = _flat(source), staged if staged.ndim == 1 else staged.reshape(-1)
    found = kernel(*find_crew(size, ELEMENTS), ELEMENTS, x, y, x.nbytes + y.nbytes >= STREAMED, *numbers)
    if staged is not target:
        target[...] = staged
    return found


def _walk(
    kernel: Callable[..., Any],
    source: Array,
    target: Array,
    grain: Granularity,
    parameters: tuple[Array, ...],
    settings: tuple[Any, ...],
) -> None:
    """Call an elementwise kernel on flat, contiguous, aligned arrays."""
    if source.size == 0:
        return
    if source.flags.f_contiguous and not source.flags.c_contiguous:
        grain = grain.transposed(source.ndim)
        source, target = source.T, target.T
        parameters = tuple(p if p.size == 1 else p.T for p in parameters)
    staged = target if target.flags.c_contiguous and target.flags.aligned else np.empty(target.shape, target.dtype)
    shape = grain.parameter_shape(source.shape)
    flat = tuple(broadcast_flat(p, shape) for p in parameters)
    x, y, runs = _flat(source), staged.reshape(-1), grain.runs(source.shape)
    streamed = x.nbytes + y.nbytes >= STREAMED
    kernel(*find_crew(x.size, ELEMENTS), ELEMENTS, x, y, flat, runs, settings, streamed)
    if staged is not target:
        target[...] = staged


def _flat(source: Array) -> Array:
    """An input as kernels take it: copied only where it is not contiguous or not aligned."""
    flags = source.flags
    if not (flags.c_contiguous and flags.aligned):
        source = source.copy()
    return read_only(source if source.ndim == 1 else source.reshape(-1))


def _quantize(fake: bool, x: Array, x_type: str, target: Array, quantizer: Quantizer) -> None:
    """Call a kernel that quantizes, with rounding in float32 where that holds every offset (arithmetic.py: grid)."""
    kind, lowest, scale, zero_point, grain, rounding = quantizer
    double, real = x_type == "float64", HALF_CODES.get(x_type, FLOAT32)
    wide = double or kind.bits > 16
    if grain.kind == "tensor":
        if divides(rounding, wide, scale):
            kernel = elementwise.uniform_quantize_kernel(fake, rounding, wide, double)
        else:
            kernel = elementwise.undivided_quantize_kernel(fake)
        _walk_uniform(kernel, x, target, (scale, zero_point, lowest, kind.qmax, real))
        return
    work: Any = np.float64 if wide else np.float32
    parameters = np.asarray(scale, _scale_type(double)), np.asarray(zero_point, work)
    settings = (work(lowest), work(kind.qmax), GRID64 if wide else GRID32, real, rounding)
    make = elementwise.fake_quantize_kernel if fake else elementwise.quantize_kernel
    _walk(make(rounding), x, target, grain, parameters, settings)


def _scale_type(double: bool) -> Any:
    return np.float64 if double else np.float32


def _unsigned(codes: Array) -> Array:
    return codes if codes.dtype.kind == "u" else codes.view(f"u{codes.itemsize}")
