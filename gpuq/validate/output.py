"""`out`: where a result is to go, if the caller says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuq.arrays import View
from gpuq.dtypes import QUANTIZED, dtype_name
from gpuq.layout import Shape
from gpuq.validate.numbers import Array
from gpuq.validate.refusal import kind_of, refuse

OVERLAP_WORK: Any = 10_000  # steps of NumPy's exact test before an overlap is assumed


def output(out: Any, shape: Shape, kind: str, inputs: Mapping[str, object], in_place: str | None = None) -> None:
    """Refuse an `out` that is not of the result's shape and type, writable, and overlapping no input (but that named
    `in_place` may be it).
    """
    if type(out) is not View:
        refuse(TypeError, "out", kind_of(out), f"an array of {kind}")
    coded = kind in QUANTIZED and not isinstance(out.owner, np.ndarray)
    names = (kind, dtype_name(QUANTIZED[kind].storage)) if coded else (kind,)
    if out.type not in names or not out.array.dtype.isnative:
        refuse(TypeError, "out", f"an array of {out.array.dtype if out.type in names else out.type}", f"native {kind}")
    if out.shape != shape:
        refuse(ValueError, "out", f"shape {out.shape}", f"shape {shape}")
    if not (out.writable and out.array.flags.writeable):
        refuse(ValueError, "out", "a read-only array", "a writable array")
    if _overlaps_itself(out.array):
        refuse(ValueError, "out", f"an array whose elements overlap (strides {out.array.strides})", "distinct elements")
    for argument, given in inputs.items():
        if type(given) is not View or given.device != out.device or not _overlap(out.array, given.array):
            continue
        if argument != in_place or not _same(out.array, given.array):
            refuse(ValueError, "out", f"an array that overlaps {argument}", "memory of its own")


def _overlap(first: Array, second: Array) -> bool:
    if not np.may_share_memory(first, second):
        return False
    try:
        return np.shares_memory(first, second, max_work=OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def _same(first: Array, second: Array) -> bool:
    return first.__array_interface__["data"] == second.__array_interface__["data"] and first.strides == second.strides


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory: true unless each stride steps over all that the smaller ones reach."""
    if array.flags.c_contiguous:
        return False
    reach = array.itemsize
    for step, count in sorted(
        (abs(step), count) for step, count in zip(array.strides, array.shape, strict=True) if count > 1
    ):
        if step < reach:
            return array.size > 0
        reach += step * (count - 1)
    return False
