"""Where two results differ: bit for bit, a NaN equal to every NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.dtypes import QUANTIZED, type_name


def first_difference(expected: Any, actual: Any, ulp: int = 0) -> str | None:
    """Say where two arrays, or two tuples of arrays, first differ; None where they do not.

    Parameters
    ----------
    expected, actual : array or tuple of arrays
        Equal in type and shape, else that is the difference.
    ulp : int
        Float32 values that many units in the last place apart count as equal.
    """
    if isinstance(expected, tuple):
        pairs = zip(expected, actual, strict=True)
        found = (first_difference(one, other, ulp) for one, other in pairs)
        return next((f"result {part}: {text}" for part, text in enumerate(found) if text), None)
    expected, actual = np.asarray(expected), np.asarray(actual)
    for what in ("dtype", "shape"):
        if getattr(expected, what) != getattr(actual, what):
            return f"{what}: expected {getattr(expected, what)}, got {getattr(actual, what)}"
    wrong = np.argwhere(_distance(expected, actual) > ulp)
    if len(wrong) == 0:
        return None
    index = tuple(int(i) for i in wrong[0])
    return f"{len(wrong)} of {expected.size} differ, first {index}: expected {expected[index]}, got {actual[index]}"


def _distance(expected: Any, actual: Any) -> Any:
    """How many numbers of their type lie between two arrays, element by element; NaN is at 0 from NaN alone."""
    if type_name(expected.dtype) in QUANTIZED:
        return np.abs(expected.astype(np.int64) - actual.astype(np.int64))
    nan, other_nan = np.isnan(expected), np.isnan(actual)
    place, other = _place(expected), _place(actual)
    apart = np.maximum(np.abs(place - other), place != other)  # a float64's subtraction may wrap, the comparison cannot
    return np.where(nan | other_nan, np.where(nan & other_nan, 0, np.iinfo(np.int64).max), apart)


def _place(values: Any) -> Any:
    """The place of each float among all of its type in order, -0.0 just below 0.0."""
    bits = np.dtype(f"i{values.dtype.itemsize}")
    signed = values.view(bits).astype(np.int64)
    return np.where(signed < 0, np.iinfo(bits).min - signed - 1, signed)
