"""One element of each elementwise operator, as the walks of both backends call it: arithmetic.py on stored values.

    element(stored, own, settings, storage) ──► the stored result
            │       │    └─ of the call: limits, types
            │       └─ parameters of this element: (divisor, zero point), …
            └─ a real number or a code by its bits: float16 and bfloat16 as uint16, codes as unsigned integers

Codes are stored unsigned, so that signed and unsigned types share machine code. The backends divide by a scale in
their own ways, all of which give x / S rounded once: a *divisor* is what such a way needs.

In the mode "float" of requantize, the default, t = acc + bias takes 33 bits and is rounded to float32 once, without
integers of 64 bits and without a conversion, which are slow or missing. Both numbers are cut in halves of 16 bits:

    acc = ah·2^16 + al, bias = bh·2^16 + bl     t = (ah + bh)·2^16 + (al + bl)     f32(t) = (ah + bh)·2^16 + (al + bl)

The sums of halves take 17 bits, so float32 holds them, and the first times 2^16, exactly: the last sum alone rounds. A
half n of acc becomes a float32 by its place: the number whose bits are those of GRID32 and n more is GRID32 + n
(arithmetic.py), and GRID32 is taken off with the addition of bias's half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import (
    GRID32,
    HALF_UP,
    as_type_of,
    dequantize,
    float_of,
    highest_code,
    lowest_code,
    narrow,
    quantize_offset_torch,
    requantize_fixed_point,
    requantize_fixed_point_half_up,
    requantize_float64,
    round_between,
    saturate,
    scalar,
    to_integer,
    widen,
)

HALF_BITS, HALF_MASK, HALVES = 16, 0xFFFF, np.float32(2.0**16)
GRID, GRID_BITS = int(GRID32), 0x4B400000  # GRID32 and its bits
ANY_ROUNDING = -1  # the rounding is one of the settings


def make_quantize(divide: Callable[..., Any], invert: Callable[..., Any], rounding: int) -> Callable[..., Any]:
    """One value to its code: `divide(x, divisor)` is x / S, `invert(divisor)` is f32(1 / S).

    The rounding is best a constant of the kernel: a choice inside the loop keeps LLVM from vectorizing it.
    """
    offset_of = make_offset(divide, invert, rounding)

    @scalar
    def quantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
        divisor, zero_point = own
        return storage(to_integer(offset_of(stored, divisor, zero_point, settings) + zero_point))

    return quantize


def make_fake_quantize(
    divide: Callable[..., Any], invert: Callable[..., Any], scale_of: Callable[..., Any], rounding: int
) -> Callable[..., Any]:
    """One value to the real number its code stands for."""
    offset_of = make_offset(divide, invert, rounding)

    @scalar
    def fake_quantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
        divisor, zero_point = own
        offset = offset_of(stored, divisor, zero_point, settings)
        return narrow(dequantize(offset, scale_of(divisor)), storage, settings[3])

    return fake_quantize


def make_offset(divide: Callable[..., Any], invert: Callable[..., Any], rounding: int) -> Callable[..., Any]:
    """q − z of one value, equation (2)."""

    @scalar
    def offset_of(stored: Any, divisor: Any, zero_point: Any, settings: Any) -> Any:
        qmin, qmax, grid, real, chosen = settings
        if rounding != ANY_ROUNDING:
            chosen = rounding
        x = widen(stored, real)
        low, high = qmin - zero_point, qmax - zero_point
        if chosen <= HALF_UP:
            return round_between(divide(x, divisor), low, high, grid, chosen)
        return quantize_offset_torch(np.float32(x), invert(divisor), zero_point, low, high, grid, chosen)

    return offset_of


@scalar
def dequantize_code(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
    """One code to its real number. `settings[0]`: the bit whose flip turns the stored bits into code + that bit, by
    which the zero point is moved too.
    """
    scale, zero_point = own
    sign, real = settings
    return narrow(dequantize(as_type_of(zero_point, (stored ^ sign) - zero_point), scale), storage, real)


@scalar
def bind_requantize(numbers: Any, settings: Any) -> Any:
    """The parameters of an element as `requantize`'s elements take them: its codes' bounds in the place of y_scale."""
    multiplier, shift, bias, zero_point, y_scale = numbers
    qmin, qmax, activation = settings
    low, high = lowest_code(qmin, zero_point, activation), highest_code(qmax, zero_point, y_scale, activation)
    return multiplier, shift, bias, zero_point, low, high


@scalar
def bind_requantize_float(numbers: Any, settings: Any) -> Any:
    """The same for the mode "float": the multiplier, the halves of the bias less GRID32, the offsets' bounds, the zero
    point.
    """
    multiplier, shift, bias, zero_point, y_scale = numbers
    _, _, _, _, low, high = bind_requantize(numbers, settings)
    return (
        np.float32(multiplier),
        np.float32(np.int32((bias >> HALF_BITS) - GRID)),
        np.float32(np.int32((bias & HALF_MASK) - GRID)),
        np.float32(np.int32(low - zero_point)),
        np.float32(np.int32(high - zero_point)),
        zero_point,
    )


@scalar
def halves_of_sum(accumulator: Any, high_bias: Any, low_bias: Any) -> Any:
    """h and l with acc + bias = h·2^16 + l, exact in float32."""
    high_half = float_of(np.uint32((accumulator >> HALF_BITS) + GRID_BITS)) + high_bias
    low_half = float_of(np.uint32((accumulator & HALF_MASK) | GRID_BITS)) + low_bias
    return high_half, low_half


@scalar
def _requantize_float64(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, low, high = own
    offset = requantize_float64(
        accumulator + bias, multiplier, np.float64(low - zero_point), np.float64(high - zero_point)
    )
    return storage(np.int32(offset) + zero_point)


@scalar
def _requantize_fixed_point(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, low, high = own
    return storage(saturate(requantize_fixed_point(accumulator + bias, multiplier, shift) + zero_point, low, high))


@scalar
def _requantize_fixed_point_half_up(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, shift, bias, zero_point, low, high = own
    return storage(
        saturate(requantize_fixed_point_half_up(accumulator + bias, multiplier, shift) + zero_point, low, high)
    )


REQUANTIZE = {  # settings: qmin, qmax, activation; each backend has an element of its own for "float"
    "float64": _requantize_float64,
    "fixed_point": _requantize_fixed_point,
    "fixed_point_half_up": _requantize_fixed_point_half_up,
}
