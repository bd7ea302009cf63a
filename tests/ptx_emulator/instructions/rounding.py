"""Exactly rounded float arithmetic on NumPy: the four IEEE directions, round-to-odd, and fma.

Round-to-odd keeps "inexact" alive in the last bit, so that a second rounding to at least two bits less is exact
(Boldo and Melquiond, "Emulation of FMA and Correctly Rounded Sums", 2008). NaN results of float32 are PTX's canonical
0x7fffffff.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MODES = {"rn", "rz", "rm", "rp"}
CANONICAL_NAN = np.array([0x7FFF_FFFF], np.uint32).view(np.float32)
SPLITTER = 2.0**27 + 1


def canonical(value: Array) -> Array:
    """float32 results with every NaN replaced by 0x7fffffff; other dtypes as they are."""
    if value.dtype == np.float32:
        unordered = np.isnan(value)
        if unordered.any():
            return np.where(unordered, CANONICAL_NAN, value)
    return value


def flush(value: Array) -> Array:
    """Subnormal float32 numbers replaced by zero of their sign (.ftz)."""
    tiny = np.abs(value) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), value), value) if tiny.any() else value


def saturate(value: Array) -> Array:
    """Clamp to [0, 1]; NaN and -0 give +0 (.sat)."""
    return np.where(value > 0, np.minimum(value, value.dtype.type(1)), value.dtype.type(0))


def directed(nearest: Array, error: Array, mode: str) -> Array:
    """The result in direction `mode` from the nearest one and the sign of `exact - nearest`."""
    infinity = nearest.dtype.type(np.inf)
    if mode == "rm":
        return np.where(error < 0, np.nextafter(nearest, -infinity), nearest)
    if mode == "rp":
        return np.where(error > 0, np.nextafter(nearest, infinity), nearest)
    if mode == "rz":
        away = (error < 0) & (nearest > 0) | (error > 0) & (nearest < 0)
        return np.where(away, np.nextafter(nearest, nearest.dtype.type(0)), nearest)
    return nearest


def jam(nearest: Array, error: Array) -> Array:
    """Round-to-odd from the nearest float and the sign of `exact - nearest` (NaN counts as exact)."""
    bits = nearest.view(np.int64 if nearest.dtype.itemsize == 8 else np.int32)
    even = (bits & 1 == 0) & ((error < 0) | (error > 0)) & np.isfinite(error)
    step = np.where((error > 0) == (nearest > 0), 1, -1).astype(bits.dtype)
    return np.where(even, bits + step, bits).view(nearest.dtype)


def narrow(value: Array, mode: str = "rn") -> Array:
    """float64 rounded once to float32; mode "odd" gives the odd neighbour of an inexact value."""
    nearest = value.astype(np.float32)
    if mode == "rn":
        return nearest
    error = value - nearest.astype(np.float64)
    if mode == "odd":
        finite = np.where(
            np.isinf(nearest) & np.isfinite(value), np.copysign(np.finfo(np.float32).max, nearest), nearest
        )
        return jam(finite, value - finite.astype(np.float64))
    return directed(nearest, error, mode)


def odd_sum(a: Array, b: Array) -> Array:
    """a + b in float64, rounded to odd. Knuth's TwoSum gives the error exactly."""
    total = a + b
    part = total - a
    return jam(total, (a - (total - part)) + (b - part))


def rounds_twice(total: Array) -> Array:
    """Where a float64 sum, rounded to float32 anew, may differ from the exact sum rounded once: in the middle between
    two float32 numbers, as every other float64 lies on the same side of it as what it was rounded from; and where
    float32 numbers are subnormal, whose middles have fewer bits.
    """
    middle = total.view(np.int64) & ((1 << 29) - 1) == 1 << 28
    return middle | (np.abs(total) < np.finfo(np.float32).tiny) & (total != 0)


def signed_zero(result: Array, negative_zero: Array, mode: str) -> Array:
    """Toward minus infinity a sum that cancels exactly is -0; `negative_zero` says where that applies."""
    if mode != "rm":
        return result
    return np.where((result == 0) & negative_zero, -result.dtype.type(0), result)


def add32(a: Array, b: Array, mode: str) -> Array:
    """a + b of float32, rounded once in direction `mode`."""
    if mode == "rn":
        return a + b
    result = narrow(odd_sum(a.astype(np.float64), b.astype(np.float64)), mode)
    return signed_zero(result, np.signbit(a) | np.signbit(b), mode)


def multiply32(a: Array, b: Array, mode: str) -> Array:
    """a * b of float32, rounded once; the product is exact in float64."""
    return a * b if mode == "rn" else narrow(a.astype(np.float64) * b.astype(np.float64), mode)


def fma32(a: Array, b: Array, c: Array, mode: str) -> Array:
    """a * b + c of float32 with one rounding."""
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    if mode == "rn" and not rounds_twice(total).any():
        return total.astype(np.float32)
    result = narrow(odd_sum(product, addend), mode)
    return signed_zero(result, (np.signbit(product) | np.signbit(addend)) & (product + addend == 0), mode)


def divide32(a: Array, b: Array, mode: str) -> Array:
    """a / b of float32, rounded once; the residual a - q·b is exact in float64."""
    quotient = a / b
    if mode == "rn":
        return quotient
    residual = a.astype(np.float64) - quotient.astype(np.float64) * b.astype(np.float64)
    error = np.where(b < 0, -residual, residual)
    overflow = np.isinf(quotient) & np.isfinite(a) & (b != 0)
    return directed(quotient, np.where(overflow, -quotient, error), mode)


def root32(a: Array, mode: str) -> Array:
    """The square root of float32, rounded once."""
    root = np.sqrt(a)
    return directed(root, a.astype(np.float64) - root.astype(np.float64) ** 2, mode)


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b of float64 as result and exact error (Dekker, Veltkamp), for magnitudes that neither over- nor
    underflow."""
    big_a, big_b = SPLITTER * a, SPLITTER * b
    high_a, high_b = big_a - (big_a - a), big_b - (big_b - b)
    low_a, low_b = a - high_a, b - high_b
    product = a * b
    return product, ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float64 with one rounding to nearest; extreme exponents go through exact fractions."""
    a, b, c = np.broadcast_arrays(a, b, c)
    product, error = _two_product(a, b)
    total = c + error
    part = total - c
    low_total = (c - (total - part)) + (error - part)
    high = product + total
    part = high - product
    low = (product - (high - part)) + (total - part)
    result = high + odd_sum(low_total, low)
    plain = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b) | ~np.isfinite(c)
    result = np.where(plain, a * b + c, result)
    size_a, size_b, size = np.abs(a), np.abs(b), np.abs(product)
    safe = (size_a < 2.0**900) & (size_b < 2.0**900) & (size < 2.0**900) & (size > 2.0**-900) & (np.abs(c) < 2.0**900)
    for index in np.flatnonzero(~safe & ~plain):
        result[index] = _exact_fma(float(a[index]), float(b[index]), float(c[index]))
    return result


def _exact_fma(a: float, b: float, c: float) -> float:
    """One fma in exact fractions; a and b are finite and not zero, c is finite."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return 0.0 if c else a * b
    try:
        return float(exact) or (-0.0 if exact < 0 else 0.0)
    except OverflowError:
        return float("-inf") if exact < 0 else float("inf")
