"""What becomes of a block of exact accumulators while it is in the cache: int32, scaled real numbers, or 8-bit codes.

Every `finish` takes the block, the row parameters (row p of each array, from row i on), the column parameters (row c,
from column j on), settings, and the part of the result it fills; it returns whether a value did not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.arithmetic import (
    INT32_MAX,
    INT32_MIN,
    activate,
    highest_code,
    lowest_code,
    narrow,
    requantize_float,
    requantize_multiplier,
    scalar,
    scale_accumulator,
)


@scalar
def finish_int32(
    accumulators: Any, rows: Any, p: int, i: int, columns: Any, c: int, j: int, settings: Any, result: Any
) -> bool:
    """The accumulators themselves."""
    overflow = False
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            value = accumulators[row, column]
            overflow |= value < INT32_MIN or value > INT32_MAX
            result[row, column] = value
    return overflow


@scalar
def finish_scaled(
    accumulators: Any, rows: Any, p: int, i: int, columns: Any, c: int, j: int, settings: Any, result: Any
) -> bool:
    """act(f32(f32(f32(acc)·f32(a_scale·b_scale)) + bias)), cast to the result's type."""
    (a_scales,) = rows
    b_scales, biases = columns
    activation, real = settings
    storage = result.dtype.type
    for row in range(result.shape[0]):
        a_scale = a_scales[p, i + row]
        for column in range(result.shape[1]):
            scaled = scale_accumulator(accumulators[row, column], a_scale, b_scales[c, j + column])
            result[row, column] = narrow(activate(scaled + biases[c, j + column], activation), storage, real)
    return False


@scalar
def finish_quantized(
    accumulators: Any, rows: Any, p: int, i: int, columns: Any, c: int, j: int, settings: Any, result: Any
) -> bool:
    """saturate(round(f32(f32(acc + bias)·m)) + y_zero_point) with m = f32(f32(a_scale·b_scale) / y_scale)."""
    a_scales, y_scales, y_zero_points = rows
    b_scales, biases = columns
    qmin, qmax, activation, rounding = settings
    storage = result.dtype.type
    for row in range(result.shape[0]):
        a_scale, y_scale, zero_point = a_scales[p, i + row], y_scales[p, i + row], y_zero_points[p, i + row]
        low = np.float32(lowest_code(qmin, zero_point, activation) - zero_point)
        high = np.float32(highest_code(qmax, zero_point, y_scale, activation) - zero_point)
        for column in range(result.shape[1]):
            multiplier = requantize_multiplier(a_scale, b_scales[c, j + column], y_scale)
            offset = requantize_float(
                accumulators[row, column] + biases[c, j + column], multiplier, low, high, rounding
            )
            result[row, column] = storage(np.int64(offset) + zero_point)
    return False
