"""Rows of activations on the CPU: quantized each with its own scale; sums of blocks added up and finished.

x  ├──── row: k numbers ────┤ ──► absmax of the finite ones ──► sx = max(f32(absmax / 127), 2^-126) ──► codes
read from memory once: the second pass finds the row in the cache
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32

from gpuq.arithmetic import (
    GELU,
    GRID32,
    HALF_EVEN,
    bits_of,
    clip,
    float_of,
    narrow,
    round_between,
    row_scale,
    scalar,
    to_integer,
    widen,
)
from gpuq.cpu.compile import jit
from gpuq.cpu.spread import runner
from gpuq.curves import gelu, silu

COLUMNS = 1024  # whose sums, codes and parameters, with those of 8 rows, stay in the L1 and L2 caches


@jit
def _quantize_rows(arguments: Any, first: int, last: int) -> None:
    """Rows first … last of x (m, k) to int8 codes, symmetric, and a scale for each."""
    x, real, q, scales = arguments
    low, high = np.float32(-128), np.float32(127)
    for row in range(first, last):
        source, target = x[row], q[row]
        largest = int32(0)
        for i in range(source.shape[0]):
            magnitude = int32(bits_of(np.float32(widen(source[i], real))) & 0x7FFFFFFF)
            largest = max(largest, magnitude if magnitude < 0x7F800000 else int32(0))
        scale = row_scale(float_of(np.uint32(largest)))
        scales[row] = scale
        for i in range(source.shape[0]):
            v = widen(source[i], real) / scale
            target[i] = np.int8(to_integer(round_between(v, low, high, GRID32, HALF_EVEN)))


@jit
def extremes(values: Any) -> Any:
    """The least and the largest of some numbers."""
    least = largest = values[0]
    for value in values:
        least, largest = min(least, value), max(largest, value)
    return least, largest


@jit
def add_to(total: Any, part: Any) -> None:
    """total += part, flat, in float32."""
    for i in range(total.shape[0]):
        total[i] = total[i] + part[i]


@jit
def finish(total: Any, bias: Any, activation: int, real: int, y: Any) -> None:
    """y = act(total + bias) of (m, n), bias (n,), rounded once to y's type."""
    for row in range(total.shape[0]):
        finish_row(total[row], bias, (activation, real), y[row])


@scalar
def finish_row(total: Any, bias: Any, settings: Any, y: Any) -> None:
    """The same for one row; settings: activation and real type."""
    activation, real = settings
    storage = y.dtype.type
    if activation < GELU:
        for i in range(total.shape[0]):
            y[i] = narrow(clip(total[i] + bias[i], activation), storage, real)
    elif activation == GELU:
        for i in range(total.shape[0]):
            y[i] = narrow(gelu(total[i] + bias[i]), storage, real)
    else:
        for i in range(total.shape[0]):
            y[i] = narrow(silu(total[i] + bias[i]), storage, real)


@jit
def _float_product(arguments: Any, first: int, last: int) -> None:
    """total (m, n) += x · S·(q − z) for columns first … last; scale and shift (z) have a row for each block along k.

    The weight is read once, in its codes; sums of few columns of all rows stay in the cache.
    """
    x, codes, scale, shift, block, total = arguments
    for start in range(first, last, COLUMNS):
        stop = min(start + COLUMNS, last)
        for k in range(codes.shape[0]):
            own = codes[k, start:stop]
            own_scale, own_shift = scale[k // block, start:stop], shift[k // block, start:stop]
            for row in range(x.shape[0]):
                value, sums = x[row, k], total[row, start:stop]
                for i in range(sums.shape[0]):
                    sums[i] += value * ((np.float32(own[i]) - own_shift[i]) * own_scale[i])


quantize_rows, float_product = runner(_quantize_rows), runner(_float_product)  # of so many rows, of so many columns
