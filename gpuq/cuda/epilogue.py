"""What becomes of a thread's exact sums while they are in registers: int32, scaled real numbers, or 8-bit codes.

A finish is made of these functions:

    row(rows, i, settings)                        what all sums of a row share, from the row parameters at index i
    column(columns, j)                            the same for a column
    keep(row, place, step), kept(place, step)     bring what is of a row to shared memory and back, a word every `step`
                                                  bytes
    keep_column(column, place, step)              the same for a column …
    column_of(words, first, j)                    … of four neighbours, whose words come together: words[first + j] and
                                                  every fourth from there
    value(accumulator, row, column, settings)     the number to store

and of `bits(value, settings)`, its bits as stored, with `size` bytes. rows and columns are vectors (vectors.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuq.arithmetic import (
    BFLOAT16,
    INT32_MAX,
    INT32_MIN,
    bits_of,
    clip,
    float_of,
    highest_code,
    lowest_code,
    narrow_half,
    requantize_float,
    requantize_multiplier,
    scalar,
    scale_accumulator,
)
from gpuq.cuda import ptx
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.vectors import make_fetch, vector_type
from gpuq.curves import curve

FLOATS, INTEGERS = vector_type(types.float32), vector_type(types.int32)
_load_float, _store_float = ptx.load_shared[types.float32], ptx.store_shared[types.float32]
_load_integer, _store_integer = ptx.load_shared[types.int32], ptx.store_shared[types.int32]
_fetch_float, _fetch_integer = make_fetch(types.float32), make_fetch(types.int32)


@dataclass(frozen=True)
class Finish:
    """One of the finishes; `rows`, `columns` and `settings` are the types of the kernel's arguments."""

    name: str
    size: int
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    settings: tuple[Any, ...]
    row: Callable[..., Any]
    keep: Callable[..., Any]
    kept: Callable[..., Any]
    column: Callable[..., Any]
    keep_column: Callable[..., Any]
    column_of: Callable[..., Any]
    value: Callable[..., Any]
    bits: Callable[..., Any]


# ---- int32 ----


@scalar
def _nothing_of_row(rows: Any, i: int, settings: Any) -> Any:
    return 0


@scalar
def _keep_nothing(row: Any, place: int, step: int) -> None:
    pass


@scalar
def _kept_nothing(place: int, step: int) -> Any:
    return 0


@scalar
def _nothing_of_column(columns: Any, j: int) -> Any:
    return 0


@scalar
def _column_of_nothing(words: Any, first: int, j: int) -> Any:
    return 0


@scalar
def _same(accumulator: int, row: Any, column: Any, settings: Any) -> Any:
    return accumulator


@scalar
def _integer_bits(value: int, settings: Any) -> Any:
    return np.uint32(value)


@scalar
def leaves_int32(value: int) -> bool:
    """Whether an exact sum does not fit."""
    return value < INT32_MIN or value > INT32_MAX


# ---- real numbers: settings are (activation, half) ----


@scalar
def _scale_of_row(rows: Any, i: int, settings: Any) -> Any:
    return _fetch_float(rows[0], i)


@scalar
def _keep_scale(row: Any, place: int, step: int) -> None:
    _store_float(place, row)


@scalar
def _kept_scale(place: int, step: int) -> Any:
    return _load_float(place)


@scalar
def _scale_and_bias(columns: Any, j: int) -> Any:
    return _fetch_float(columns[0], j), _fetch_float(columns[1], j)


@scalar
def _keep_scale_and_bias(column: Any, place: int, step: int) -> None:
    _store_float(place, column[0])
    _store_float(types.int32(place + step), column[1])


@scalar
def _scale_and_bias_of(words: Any, first: int, j: int) -> Any:
    return float_of(words[first + j]), float_of(words[first + 4 + j])


@scalar
def _clipped(accumulator: int, row: Any, column: Any, settings: Any) -> Any:
    return clip(scale_accumulator(accumulator, row, column[0], column[1]), settings[0])


@scalar
def _curved(accumulator: int, row: Any, column: Any, settings: Any) -> Any:
    return curve(scale_accumulator(accumulator, row, column[0], column[1]), settings[0])


@scalar
def _float_bits(value: Any, settings: Any) -> Any:
    return bits_of(value)


@scalar
def _half_bits(value: Any, settings: Any) -> Any:
    if settings[1] == BFLOAT16:
        return np.uint32(narrow_half(value, BFLOAT16))
    return np.uint32(ptx.half_of_float32(value))


# ---- codes: settings are (qmin, qmax, activation, rounding) ----


@scalar
def _code_range(rows: Any, i: int, settings: Any) -> Any:
    """Scales, zero point and bounds of a row's codes."""
    a_scale, y_scale, zero_point = _fetch_float(rows[0], i), _fetch_float(rows[1], i), _fetch_integer(rows[2], i)
    qmin, qmax, activation, _ = settings
    low = np.float32(lowest_code(qmin, zero_point, activation) - zero_point)
    high = np.float32(highest_code(qmax, zero_point, y_scale, activation) - zero_point)
    return a_scale, y_scale, zero_point, low, high


@scalar
def _keep_code_range(row: Any, place: int, step: int) -> None:
    a_scale, y_scale, zero_point, low, high = row
    _store_float(place, a_scale)
    _store_float(types.int32(place + step), y_scale)
    _store_integer(types.int32(place + 2 * step), zero_point)
    _store_float(types.int32(place + 3 * step), low)
    _store_float(types.int32(place + 4 * step), high)


@scalar
def _kept_code_range(place: int, step: int) -> Any:
    return (
        _load_float(place),
        _load_float(types.int32(place + step)),
        _load_integer(types.int32(place + 2 * step)),
        _load_float(types.int32(place + 3 * step)),
        _load_float(types.int32(place + 4 * step)),
    )


@scalar
def _scale_and_integer_bias(columns: Any, j: int) -> Any:
    return _fetch_float(columns[0], j), types.int32(_fetch_integer(columns[1], j))


@scalar
def _keep_scale_and_integer_bias(column: Any, place: int, step: int) -> None:
    _store_float(place, column[0])
    _store_integer(types.int32(place + step), column[1])


@scalar
def _scale_and_integer_bias_of(words: Any, first: int, j: int) -> Any:
    return float_of(words[first + j]), types.int32(words[first + 4 + j])


@scalar
def _code(accumulator: int, row: Any, column: Any, settings: Any) -> Any:
    a_scale, y_scale, zero_point, low, high = row
    b_scale, bias = column
    multiplier = requantize_multiplier(a_scale, b_scale, y_scale)
    return np.int32(requantize_float(accumulator + types.int64(bias), multiplier, low, high, settings[3])) + zero_point


@scalar
def _code_bits(value: int, settings: Any) -> Any:
    return np.uint32(value) & np.uint32(0xFF)


_REAL_SETTINGS = (types.int32, types.int32)
_REAL = (
    (FLOATS,),
    (FLOATS, FLOATS),
    _REAL_SETTINGS,
    _scale_of_row,
    _keep_scale,
    _kept_scale,
    _scale_and_bias,
    _keep_scale_and_bias,
    _scale_and_bias_of,
)
FINISHES = {
    finish.name: finish
    for finish in (
        Finish(
            "int32",
            4,
            (),
            (),
            (),
            _nothing_of_row,
            _keep_nothing,
            _kept_nothing,
            _nothing_of_column,
            _keep_nothing,
            _column_of_nothing,
            _same,
            _integer_bits,
        ),
        Finish("float32", 4, *_REAL, _clipped, _float_bits),
        Finish("half", 2, *_REAL, _clipped, _half_bits),
        Finish("curved_float32", 4, *_REAL, _curved, _float_bits),
        Finish("curved_half", 2, *_REAL, _curved, _half_bits),
        Finish(
            "quantized",
            1,
            (FLOATS, FLOATS, INTEGERS),
            (FLOATS, INTEGERS),
            (types.int32,) * 4,
            _code_range,
            _keep_code_range,
            _kept_code_range,
            _scale_and_integer_bias,
            _keep_scale_and_integer_bias,
            _scale_and_integer_bias_of,
            _code,
            _code_bits,
        ),
    )
}
