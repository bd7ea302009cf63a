"""The elements of requantize on the CPU, and what they take of a run's parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq import elements
from gpuq.arithmetic import GRID32, bits_of, scalar
from gpuq.cpu.quantizing import add_bits


@scalar
def _requantize_float(accumulator: Any, own: Any, settings: Any, storage: Any) -> Any:
    multiplier, high_bias, low_bias, low, high, zero_point = own
    high_half, low_half = elements.halves_of_sum(accumulator, high_bias, low_bias)
    v = (high_half * elements.HALVES + low_half) * multiplier
    clamped = low if v < low else v
    offset = (high if clamped > high else clamped) + GRID32  # in its lowest bits
    return storage(add_bits(bits_of(offset), np.uint32(zero_point)))


@scalar
def _bind_float64(numbers: Any, settings: Any) -> Any:
    """The bias as float64, which holds the sum of two int32 numbers: AVX2 converts no int64, so LLVM would not
    vectorize.
    """
    multiplier, shift, bias, zero_point, low, high = elements.bind_requantize(numbers, settings)
    return multiplier, shift, np.float64(bias), zero_point, low, high


ELEMENTS = {**elements.REQUANTIZE, "float": _requantize_float}
BINDS = {
    "float": elements.bind_requantize_float,
    "float64": _bind_float64,
    "fixed_point": elements.bind_requantize,
    "fixed_point_half_up": elements.bind_requantize,
}
