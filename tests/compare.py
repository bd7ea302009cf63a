"""Assertions about arrays: same type, same shape, same bits. They say what is wrong and where, and return nothing."""
from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.dtypes import REAL, type_name

SHOWN = 8  # differing elements, rows and columns that a message names

Array = npt.NDArray[Any]


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Assert that two NumPy arrays (or scalars) have the same dtype, shape and values, bit for bit.

    Integers are compared as integers. Real numbers are the same if their bits are, so -0.0 differs from 0.0; any NaN is
    the same as any other NaN. `what` opens the message.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    opening = f"{what}: " if what else ""
    assert actual.dtype == expected.dtype, f"{opening}dtype is {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{opening}shape is {actual.shape}, expected {expected.shape}"
    different = _different(actual, expected)
    assert not different.any(), opening + _describe(actual, expected, different)


def assert_all_same(actual: tuple[Any, ...], expected: tuple[Any, ...], what: str = "") -> None:
    """`assert_same` of each pair of two tuples of one length."""
    assert len(actual) == len(expected), f"{what}: {len(actual)} results, expected {len(expected)}"
    for position, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert_same(one, other, f"{what} result {position}".strip())


def assert_within_ulp(actual: Any, expected: Any, ulp: int, what: str = "") -> None:
    """Assert that float32 arrays agree within `ulp` units in the last place, NaN in the same places.

    The distance counts the float32 numbers between two values; 0.0 and -0.0 are one number.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.float32, f"{what}: dtypes {actual.dtype} and {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape is {actual.shape}, expected {expected.shape}"
    nan = np.isnan(expected)
    far = np.abs(_position(actual) - _position(expected)) > ulp
    different = (np.isnan(actual) != nan) | (far & ~nan)
    assert not different.any(), f"{what}: further apart than {ulp} ulp: " + _describe(actual, expected, different)


def _position(values: Array) -> Array:
    """The place of every float32 in the order of all of them, as int64; 0 for both zeros."""
    bits = np.ascontiguousarray(values).view(np.int32).reshape(values.shape).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _different(actual: Array, expected: Array) -> Array:
    """Where two arrays of one dtype and shape differ."""
    if type_name(actual.dtype) not in REAL:
        return np.asarray(actual.astype(np.int64) != expected.astype(np.int64))
    both_nan = np.isnan(actual) & np.isnan(expected)
    return np.asarray((_bits(actual) != _bits(expected)) & ~both_nan)


def _bits(values: Array) -> Array:
    native = np.array(values, dtype=values.dtype.newbyteorder("="), order="C", copy=True)
    return native.view(f"u{values.dtype.itemsize}")


def _describe(actual: Array, expected: Array, different: Array) -> str:
    """How many elements differ, the first of them with both values, of matrices also the bad rows, columns, region."""
    places = np.argwhere(different)
    lines = [f"{len(places)} of {different.size} elements differ (shape {different.shape}, {actual.dtype})"]
    for place in places[:SHOWN]:
        index = tuple(int(i) for i in place)
        lines.append(f"  {index}: {actual[index]!r}, expected {expected[index]!r}")
    if len(places) > SHOWN:
        lines.append(f"  and {len(places) - SHOWN} more")
    if different.ndim >= 2:
        lines.append(_list("rows", places[:, -2], different.shape[-2]))
        lines.append(_list("columns", places[:, -1], different.shape[-1]))
        low, high = places.min(axis=0), places.max(axis=0) + 1
        box = different[tuple(slice(first, last) for first, last in zip(low, high, strict=True))]
        spans = ", ".join(f"{first}:{last}" for first, last in zip(low, high, strict=True))
        lines.append(f"  all within [{spans}], of which {100 * len(places) / box.size:.0f} % differ")
    return "\n".join(lines)


def _list(what: str, indices: Array, length: int) -> str:
    bad = np.unique(indices)
    names = ", ".join(str(i) for i in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
    return f"  {what}: {len(bad)} of {length} bad: {names}"
