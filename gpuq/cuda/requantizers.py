"""The kernels of requantize: int32 accumulators to codes, one for each mode and size of code."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from gpuq.arithmetic import GRID32, bits_of, fma, scalar
from gpuq.cuda.compile import Kernel
from gpuq.cuda.elementwise import Operator, Walk, make_walk
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.ptx import larger, smaller
from gpuq.elements import HALVES, REQUANTIZE, bind_requantize, bind_requantize_float, halves_of_sum

MULTIPLIERS = {  # by the mode
    "float": types.float32,
    "float64": types.float64,
    "fixed_point": types.int32,
    "fixed_point_half_up": types.int32,
}
SETTINGS = (types.int32, types.int32, types.int32)  # qmin, qmax, activation


def requantize_walk(mode: str, code_bytes: int, uniform: bool) -> Walk:
    """The walk of requantize; its parameters: multiplier, shift, bias, zero point, y_scale. The commonest has a kernel
    of its own for parameters that all elements share.
    """
    return _walk(mode, code_bytes, uniform and mode == "float" and code_bytes == 1)


@functools.cache
def _walk(mode: str, code_bytes: int, uniform: bool) -> Walk:
    parameters = (MULTIPLIERS[mode], types.int32, types.int32, types.int32, types.float32)
    element, bind = ELEMENTS[mode], BINDS[mode]
    target = "uint8" if code_bytes == 1 else "uint16"
    return make_walk(Operator(f"requantize_{mode}", "int32", target, element, SETTINGS, parameters, bind), uniform)


@scalar
def _requantize_float(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, high_bias, low_bias, low, high, zero_point = own
    high_half, low_half = halves_of_sum(accumulator, high_bias, low_bias)
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


ELEMENTS = {**REQUANTIZE, "float": _requantize_float}
BINDS = {
    "float": bind_requantize_float,
    "float64": _bind_float64,
    "fixed_point": _bind_fixed_point,
    "fixed_point_half_up": _bind_fixed_point,
}


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    ways = itertools.product(MULTIPLIERS, (1, 2), (False, True))
    return list(dict.fromkeys(requantize_walk(*way).kernel for way in ways))
