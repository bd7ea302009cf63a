"""The elements of quantize_linear and fake_quantize on the CPU where all x share an ordinary scale: no division.

x ──► between S · low and S · high ──► x / S by four multiplications and additions (division.py) ──► on the grid

On the grid (arithmetic.py: to_grid) the lowest bits are the offset, to which the zero point is added as bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from gpuq.arithmetic import GRID32, HALF_EVEN, bits_of, dequantize, narrow, scalar, to_grid, widen
from gpuq.cpu.atomics import MACHINE
from gpuq.cpu.isa import target_features
from gpuq.division import LARGEST, SMALLEST, corrected, reciprocal_of

LEAST_SCALE, LARGEST_SCALE = float(SMALLEST), float(LARGEST)


@intrinsic
def add_bits(typing_context: Any, a: Any, b: Any) -> Any:
    """The lowest 32 bits of a sum; Numba's own addition takes 64, of which a vector holds half as many."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(*arguments)

    return types.uint32(types.uint32, types.uint32), generate


def divides(rounding: int, wide: bool, scale: Any) -> bool:
    """Whether quantizing takes a division: with scales at the ends of float32, and where a processor has no fused
    multiply-add; other roundings and numbers in float64 do.
    """
    if wide or rounding != HALF_EVEN or not LEAST_SCALE <= scale <= LARGEST_SCALE:
        return True
    return MACHINE != "aarch64" and "fma" not in target_features()


@scalar
def bind(scale: Any, zero_point: Any, low: Any, high: Any) -> Any:
    """The parameters of an element; low and high: its codes' bounds, all float32."""
    least, largest = np.float32(scale * (low - zero_point)), np.float32(scale * (high - zero_point))
    return scale, reciprocal_of(scale), least, largest, np.uint32(np.int32(zero_point))


@scalar
def _offset_on_grid(stored: Any, own: Any, settings: Any) -> Any:
    """q − z as a number on GRID32."""
    scale, reciprocal, least, largest, _ = own
    x = widen(stored, settings[3])
    near = least if x < least else x
    near = largest if near > largest else near
    return to_grid(corrected(np.float32(near * reciprocal), near, scale, reciprocal), x)


@scalar
def _quantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
    return storage(add_bits(bits_of(_offset_on_grid(stored, own, settings)), own[4]))


@scalar
def _fake_quantize(stored: Any, own: Any, settings: Any, storage: Any) -> Any:
    offset = _offset_on_grid(stored, own, settings) - GRID32
    return narrow(dequantize(offset, own[0]), storage, settings[3])


def element(fake: bool) -> Callable[..., Any]:
    """The element of fake_quantize or of quantize_linear."""
    return _fake_quantize if fake else _quantize
