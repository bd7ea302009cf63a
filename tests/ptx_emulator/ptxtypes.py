"""PTX's scalar types as NumPy dtypes: how a register keeps its bits and how an instruction reads them.

A register keeps integers and untyped bits in the signed dtype of its width, .f32 and .f64 in the float dtype, .f16 and
.bf16 as int16 bits, predicates as bool. An instruction of another type of that width reads a view.
Source: PTX ISA, "Fundamental Types" and "Operand Size Exceeding Instruction-Type Size".
"""

from __future__ import annotations

import numpy as np

BITS: dict[str, int] = {
    **{f"{kind}{bits}": bits for kind in "bsu" for bits in (8, 16, 32, 64)},
    "f16": 16,
    "bf16": 16,
    "f16x2": 32,
    "bf16x2": 32,
    "f32": 32,
    "f64": 64,
    "pred": 1,
}
SIGNED: dict[int, np.dtype] = {bits: np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)}
UNSIGNED: dict[int, np.dtype] = {bits: np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)}


def dtype_of(name: str) -> np.dtype:
    """The dtype in which an instruction of type `name` sees a value (.bf16 and packed types: as signed bits)."""
    if name in ("f16", "f32", "f64"):
        return np.dtype(f"float{BITS[name]}")
    if name == "pred":
        return np.dtype(bool)
    return UNSIGNED[BITS[name]] if name[0] == "u" else SIGNED[BITS[name]]


def register_dtype(name: str) -> np.dtype:
    """The dtype in which a register declared with type `name` keeps its value."""
    if name in ("f32", "f64", "pred"):
        return dtype_of(name)
    return SIGNED[BITS[name]]


def is_float(name: str) -> bool:
    """Whether `name` is one of the float types, packed ones included."""
    return name.startswith(("f", "bf"))
