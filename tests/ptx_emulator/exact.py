"""Exact rounding by fractions, written without the emulator's arithmetic: what its tests compare with."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from .ptxtypes import register_dtype
from .texts import floats

Array = npt.NDArray[Any]
COUNT = 600  # operands of a test
FORMATS = {"f16": (11, -24, 15), "bf16": (8, -133, 127), "f32": (24, -149, 127), "f64": (53, -1074, 1023)}

MODES = ["rn", "rz", "rm", "rp"]


def round_exactly(value: Fraction, kind: str, mode: str) -> float:
    """A fraction rounded once to a float format: precision, exponent of the smallest subnormal, largest exponent."""
    precision, lowest, highest = FORMATS[kind]
    if value == 0:
        return 0.0
    size, sign = abs(value), -1.0 if value < 0 else 1.0
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - precision + 1, lowest)
    whole, rest = divmod(size, unit)
    up = {
        "rz": False,
        "rm": value < 0 and rest > 0,
        "rp": value > 0 and rest > 0,
        "rn": rest * 2 > unit or (rest * 2 == unit and whole % 2 == 1),
    }[mode]
    result = (whole + up) * unit
    limit = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** highest
    if result > limit:
        outward = mode == "rn" or mode == ("rm" if value < 0 else "rp")
        return sign * (math.inf if outward else float(limit))
    return sign * float(result)


def assert_bits(actual: Array, wanted: list[float], kind: str) -> None:
    """The same floats bit for bit, any NaN equal to any other."""
    expected = np.array(wanted, np.float64).astype(actual.dtype)
    same = (actual.view(f"i{actual.itemsize}") == expected.view(f"i{actual.itemsize}")) | (
        np.isnan(actual) & np.isnan(expected)
    )
    assert same.all(), (kind, actual[~same][:5], expected[~same][:5])


def as_float(bits: Array, kind: str) -> list[float]:
    """16-bit patterns as numbers, read without the emulator's code."""
    if kind == "f16":
        return [float(v) for v in bits.view(np.float16)]
    return [float(v) for v in (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)]


def finite(kind: str, seed: int) -> Array:
    values = floats(register_dtype(kind), COUNT, seed)
    values[np.isinf(values)] = 3
    return values


def halves(kind: str, seed: int) -> Array:
    """Finite 16-bit floats as int16 patterns."""
    bits = np.random.default_rng(seed).integers(0, 1 << 16, COUNT, np.uint16).view(np.int16)
    exponent = 0x7C00 if kind == "f16" else 0x7F80
    return np.where(bits & exponent == exponent, np.int16(0x0101), bits)
