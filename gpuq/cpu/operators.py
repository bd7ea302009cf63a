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

from gpuq.arithmetic import BFLOAT16, FLOAT16, FLOAT32, GRID32, GRID64, HALF_EVEN
from gpuq.arithmetic import dynamic_scale as _dynamic_scale
from gpuq.arithmetic import dynamic_zero_point as _dynamic_zero_point
from gpuq.cpu import elementwise, threads
from gpuq.cpu.compile import jit
from gpuq.cpu.tiles import ELEMENTS, STREAMED
from gpuq.dtypes import QUANTIZED, QuantizedType
from gpuq.layout import Granularity, broadcast_flat, count_units, part_of, read_only
from gpuq.quantizer import Quantizer

Array = npt.NDArray[Any]
HALF_CODES = {"float16": FLOAT16, "bfloat16": BFLOAT16}


def quantize(x: Array, x_type: str, q: Array, quantizer: Quantizer) -> None:
    """q = saturate(round(x / S) + z)."""
    _quantize(elementwise.quantize_kernel(quantizer.rounding), x, x_type, _unsigned(q), quantizer)


def fake_quantize(x: Array, x_type: str, y: Array, quantizer: Quantizer) -> None:
    """y = S·(saturate(round(x / S) + z) − z) in x's type."""
    _quantize(elementwise.fake_quantize_kernel(quantizer.rounding), x, x_type, y, quantizer)


def dequantize(
    q: Array, kind: QuantizedType, y: Array, y_type: str, scale: Array, zero_point: Array, grain: Granularity
) -> None:
    """y = S·(q − z), rounded to y's type."""
    integer: Any = np.int32 if q.itemsize < 4 else np.int64
    sign = 1 << (8 * q.itemsize - 1) if kind.signed else 0
    parameters = (scale.astype(_scale_type(y)), (zero_point + sign).astype(integer))
    _walk(
        elementwise.dequantize_kernel(),
        _unsigned(q),
        y,
        grain,
        parameters,
        (integer(sign), HALF_CODES.get(y_type, FLOAT32)),
    )


def requantize(
    accumulator: Array,
    q: Array,
    kind: QuantizedType,
    lowest: int,
    parameters: tuple[Array, ...],
    grain: Granularity,
    mode: str,
    activation: int,
) -> None:
    """q from int32 accumulators; parameters: multiplier, shift, bias, zero point, y_scale."""
    _walk(
        elementwise.requantize_kernel(mode),
        accumulator,
        _unsigned(q),
        grain,
        parameters,
        (lowest, kind.qmax, activation),
    )


def dynamic_quantize(x: Array, x_type: str, y: Array, scale: Array, zero_point: Array) -> None:
    """ONNX's DynamicQuantizeLinear: uint8 codes, and the scale (float32) and zero point (uint8), each of shape (), of
    x's range.
    """
    flat, real = _flat(x.T if x.flags.f_contiguous else x), HALF_CODES.get(x_type, FLOAT32)
    pieces = threads.cut(flat.size, ELEMENTS)[::-1]  # ends where quantizing begins, on what the last cache still holds
    ranges = np.asarray(
        threads.run(lambda first, last: elementwise.finite_range(flat[first:last], real), pieces), np.float32
    )
    scale[...], zero_point[...] = _dynamic(min(low for low, _ in ranges), max(high for _, high in ranges))
    kind = QUANTIZED["uint8"]
    grain, point = Granularity("tensor"), zero_point.astype(np.int64)
    quantize(x, x_type, y, Quantizer(kind, kind.qmin, scale, point, grain, HALF_EVEN))


@jit
def _dynamic(low: Any, high: Any) -> Any:
    scale = _dynamic_scale(low, high)
    return scale, _dynamic_zero_point(low, scale)


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
    units = count_units(runs)
    pieces = threads.cut(units, -(-ELEMENTS * units // x.size))
    streamed = x.nbytes + y.nbytes >= STREAMED

    def walk(first: int, last: int) -> None:
        part = part_of(runs, first, last)
        kernel(
            x[part.elements], y[part.elements], tuple(p[part.parameters] for p in flat), part.runs, settings, streamed
        )

    if len(pieces) > 1:
        threads.run(walk, pieces)
    else:
        kernel(x, y, flat, runs, settings, streamed)
    if staged is not target:
        target[...] = staged


def _flat(source: Array) -> Array:
    """An input as kernels take it: copied only where it is not contiguous or not aligned."""
    if not (source.flags.c_contiguous and source.flags.aligned):
        source = source.copy()
    return read_only(source.reshape(-1))


def _quantize(kernel: Callable[..., Any], x: Array, x_type: str, target: Array, quantizer: Quantizer) -> None:
    """Call a kernel that quantizes, with rounding in float32 where that holds every offset (arithmetic.py: grid)."""
    wide = quantizer.kind.bits > 16 or x_type == "float64"
    work: Any = np.float64 if wide else np.float32
    parameters = (quantizer.scale.astype(_scale_type(x)), quantizer.zero_point.astype(work))
    limits = (work(quantizer.lowest), work(quantizer.kind.qmax))
    settings = (*limits, GRID64 if wide else GRID32, HALF_CODES.get(x_type, FLOAT32), quantizer.rounding)
    _walk(kernel, x, target, quantizer.grain, parameters, settings)


def _scale_type(real: Array) -> Any:
    return np.float64 if real.dtype == np.float64 else np.float32


def _unsigned(codes: Array) -> Array:
    return codes.view(f"u{codes.itemsize}")
