"""The kernels of quantize_linear, fake_quantize and dequantize_linear: elementwise.py's walk, elements.py's elements.

    codes of 8 and 16 bit from float32 and halves     in float32, x / S by a reciprocal (division.py)     "narrow"
    everything else                                   in float64 from x / S on, by IEEE division          "wide"

8-bit codes with ties to even, the default, have kernels of their own, in as few instructions as there can be: x is
saturated before it is divided. The rounding of all others is an argument.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq.arithmetic import (
    FLOAT32,
    GRID32,
    GRID64,
    HALF_EVEN,
    HALF_UP,
    bits_of,
    dequantize,
    narrow,
    scalar,
    to_grid,
)
from gpuq.cuda.compile import Kernel
from gpuq.cuda.division import divide_bounded
from gpuq.cuda.elementwise import Operator, Walk, make_walk
from gpuq.cuda.numba_cuda import types
from gpuq.division import bounded, divide, inverse_of, scale_of
from gpuq.elements import ANY_ROUNDING, dequantize_code, make_fake_quantize, make_quantize

NARROW_REALS = ("float32", "float16", "bfloat16")
REALS = (*NARROW_REALS, "float64")
CODES = {1: "uint8", 2: "uint16", 4: "uint32"}  # by their bytes: codes are stored by their bits


def is_wide(real: str, code_bytes: int) -> bool:
    """Whether offsets need float64."""
    return real == "float64" or code_bytes == 4


@scalar
def _bind_narrow(numbers: Any, settings: Any) -> Any:
    scale, reciprocal, zero_point = numbers
    return (scale, reciprocal), np.float32(zero_point)


@scalar
def _bind_wide(numbers: Any, settings: Any) -> Any:
    scale, inverse, zero_point = numbers
    return (scale, inverse), np.float64(zero_point)


@scalar
def _bind_float64(numbers: Any, settings: Any) -> Any:
    scale, inverse, zero_point = numbers
    return (np.float64(scale), inverse), np.float64(zero_point)


@scalar
def _bind_even(numbers: Any, settings: Any) -> Any:
    scale, reciprocal, zero_point = numbers
    qmin, qmax, _ = settings
    z = np.float32(zero_point)
    return bounded(scale, reciprocal, np.float32(qmin - z), np.float32(qmax - z)), scale, zero_point


@scalar
def _quantize_even(x: Any, own: Any, settings: Any, storage: Any) -> Any:
    divisor, _, zero_point = own
    return storage(bits_of(to_grid(divide_bounded(x, divisor), x)) + np.uint32(zero_point))


@scalar
def _fake_quantize_even(x: Any, own: Any, settings: Any, storage: Any) -> Any:
    divisor, scale, _ = own
    offset = np.float32(to_grid(divide_bounded(x, divisor), x) - GRID32)
    return narrow(dequantize(offset, scale), storage, FLOAT32)


@scalar
def _divide_wide(x: Any, divisor: Any) -> Any:
    return x / divisor[0]


NARROW = (types.float32, types.float32, types.int32)  # scale, reciprocal, zero point
WIDE = (types.float32, types.float32, types.int64)  # scale, f32(1 / scale), zero point
NARROW_SETTINGS = (types.float32, types.float32, types.int32)  # qmin, qmax, rounding
WIDE_SETTINGS = (types.float64, types.float64, types.int32)


def _with_settings(element: Callable[..., Any], grid: Any) -> Callable[..., Any]:
    """The element with a kernel's settings (qmin, qmax, rounding) as elements.py has them."""

    @scalar
    def call(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
        qmin, qmax, rounding = settings
        return element(stored, own, (qmin, qmax, grid, FLOAT32, rounding), storage)

    return call


@functools.cache
def _even_walk(name: str, real: str, target: str, uniform: bool) -> Walk:
    element = _quantize_even if name == "quantize" else _fake_quantize_even
    operator = Operator(f"{name}_even", real, target, element, NARROW_SETTINGS, NARROW, _bind_even)
    return make_walk(operator, uniform)


@functools.cache
def _any_walk(name: str, real: str, target: str, wide: bool) -> Walk:
    division = _divide_wide if wide else divide
    if name == "quantize":
        element = make_quantize(division, inverse_of, ANY_ROUNDING)
    else:
        element = make_fake_quantize(division, inverse_of, scale_of, ANY_ROUNDING)
    element = _with_settings(element, GRID64 if wide else GRID32)
    settings, parameters = (WIDE_SETTINGS, WIDE) if wide else (NARROW_SETTINGS, NARROW)
    bind = _bind_float64 if real == "float64" else (_bind_wide if wide else _bind_narrow)
    return make_walk(Operator(name + "_wide" * wide, real, target, element, settings, parameters, bind), uniform=False)


def quantize_walk(real: str, code_bytes: int, rounding: int, uniform: bool) -> Walk:
    """The walk of quantize_linear."""
    if rounding == HALF_EVEN and code_bytes == 1 and real in NARROW_REALS:
        return _even_walk("quantize", real, CODES[code_bytes], uniform)
    return _any_walk("quantize", real, CODES[code_bytes], is_wide(real, code_bytes))


def fake_quantize_walk(real: str, code_bytes: int, rounding: int, uniform: bool) -> Walk:
    """The walk of fake_quantize; codes of 8 and 16 bit share it."""
    wide = is_wide(real, code_bytes)
    if rounding == HALF_EVEN and not wide:
        return _even_walk("fake_quantize", real, real, uniform)
    return _any_walk("fake_quantize", real, real, wide)


@functools.cache
def _dequantize_walk(code_bytes: int, real: str, uniform: bool) -> Walk:
    integer = types.int64 if code_bytes == 4 else types.int32
    bind = _bind_dequantize_float64 if real == "float64" else _bind_dequantize
    parameters = (types.float32, integer)  # scale, zero point
    operator = Operator("dequantize", CODES[code_bytes], real, _dequantize, (integer,), parameters, bind)
    return make_walk(operator, uniform)


def dequantize_walk(code_bytes: int, real: str, uniform: bool) -> Walk:
    """The walk of dequantize_linear."""
    return _dequantize_walk(code_bytes, real, uniform and code_bytes == 1 and real in NARROW_REALS)


@scalar
def _bind_dequantize(numbers: Any, settings: Any) -> Any:
    scale, zero_point = numbers
    return scale, zero_point + settings[0]


@scalar
def _bind_dequantize_float64(numbers: Any, settings: Any) -> Any:
    scale, zero_point = numbers
    return np.float64(scale), zero_point + settings[0]


@scalar
def _dequantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
    return dequantize_code(stored, own, (settings[0], FLOAT32), storage)


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    found: set[Walk] = set()
    for real, code_bytes, uniform in itertools.product(REALS, CODES, (True, False)):
        found.add(dequantize_walk(code_bytes, real, uniform))
        for rounding in (HALF_EVEN, HALF_UP):
            found.add(quantize_walk(real, code_bytes, rounding, uniform))
            found.add(fake_quantize_walk(real, code_bytes, rounding, uniform))
    return sorted((walk.kernel for walk in found), key=lambda kernel: kernel.name)
