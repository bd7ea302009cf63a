"""What becomes of a block of exact accumulators while it is in the cache: int32, scaled real numbers, or 8-bit codes.

Every `finish` takes the block, the epilogue's parameters per row and per column, the block's place (row p of the row
parameters and rows i … i_end of the result, row c of the column parameters and columns j … j_end; how many columns of
the block lie before those), settings, and the result; it returns whether a value did not fit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.arithmetic import (
    GELU,
    INT32_MAX,
    INT32_MIN,
    clip,
    highest_code,
    lowest_code,
    narrow,
    requantize_float,
    requantize_multiplier,
    scalar,
    scale_accumulator,
)
from gpuq.curves import gelu, silu


@scalar
def finish_int32(block: Any, rows: Any, columns: Any, place: Any, settings: Any, result: Any) -> bool:
    """The accumulators themselves."""
    p, i, i_end, c, j, j_end, skipped = place
    overflow = False
    for row in range(i_end - i):
        accumulators, target = block[row][skipped:], result[i + row, j:j_end]
        for column in range(target.shape[0]):
            value = accumulators[column]
            overflow |= value < INT32_MIN or value > INT32_MAX
            target[column] = value
    return overflow


@scalar
def finish_scaled(block: Any, rows: Any, columns: Any, place: Any, settings: Any, result: Any) -> bool:
    """act(f32(f32(f32(acc)·f32(a_scale·b_scale)) + bias)), cast to the result's type."""
    p, i, i_end, c, j, j_end, skipped = place
    a_scale, b_scale, bias = rows[0][p], columns[0][c, j:j_end], columns[1][c, j:j_end]
    activation, real = settings
    storage = result.dtype.type
    for row in range(i_end - i):
        accumulators, target, own_scale = block[row][skipped:], result[i + row, j:j_end], a_scale[i + row]
        if activation < GELU:
            for column in range(target.shape[0]):
                scaled = scale_accumulator(accumulators[column], own_scale, b_scale[column], bias[column])
                target[column] = narrow(clip(scaled, activation), storage, real)
        elif activation == GELU:
            for column in range(target.shape[0]):
                scaled = scale_accumulator(accumulators[column], own_scale, b_scale[column], bias[column])
                target[column] = narrow(gelu(scaled), storage, real)
        else:
            for column in range(target.shape[0]):
                scaled = scale_accumulator(accumulators[column], own_scale, b_scale[column], bias[column])
                target[column] = narrow(silu(scaled), storage, real)
    return False


@scalar
def finish_quantized(block: Any, rows: Any, columns: Any, place: Any, settings: Any, result: Any) -> bool:
    """saturate(round(f32(f32(acc + bias)·m)) + y_zero_point) with m = f32(f32(a_scale·b_scale) / y_scale)."""
    p, i, i_end, c, j, j_end, skipped = place
    a_scales, y_scales, y_points = rows[0][p], rows[1][p], rows[2][p]
    b_scale, bias = columns[0][c, j:j_end], columns[1][c, j:j_end]
    qmin, qmax, activation, rounding = settings
    storage = result.dtype.type
    for row in range(i_end - i):
        accumulators, target = block[row][skipped:], result[i + row, j:j_end]
        a_scale, y_scale, zero_point = a_scales[i + row], y_scales[i + row], y_points[i + row]
        low = np.float32(lowest_code(qmin, zero_point, activation) - zero_point)
        high = np.float32(highest_code(qmax, zero_point, y_scale, activation) - zero_point)
        for column in range(target.shape[0]):
            multiplier = requantize_multiplier(a_scale, b_scale[column], y_scale)
            offset = requantize_float(accumulators[column] + bias[column], multiplier, low, high, rounding)
            target[column] = storage(np.int32(offset) + zero_point)
    return False
