"""x / S rounded once, as IEEE division gives it, without the division instruction: four multiplications and additions.

A GPU has no instruction for f32 division; `div.rn.f32` is a dozen of them and a call for rare operands. A CPU's takes
as long as six others. Here S comes with its reciprocal r = f32(1 / S), once for many x:

    q  = f32(x · r)
    q' = fma(fma(−q, S, x), r, q)          the remainder x − q·S, divided again and added

q' is x / S rounded to float32 for every x and S as long as nothing overflows or underflows on the way: tests/cuda/
test_division.py shows it for each of the 2^23 significands of S and every x whose quotient lies so close to the middle
between two float32 numbers that q' could miss it. (P. Markstein, Computation of elementary functions on the IBM RISC
System/6000 processor, 1990, has the theorem for a more precise q.)

    S < 2^−100, S > 2^100     x and S are both multiplied by 2^64 or 2^−64 first, exactly where it matters
    |q| ≥ 2^20 or NaN         q stays: it is beyond all codes of 16 bit and less, and saturates; or it is infinite
    |q| < 1/8                 the remainder may underflow, and q' be off by its last bit: it rounds to 0 all the same

Where x is first brought between S · low and S · high, all quotients are small. The codes are the same: S · low rounded
to float32 and divided by S lies within 2^−6 of low, so it still rounds to low, and division keeps the order of x.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.arithmetic import fma, scalar

SMALLEST, LARGEST = np.float32(2.0**-100), np.float32(2.0**100)
UP, DOWN, ONE = np.float32(2.0**64), np.float32(2.0**-64), np.float32(1)
SATURATING = np.float32(2.0**20)


@scalar
def power_for(scale: Any) -> Any:
    """The power of two that brings a scale among those that need none."""
    return UP if scale < SMALLEST else (DOWN if scale > LARGEST else ONE)


@scalar
def reciprocal_of(scale: Any) -> Any:
    """r of a scale brought there."""
    return ONE / np.float32(scale * power_for(scale))


@scalar
def divide(x: Any, divisor: Any) -> Any:
    """x / S for codes of at most 16 bit; divisor: S and its reciprocal."""
    scale, reciprocal = divisor
    power = power_for(scale)
    scaled, near = np.float32(scale * power), np.float32(x * power)
    quotient = np.float32(near * reciprocal)
    return corrected(quotient, near, scaled, reciprocal) if abs(quotient) < SATURATING else quotient


@scalar
def corrected(quotient: Any, x: Any, scale: Any, reciprocal: Any) -> Any:
    """q' of q."""
    return fma(fma(-quotient, scale, x), reciprocal, quotient)


@scalar
def bounded(scale: Any, reciprocal: Any, low: Any, high: Any) -> Any:
    """A divisor for quotients within low … high: the power, S and r brought there, and the least and the largest x."""
    power = power_for(scale)
    scaled = np.float32(scale * power)
    return power, scaled, reciprocal, np.float32(scaled * low), np.float32(scaled * high)


@scalar
def scale_of(divisor: Any) -> Any:
    """S of a divisor."""
    return divisor[0]


@scalar
def inverse_of(divisor: Any) -> Any:
    """The second part of a divisor, which for torch's formulas is f32(1 / S) itself."""
    return divisor[1]
