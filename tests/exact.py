"""Exact arithmetic in Python integers and fractions: the oracle that the reference is checked against.

Real numbers are Python floats here: each holds every float16, bfloat16, float32 and float64 value, infinities and NaN.
"""
from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

# name: (significant bits, exponent of the smallest subnormal, largest finite value)
FORMATS: dict[str, tuple[int, int, Fraction]] = {
    "float16": (11, -24, Fraction(65504)),
    "bfloat16": (8, -133, Fraction((2**8 - 1) * 2**120)),
    "float32": (24, -149, Fraction((2**24 - 1) * 2**104)),
    "float64": (53, -1074, Fraction((2**53 - 1) * 2**971)),
}


def nearest(value: Fraction | int, name: str = "float32") -> float:
    """The number of a real type nearest to an exact value: ties to even, ±inf beyond the largest, -0.0 from below."""
    value = Fraction(value)
    bits, lowest, largest = FORMATS[name]
    magnitude = abs(value)
    if magnitude == 0:
        return 0.0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()  # floor(log2) or one more
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - bits + 1, lowest)
    rounded = round(magnitude / unit) * unit  # Python rounds a Fraction half to even
    result = math.inf if rounded > largest else float(rounded)
    return result if value > 0 else -result


def convert(value: float, name: str) -> float:
    """A real number rounded to a real type; infinities, NaN and zeros stay."""
    return nearest(Fraction(value), name) if math.isfinite(value) and value != 0 else value


def times(one: float, other: float, name: str = "float32") -> float:
    """The rounded product, infinities, NaN and signed zeros as IEEE 754 has them."""
    if math.isfinite(one) and math.isfinite(other) and one != 0 and other != 0:
        return nearest(Fraction(one) * Fraction(other), name)
    return one * other


def plus(one: float, other: float, name: str = "float32") -> float:
    """The rounded sum."""
    if math.isfinite(one) and math.isfinite(other) and (one != 0 or other != 0):
        return nearest(Fraction(one) + Fraction(other), name)
    return one + other


def divided(one: float, other: float, name: str = "float32") -> float:
    """The rounded quotient by a finite number above 0."""
    return nearest(Fraction(one) / Fraction(other), name) if math.isfinite(one) and one != 0 else one


def multiply_add(x: float, y: float, z: float) -> float:
    """x·y + z rounded once, to float32, for a finite z."""
    if math.isfinite(x) and math.isfinite(y):
        return nearest(Fraction(x) * Fraction(y) + Fraction(z))
    return x * y + z


def integer(v: Fraction | float, rounding: str) -> int:
    """The nearest integer to a finite value."""
    v = Fraction(v)
    if rounding == "half_even":
        return round(v)
    if rounding == "half_up":
        return math.floor(v + Fraction(1, 2))
    return math.floor(v + Fraction(1, 2)) if v >= 0 else math.ceil(v - Fraction(1, 2))  # half_away


def code(v: float, zero_point: int, low: int, high: int, rounding: str) -> int:
    """round(v) + zero_point clamped to low … high; NaN is the zero point, infinities are the ends."""
    if math.isnan(v):
        return zero_point
    if math.isinf(v):
        return high if v > 0 else low
    return clamp(integer(v, rounding) + zero_point, low, high)


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def bounds(low: int, high: int, zero_point: int, activation: str | None, y_scale: float) -> tuple[int, int]:
    """The codes an activation leaves."""
    if activation is None:
        return low, high
    if activation == "relu6":
        six = divided(6.0, y_scale)
        high = high if math.isinf(six) else min(high, zero_point + integer(six, "half_away"))
    return max(low, zero_point), high


def truncated(numerator: int, denominator: int) -> int:
    """C's integer division."""
    return abs(numerator) // denominator * (1 if numerator >= 0 else -1)


def doubling_high_product(a: int, b: int) -> int:
    """gemmlowp fixedpoint.h, SaturatingRoundingDoublingHighMul, line for line."""
    if a == b == INT32_MIN:
        return INT32_MAX
    nudge = (1 << 30) if a * b >= 0 else 1 - (1 << 30)
    return truncated(a * b + nudge, 1 << 31)


def divide_by_power_of_two(x: int, exponent: int) -> int:
    """gemmlowp fixedpoint.h, RoundingDivideByPOT, line for line."""
    mask = (1 << exponent) - 1
    remainder = x & mask
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def requantized(t: int, multiplier: Any, mode: str) -> int | float:
    """The value before the zero point is added, one of the four rules; ±inf where it is beyond everything."""
    if mode in ("float", "float64"):
        kind = "float32" if mode == "float" else "float64"
        v = times(nearest(t, kind), multiplier, kind)
        return v if math.isinf(v) else integer(v, "half_even" if mode == "float" else "half_away")
    m, shift = multiplier
    t = clamp(t, INT32_MIN, INT32_MAX)
    left, right = max(shift, 0), max(-shift, 0)
    if mode == "fixed_point":
        high = doubling_high_product(clamp(t * 2**left, INT32_MIN, INT32_MAX), m)
        return divide_by_power_of_two(high, right)
    v = (t * 2**left * m + 2**30) // 2**31
    return v if right == 0 else (v + 2 ** (right - 1)) // 2**right
