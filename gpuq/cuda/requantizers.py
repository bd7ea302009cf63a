"""The kernels of requantize: int32 accumulators to codes, one for each mode and size of code."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuq.arithmetic import scalar
from gpuq.cuda.compile import Kernel
from gpuq.cuda.elementwise import Operator, Walk, make_walk
from gpuq.cuda.numba_cuda import types
from gpuq.elements import REQUANTIZE, bind_requantize

MULTIPLIERS = {  # by the mode
    "float": types.float32,
    "float64": types.float64,
    "fixed_point": types.int32,
    "fixed_point_half_up": types.int32,
}
SETTINGS = (types.int32, types.int32, types.int32)  # qmin, qmax, activation


@functools.cache
def requantize_walk(mode: str, code_bytes: int) -> Walk:
    """The walk of requantize; its parameters: multiplier, shift, bias, zero point, y_scale."""
    parameters = (MULTIPLIERS[mode], types.int32, types.int32, types.int32, types.float32)
    bind = _bind_fixed_point if mode.startswith("fixed") else _bind
    target = "uint8" if code_bytes == 1 else "uint16"
    operator = Operator(f"requantize_{mode}", "int32", target, REQUANTIZE[mode], SETTINGS, parameters, bind)
    return make_walk(operator, uniform=False)


@scalar
def _bind(numbers: Any, settings: Any) -> Any:
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
    return [requantize_walk(mode, code_bytes).kernel for mode in REQUANTIZE for code_bytes in (1, 2)]
