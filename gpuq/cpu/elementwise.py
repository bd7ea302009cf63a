"""Elementwise kernels of the CPU: one loop over a contiguous array, parameters by runs (layout.py).

    x:  ├── run 0 ──┤├── run 1 ──┤ …      a run shares one parameter, or has a row of parameters beside it (`varying`)
    p:       p[0]         p[1]            p is gathered once per run; the inner loop is plain and vectorizes

The walk is written once; each operator is a pair of functions: `gather` takes one element's parameters out of the
arrays, `element` turns one stored value into another. Integers are stored by their bits: an int8 array is seen as
uint8, so that signed and unsigned types share machine code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import (
    HALF_EVEN,
    dequantize,
    from_order_key,
    highest_code,
    lowest_code,
    narrow,
    order_key,
    quantize_offset,
    requantize_fixed_point,
    requantize_fixed_point_half_up,
    requantize_float,
    requantize_float64,
    saturate,
    scalar,
    to_integer,
    widen,
)
from gpuq.cpu.compile import jit


def make_walk(gather: Callable[..., Any], element: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of one operator: y[i] = element(x[i], gather(parameters, p), settings, y's type) for every i."""

    @jit
    def walk(x: Any, y: Any, parameters: Any, runs: Any, settings: Any) -> None:
        storage = y.dtype.type
        for outer in range(runs.outer):
            for group in range((runs.length + runs.group - 1) // runs.group):
                start = (outer * runs.length + group * runs.group) * runs.inner
                stop = (outer * runs.length + min((group + 1) * runs.group, runs.length)) * runs.inner
                p = outer * runs.outer_step + group
                if runs.varying:
                    for row in range(start, stop, runs.inner):
                        source, target = x[row : row + runs.inner], y[row : row + runs.inner]
                        for i in range(source.shape[0]):
                            own = gather(parameters, np.uint64(p * runs.inner + i))
                            target[i] = element(source[i], own, settings, storage)
                else:
                    source, target = x[start:stop], y[start:stop]
                    shared = gather(parameters, np.uint64(p))
                    for i in range(source.shape[0]):
                        target[i] = element(source[i], shared, settings, storage)

    return walk


@scalar
def _scale_and_zero_point(parameters: Any, p: Any) -> Any:
    return parameters[0][p], parameters[1][p]


def _make_quantize(rounding: int) -> Callable[..., Any]:
    """One value to its code. The rounding is a constant of the kernel: a choice inside the loop would keep it from
    vectorizing.
    """

    @scalar
    def quantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
        scale, zero_point = own
        qmin, qmax, grid, real = settings
        x = widen(stored, real)
        low, high = qmin - zero_point, qmax - zero_point
        return storage(to_integer(quantize_offset(x, scale, zero_point, low, high, grid, rounding) + zero_point))

    return quantize


def _make_fake_quantize(rounding: int) -> Callable[..., Any]:
    """One value to the real number its code stands for."""

    @scalar
    def fake_quantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
        scale, zero_point = own
        qmin, qmax, grid, real = settings
        x = widen(stored, real)
        low, high = qmin - zero_point, qmax - zero_point
        return narrow(
            dequantize(quantize_offset(x, scale, zero_point, low, high, grid, rounding), scale), storage, real
        )

    return fake_quantize


@scalar
def _dequantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
    scale, zero_point = own
    sign, real = settings  # sign: the bit whose flip turns the stored bits into code + sign
    return narrow(dequantize((stored ^ sign) - zero_point, scale), storage, real)


@scalar
def _requantize_parameters(parameters: Any, p: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = parameters
    return multiplier[p], shift[p], bias[p], zero_point[p], y_scale[p]


@scalar
def _code_range(zero_point: int, y_scale: Any, settings: Any) -> Any:
    qmin, qmax, activation = settings
    return lowest_code(qmin, zero_point, activation), highest_code(qmax, zero_point, y_scale, activation)


@scalar
def _requantize_float(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = own
    low, high = _code_range(zero_point, y_scale, settings)
    offset = requantize_float(
        accumulator + bias,
        np.float32(multiplier),
        np.float32(low - zero_point),
        np.float32(high - zero_point),
        HALF_EVEN,
    )
    return storage(np.int64(offset) + zero_point)


@scalar
def _requantize_float64(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = own
    low, high = _code_range(zero_point, y_scale, settings)
    offset = requantize_float64(
        accumulator + bias, multiplier, np.float64(low - zero_point), np.float64(high - zero_point)
    )
    return storage(np.int64(offset) + zero_point)


@scalar
def _requantize_fixed_point(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = own
    low, high = _code_range(zero_point, y_scale, settings)
    return storage(saturate(requantize_fixed_point(accumulator + bias, multiplier, shift) + zero_point, low, high))


@scalar
def _requantize_fixed_point_half_up(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = own
    low, high = _code_range(zero_point, y_scale, settings)
    return storage(
        saturate(requantize_fixed_point_half_up(accumulator + bias, multiplier, shift) + zero_point, low, high)
    )


@functools.cache
def quantize_kernel(rounding: int) -> Callable[..., Any]:
    """The kernel of quantize_linear for one way of rounding."""
    return make_walk(_scale_and_zero_point, _make_quantize(rounding))


@functools.cache
def fake_quantize_kernel(rounding: int) -> Callable[..., Any]:
    """The kernel of fake_quantize for one way of rounding."""
    return make_walk(_scale_and_zero_point, _make_fake_quantize(rounding))


@functools.cache
def dequantize_kernel() -> Callable[..., Any]:
    """The kernel of dequantize_linear."""
    return make_walk(_scale_and_zero_point, _dequantize)


@functools.cache
def requantize_kernel(mode: str) -> Callable[..., Any]:
    """The kernel of requantize in one mode."""
    elements = {
        "float": _requantize_float,
        "float64": _requantize_float64,
        "fixed_point": _requantize_fixed_point,
        "fixed_point_half_up": _requantize_fixed_point_half_up,
    }
    return make_walk(_requantize_parameters, elements[mode])


@jit
def finite_range(x: Any, real: int) -> Any:
    """Lowest and highest of 0 and the finite values of a flat array, as float32."""
    low = high = np.int32(0)
    for i in range(x.shape[0]):
        key = order_key(np.float32(widen(x[i], real)))
        low, high = min(low, key), max(high, key)
    return from_order_key(low), from_order_key(high)
