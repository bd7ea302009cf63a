"""float16 and bfloat16 arithmetic, scalar and packed in pairs: add, sub, mul, fma, min, max, neg, abs.

Values are widened to float64, where sums and products are exact or rounded to odd, and rounded once to 16 bits.
Source: PTX ISA, "Half Precision Floating Point Instructions". Results that are NaN are 0x7fff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedError
from ..semantics import Semantics, expect_type, read_modifiers, simple
from ..syntax import Instruction
from . import floating, rounding

Array = npt.NDArray[Any]
TYPES = {"f16", "bf16", "f16x2", "bf16x2"}
NAN = np.int16(0x7FFF)


def decode(bits: Array, kind: str) -> Array:
    """16-bit patterns (any integer or float16 array) as float64: one value per half, the lower half first."""
    halves = np.ascontiguousarray(bits).view(np.uint16)
    if kind.startswith("bf"):
        return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return halves.view(np.float16).astype(np.float64)


def encode(value: Array, kind: str) -> Array:
    """float64 rounded once to nearest, ties to even, as int16 patterns."""
    if kind.startswith("bf"):
        wide = rounding.narrow(value, "odd").view(np.uint32)
        bits = (wide + np.uint32(0x7FFF) + (wide >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)).astype(np.uint16)
        bits = bits.view(np.int16)
    else:
        bits = value.astype(np.float16).view(np.int16)
    return np.where(np.isnan(value), NAN, bits)


def _product(a: Array, b: Array) -> Array:
    return a * b


OPERATIONS: dict[str, tuple[int, Callable[..., Array]]] = {
    "add": (2, rounding.odd_sum),
    "sub": (2, lambda a, b: rounding.odd_sum(a, -b)),
    "mul": (2, _product),
    "fma": (3, lambda a, b, c: rounding.odd_sum(a * b, c)),
    "min": (2, floating.smaller),
    "max": (2, floating.larger),
}


def arithmetic(instruction: Instruction) -> Semantics:
    """Every operation of OPERATIONS, .rn, .sat, .relu and (min, max) .NaN."""
    (kind,), (_, clamp, relu, propagate) = read_modifiers(instruction, {"rn"}, {"sat"}, {"relu"}, {"NaN"})
    expect_type(instruction, kind, TYPES)
    count, operation = OPERATIONS[instruction.opcode]

    def evaluate(*packed: Array) -> Array:
        values = [decode(each, kind) for each in np.broadcast_arrays(*packed)]
        result = operation(*values)
        if propagate:
            result = np.where(np.isnan(values[0]) | np.isnan(values[1]), np.nan, result)
        if clamp:
            result = rounding.saturate(result)
        if relu:
            result = np.where(result > 0, result, np.where(np.isnan(result), result, 0.0))
        return encode(result, kind).view(packed[0].dtype)

    return simple(instruction, kind, [kind] * count, evaluate)


def sign(instruction: Instruction) -> Semantics:
    """neg and abs: the sign bits alone."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, TYPES)
    if instruction.opcode not in ("neg", "abs"):
        raise UnsupportedError(f"{instruction}: not known for .{kind}")
    bits = 32 if kind.endswith("x2") else 16
    signs = np.array([0x8000_8000 if bits == 32 else 0x8000], f"u{bits // 8}")
    if instruction.opcode == "neg":
        return simple(instruction, f"u{bits}", [f"u{bits}"], lambda a: a ^ signs)
    return simple(instruction, f"u{bits}", [f"u{bits}"], lambda a: a & ~signs)
