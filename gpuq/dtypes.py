"""The element types gpuq knows, by name: what a code may be, what a real number may be, and how each is stored.

Every other module speaks of types by the names below ("int8", "bfloat16", …), so that NumPy, ml_dtypes and torch
types meet in one place: `type_name` reads any of them, `numpy_dtype` gives the NumPy type a caller sees, `storage`
the one kernels see (int4 in an int8, one code per byte; float16 and bfloat16 as the uint16 of their bits).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class QuantizedType:
    """A type of codes: the integers `qmin … qmax`."""

    name: str
    bits: int
    signed: bool

    @functools.cached_property
    def qmin(self) -> int:
        """The lowest integer of the type."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @functools.cached_property
    def qmax(self) -> int:
        """The highest integer of the type."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @functools.cached_property
    def storage(self) -> np.dtype[Any]:
        """The NumPy type that holds one code."""
        return np.dtype(f"{'int' if self.signed else 'uint'}{max(self.bits, 8)}")

    def lowest(self, narrow_range: bool) -> int:
        """The lowest code in use: narrow range drops `qmin`."""
        return self.qmin + 1 if narrow_range else self.qmin


@dataclass(frozen=True)
class RealType:
    """A type of real numbers."""

    name: str
    storage: np.dtype[Any]


QUANTIZED: dict[str, QuantizedType] = {
    f"{'' if signed else 'u'}int{bits}": QuantizedType(f"{'' if signed else 'u'}int{bits}", bits, signed)
    for bits in (4, 8, 16, 32)
    for signed in (True, False)
}
REAL: dict[str, RealType] = {
    "float32": RealType("float32", np.dtype(np.float32)),
    "float64": RealType("float64", np.dtype(np.float64)),
    "float16": RealType("float16", np.dtype(np.uint16)),
    "bfloat16": RealType("bfloat16", np.dtype(np.uint16)),
}
STORAGE = {name: kind.storage for kinds in (QUANTIZED, REAL) for name, kind in kinds.items()}
NEEDS_ML_DTYPES = ("int4", "uint4", "bfloat16")
_NUMPY_TYPES = {name: np.dtype(name) for name in (*QUANTIZED, *REAL) if name not in NEEDS_ML_DTYPES}
_SCALARS = {dtype.type: name for name, dtype in _NUMPY_TYPES.items()}


def type_name(dtype: Any) -> str | None:
    """The name of a type given as a string, a NumPy, ml_dtypes or torch type; None if it is no type at all."""
    if isinstance(dtype, str):
        return dtype
    if str(dtype).startswith("torch."):
        return str(dtype)[len("torch.") :]
    if dtype is None:
        return None
    try:
        return dtype_name(np.dtype(dtype))
    except TypeError:
        return None


@functools.cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """`dtype.name`, which NumPy composes anew each time."""
    return dtype.name


def scalar_name(value: object) -> str | None:
    """The element type's name of a NumPy or ml_dtypes scalar; None for anything else."""
    name = _SCALARS.get(type(value))
    if name is None and isinstance(value, np.generic):
        return dtype_name(value.dtype)
    return name


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of that name, from ml_dtypes where NumPy has none.

    Raises
    ------
    TypeError
        For int4, uint4 and bfloat16 where ml_dtypes is not installed.
    """
    if name in _NUMPY_TYPES:
        return _NUMPY_TYPES[name]
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(f"dtype: NumPy arrays of {name} need the package ml-dtypes: pip install 'gpuq[ml]'") from None
    return np.dtype(getattr(ml_dtypes, name))
