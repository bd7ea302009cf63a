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


quantize_rows = runner(_quantize_rows)  # of so many rows
