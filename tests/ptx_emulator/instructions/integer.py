"""Integer arithmetic and comparison: add … mad, dp4a, min, max, setp, selp.

Source: PTX ISA, "Integer Arithmetic Instructions" and "Comparison and Selection Instructions".
Integers wrap modulo 2^width, so add, sub and the low half of mul are the same for signed and unsigned registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedError
from ..ptxtypes import BITS, SIGNED, UNSIGNED, dtype_of
from ..semantics import Semantics, expect_operands, expect_type, read_modifiers, simple
from ..syntax import Instruction

Array = npt.NDArray[Any]
INTEGERS = {f"{sign}{bits}" for sign in "su" for bits in (16, 32, 64)}


def _saturating(operation: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """add.sat or sub.sat on int32, computed in int64."""
    limits = np.iinfo(np.int32)

    def evaluate(a: Array, b: Array) -> Array:
        return np.clip(operation(a.astype(np.int64), b.astype(np.int64)), limits.min, limits.max).astype(np.int32)

    return evaluate


def add_sub(instruction: Instruction) -> Semantics:
    """add and sub, .sat for s32. Carry chains raise: Numba does not emit them."""
    (kind,), (saturate,) = read_modifiers(instruction, {"sat"})
    expect_type(instruction, kind, INTEGERS)
    operation = np.add if instruction.opcode == "add" else np.subtract
    if saturate:
        expect_type(instruction, kind, {"s32"})
        return simple(instruction, kind, [kind, kind], _saturating(operation))
    plain = f"b{BITS[kind]}"
    return simple(instruction, plain, [plain, plain], operation)


def high_product(a: Array, b: Array) -> Array:
    """The upper half of the exact product of two arrays of one integer dtype."""
    bits = a.dtype.itemsize * 8
    if bits < 64:
        table = SIGNED if a.dtype.kind == "i" else UNSIGNED
        wide = table[bits * 2]
        return (a.astype(wide) * b.astype(wide) >> wide.type(bits)).astype(a.dtype)
    low = np.uint64(0xFFFF_FFFF)
    half = np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    cross = x0 * y1 + (middle & low)
    high = x1 * y1 + (middle >> half) + (cross >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def wide_product(a: Array, b: Array) -> Array:
    """The exact product in twice the width."""
    wide = (SIGNED if a.dtype.kind == "i" else UNSIGNED)[a.dtype.itemsize * 16]
    return a.astype(wide) * b.astype(wide)


PRODUCTS: dict[str, Callable[[Array, Array], Array]] = {"lo": np.multiply, "hi": high_product, "wide": wide_product}


def multiply(instruction: Instruction) -> Semantics:
    """mul and mad with .lo, .hi and .wide, and mul24/mad24's absence: those raise."""
    (kind,), (part,) = read_modifiers(instruction, set(PRODUCTS))
    expect_type(instruction, kind, INTEGERS)
    if not part or (part == "wide" and kind[1:] == "64"):
        raise UnsupportedError(f"{instruction}: needs .lo, .hi or .wide of a type that has it")
    product = PRODUCTS[part]
    if part == "lo":
        kind = f"b{BITS[kind]}"
    result = f"{kind[0]}{BITS[kind] * 2}" if part == "wide" else kind
    if instruction.opcode == "mul":
        return simple(instruction, result, [kind, kind], product)
    return simple(instruction, result, [kind, kind, result], lambda a, b, c: product(a, b) + c)


def divide(instruction: Instruction) -> Semantics:
    """div and rem, truncating toward zero; division by zero gives all ones (quotient) or the dividend, as GPUs do."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, INTEGERS)
    rest = instruction.opcode == "rem"

    def evaluate(a: Array, b: Array) -> Array:
        safe = np.where(b == 0, b.dtype.type(1), b)
        quotient = a // safe
        if kind[0] == "s":
            quotient = quotient + ((quotient * safe != a) & ((a < 0) != (safe < 0)))
        quotient = quotient.astype(a.dtype)
        if rest:
            return np.where(b == 0, a, a - quotient * safe)
        return np.where(b == 0, ~b.dtype.type(0), quotient)

    return simple(instruction, kind, [kind, kind], evaluate)


def extreme(instruction: Instruction) -> Semantics:
    """min and max, .relu for s32."""
    (kind,), (relu,) = read_modifiers(instruction, {"relu"})
    expect_type(instruction, kind, INTEGERS)
    operation = np.minimum if instruction.opcode == "min" else np.maximum
    if relu:
        expect_type(instruction, kind, {"s32"})
        return simple(instruction, kind, [kind, kind], lambda a, b: np.maximum(operation(a, b), np.int32(0)))
    return simple(instruction, kind, [kind, kind], operation)


def unary(instruction: Instruction) -> Semantics:
    """neg and abs; the most negative number stays itself."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"s16", "s32", "s64"})
    return simple(instruction, kind, [kind], np.negative if instruction.opcode == "neg" else np.abs)


def absolute_difference(instruction: Instruction) -> Semantics:
    """sad: c + |a - b|."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, INTEGERS)

    def evaluate(a: Array, b: Array, c: Array) -> Array:
        return c + np.where(a < b, b - a, a - b)

    return simple(instruction, kind, [kind, kind, kind], evaluate)


def dot_product(instruction: Instruction) -> Semantics:
    """dp4a (4 bytes by 4 bytes) and dp2a (2 halves by the .lo or .hi 2 bytes), any mix of signs, wrapping int32 sum."""
    types, (half,) = read_modifiers(instruction, {"lo", "hi"})
    four = instruction.opcode == "dp4a"
    if len(types) != 2 or {*types} - {"s32", "u32"} or four == bool(half):
        raise UnsupportedError(f"{instruction}: not a known form")
    first = np.dtype(("i" if types[0][0] == "s" else "u") + ("1" if four else "2"))
    second = np.dtype(("i" if types[1][0] == "s" else "u") + "1")
    columns = slice(2, 4) if half == "hi" else slice(0, 4 if four else 2)
    ones = np.ones(4, np.float32)

    def evaluate_four(a: Array, b: Array, c: Array) -> Array:
        """The same for dp4a by a product of matrices, quicker and exact: below 4 · 255² < 2^24."""
        left, right = np.ascontiguousarray(a).view(first), np.ascontiguousarray(b).view(second)
        if a.size != b.size:
            left, right = left.reshape(-1, 4), right.reshape(-1, 4)
        products = np.multiply(left, right, dtype=np.float32)
        return c + (products.reshape(-1, 4) @ ones).astype(np.int32)

    def evaluate(a: Array, b: Array, c: Array) -> Array:
        left = np.ascontiguousarray(a).view(first).reshape(len(a), -1).astype(np.int32)
        right = np.ascontiguousarray(b).view(second).reshape(len(b), 4)[:, columns].astype(np.int32)
        return c + (left * right).sum(axis=1, dtype=np.int32)

    return simple(instruction, "b32", ["b32", "b32", "b32"], evaluate_four if four else evaluate)


ORDERED: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def comparison(name: str, kind: str, instruction: Instruction) -> Callable[[Array, Array], Array]:
    """The comparison `name` of two arrays of type `kind`; equ, neu, ltu … are true where either is a NaN."""
    real = kind[0] == "f"
    if name in UNSIGNED_NAMES and kind[0] in "ub":
        return ORDERED[UNSIGNED_NAMES[name]]
    if name == "ne" and real:
        return lambda a, b: (a < b) | (a > b)
    if name in ORDERED:
        return ORDERED[name]
    if real and name in ("num", "nan"):
        unordered = name == "nan"
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == unordered
    if real and name[:-1] in ORDERED and name.endswith("u"):
        ordered = ORDERED[name[:-1]]
        return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)
    raise UnsupportedError(f"{instruction}: comparison .{name} of type .{kind} is not known")


def set_predicate(instruction: Instruction) -> Semantics:
    """setp.<comparison>[.<and|or|xor>][.ftz].type p[|q], a, b[, c]."""
    if not instruction.modifiers:
        raise UnsupportedError(f"{instruction}: no comparison")
    name, *rest = instruction.modifiers
    (kind,), (combine, flush) = read_modifiers(
        Instruction(None, "setp", tuple(rest), instruction.operands, instruction.line, instruction.text),
        set(COMBINE),
        {"ftz"},
    )
    if flush:
        raise UnsupportedError(f"{instruction}: .ftz comparisons are not known")
    expect_type(instruction, kind, INTEGERS | {"b16", "b32", "b64", "f16", "f32", "f64"})
    compare = comparison(name, kind, instruction)
    expect_operands(instruction, 4 if combine else 3)
    first, *sources = instruction.operands
    targets = getattr(first, "parts", (first,))
    types = [kind, kind, "pred"][: len(sources)]

    def evaluate(a: Array, b: Array, *c: Array) -> Array | tuple[Array, Array]:
        result = compare(a, b)
        opposite = ~result
        if combine:
            result, opposite = COMBINE[combine](result, c[0]), COMBINE[combine](opposite, c[0])
        return (result, opposite) if len(targets) == 2 else result

    return Semantics(tuple((each, "pred") for each in targets), tuple(zip(sources, types, strict=True)), evaluate)


def select(instruction: Instruction) -> Semantics:
    """selp: a where the predicate holds, else b; slct: a where c >= 0, else b."""
    types, _ = read_modifiers(instruction)
    if instruction.opcode == "selp":
        (kind,) = types
        return simple(instruction, kind, [kind, kind, "pred"], lambda a, b, p: np.where(p, a, b))
    kind, test = types
    expect_type(instruction, test, {"s32", "f32"})
    zero = dtype_of(test).type(0)
    return simple(instruction, kind, [kind, kind, test], lambda a, b, c: np.where(c >= zero, a, b))
