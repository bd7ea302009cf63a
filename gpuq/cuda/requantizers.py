"""The kernels of requantize: int32 accumulators to codes, one for each mode and size of code.

In the mode "float", the default, t = acc + bias takes 33 bits and is rounded to float32 once, without integers of 64
bits, which a GPU has not, and without a conversion, which it makes at a fraction of its rate. Both numbers are cut in
halves of 16 bits:

    acc = ah·2^16 + al, bias = bh·2^16 + bl     t = (ah + bh)·2^16 + (al + bl)     f32(t) = fma(ah + bh, 2^16, al + bl)

The sums of halves take 17 bits, so float32 holds them exactly and the fma alone rounds. A half n of acc becomes a
float32 by its place: the number whose bits are those of GRID32 and n more is GRID32 + n (arithmetic.py), and GRID32 is
taken off with the addition of bias's half.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from gpuq.arithmetic import GRID32, bits_of, float_of, fma, scalar
from gpuq.cuda.compile import Kernel
from gpuq.cuda.elementwise import Operator, Walk, make_walk
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.ptx import larger, smaller
from gpuq.elements import REQUANTIZE, bind_requantize

MULTIPLIERS = {  # by the mode
    "float": types.float32,
    "float64": types.float64,
    "fixed_point": types.int32,
    "fixed_point_half_up": types.int32,
}
SETTINGS = (types.int32, types.int32, types.int32)  # qmin, qmax, activation
HALF_BITS, HALF_MASK, HALVES = 16, 0xFFFF, np.float32(2.0**16)
GRID, GRID_BITS = int(GRID32), 0x4B400000  # GRID32 and its bits


def requantize_walk(mode: str, code_bytes: int, uniform: bool) -> Walk:
    """The walk of requantize; its parameters: multiplier, shift, bias, zero point, y_scale. The commonest has a kernel
    of its own for parameters that all elements share.
    """
    return _walk(mode, code_bytes, uniform and mode == "float" and code_bytes == 1)


@functools.cache
def _walk(mode: str, code_bytes: int, uniform: bool) -> Walk:
    parameters = (MULTIPLIERS[mode], types.int32, types.int32, types.int32, types.float32)
    element, bind = REQUANTIZE[mode], _bind_fixed_point if mode.startswith("fixed") else _bind_float64
    if mode == "float":
        element, bind = _requantize_float, _bind_float
    target = "uint8" if code_bytes == 1 else "uint16"
    return make_walk(Operator(f"requantize_{mode}", "int32", target, element, SETTINGS, parameters, bind), uniform)


@scalar
def _bind_float(numbers: Any, settings: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = numbers
    _, _, _, _, low, high = bind_requantize(numbers, settings)
    return (
        multiplier,
        np.float32(np.int32((bias >> HALF_BITS) - GRID)),
        np.float32(np.int32((bias & HALF_MASK) - GRID)),
        np.float32(np.int32(low - zero_point)),
        np.float32(np.int32(high - zero_point)),
        zero_point,
    )


@scalar
def _requantize_float(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, high_bias, low_bias, low, high, zero_point = own
    high_half = float_of(np.uint32((accumulator >> HALF_BITS) + GRID_BITS)) + high_bias
    low_half = float_of(np.uint32((accumulator & HALF_MASK) | GRID_BITS)) + low_bias
    v = fma(high_half, HALVES, low_half) * multiplier
    offset = smaller(larger(v, low), high) + GRID32  # in its lowest bits
    return storage(bits_of(offset) + np.uint32(zero_point))


@scalar
def _bind_float64(numbers: Any, settings: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = numbers
    wide = (multiplier, np.int64(shift), np.int64(bias), np.int64(zero_point), y_scale)
    return bind_requantize(wide, settings)


@scalar
def _bind_fixed_point(numbers: Any, settings: Any) -> Any:
    multiplier, shift, bias, zero_point, y_scale = numbers
    wide = (np.int64(multiplier), np.int64(shift), np.int64(bias), np.int64(zero_point), y_scale)
    return bind_requantize(wide, settings)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    ways = itertools.product(REQUANTIZE, (1, 2), (False, True))
    return list(dict.fromkeys(requantize_walk(*way).kernel for way in ways))
