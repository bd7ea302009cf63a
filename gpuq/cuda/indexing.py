"""Indices inside kernels: division by numbers that the host knows, as a multiplication.

    n // d == (n · multiplier) >> shift        for 0 ≤ n < 2^31, with multiplier = ⌈2^shift / d⌉ < 2^32

multiplier · d = 2^shift + e with e < d, and shift = 31 + ⌈log2 d⌉ makes the error n·e / (d · 2^shift) smaller than 1/d.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpuq.arithmetic import scalar
from gpuq.cuda.numba_cuda import types

INDEX_BITS = 31


class Divisor(NamedTuple):
    """A positive int32 to divide by, as a kernel takes it."""

    multiplier: int
    shift: int
    value: int


DIVISOR = types.Tuple((types.int64, types.int32, types.int32))


def divisor(value: int) -> Divisor:
    """What a kernel needs to divide by `value`."""
    shift = INDEX_BITS + (value - 1).bit_length()
    return Divisor(-(-(1 << shift) // value), shift, value)


@scalar
def divide(n: int, by: Any) -> Any:
    """n // by and n % by, of an int32 that is not negative."""
    quotient = np.int32((np.uint64(np.uint32(n)) * np.uint64(np.uint32(by[0]))) >> np.uint64(by[1]))
    return quotient, np.int32(n - quotient * by[2])
