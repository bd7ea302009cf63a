"""cvt between all integer and float types, packed pairs, and cvt.pack.

Source: PTX ISA, "Data Movement and Conversion Instructions: cvt, cvt.pack". float → integer clamps to the result type;
NaN gives 0, but the result's lowest bit pattern 100…0 where the source is float64 or the result has 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedError
from ..ptxtypes import BITS, dtype_of, is_float
from ..semantics import Semantics, expect_operands, read_modifiers, simple
from ..syntax import Instruction
from . import half, rounding

Array = npt.NDArray[Any]
Convert = Callable[[Array], Array]
WHOLE: dict[str, Convert] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
HALVES = {"f16", "bf16"}


def convert(instruction: Instruction) -> Semantics:
    """cvt in all its forms."""
    if instruction.modifiers[:1] == ("pack",):
        return _pack(instruction)
    types, (mode, flush, clamp, relu) = read_modifiers(
        instruction, rounding.MODES | set(WHOLE), {"ftz"}, {"sat"}, {"relu"}
    )
    if len(types) != 2 or relu or "pred" in types:
        raise UnsupportedError(f"{instruction}: this form of cvt is not known")
    target, source = types
    if target.endswith("x2") and source == "f32" and mode == "rn":
        return _pair(instruction, target)
    if target.endswith("x2") or source.endswith("x2"):
        raise UnsupportedError(f"{instruction}: this packed form is not known")
    if is_float(source):
        change = _to_float(instruction, target, source, mode) if is_float(target) else _to_integer(target, source, mode)
    else:
        change = _from_integer(target, source, mode) if is_float(target) else _between(target, source, clamp)
    if change is None:
        raise UnsupportedError(f"{instruction}: rounding .{mode} is not known here")
    return simple(instruction, target, [source], _dressed(change, target, source, flush, clamp))


def _dressed(change: Convert, target: str, source: str, flush: str, clamp: str) -> Convert:
    """`change` with .ftz on float32 operands and results, and .sat on float results."""
    clamp = clamp if is_float(target) else ""
    if clamp and target in HALVES:
        return lambda value: half.encode(rounding.saturate(half.decode(change(value), target)), target)

    def dressed(value: Array) -> Array:
        value = rounding.flush(value) if flush and source == "f32" else value
        result = rounding.canonical(change(value))
        result = rounding.flush(result) if flush and target == "f32" else result
        return rounding.saturate(result) if clamp else result

    return dressed


def _between(target: str, source: str, clamp: str) -> Convert:
    """Integer to integer: extended by the source's sign or truncated; .sat clamps to the target."""
    dtype, have = dtype_of(target), np.iinfo(dtype_of(source))
    if not clamp:
        return lambda value: value.astype(dtype)
    limits = np.iinfo(dtype)
    low, high = max(int(limits.min), int(have.min)), min(int(limits.max), int(have.max))
    return lambda value: np.clip(value, have.dtype.type(low), have.dtype.type(high)).astype(dtype)


def _jammed(value: Array) -> Array:
    """Integers as float64, rounded to odd: bits below the 53rd are kept as one sticky bit."""
    if value.dtype.itemsize < 8:
        return value.astype(np.float64)
    low, limit = value.dtype.type(0x7FF), value.dtype.type(1 << 53)
    sticky = ((value & low) != 0).astype(value.dtype) << value.dtype.type(11)
    large = (value >= limit) | (value < -limit) if value.dtype.kind == "i" else value >= limit
    return np.where(large, value & ~low | sticky, value).astype(np.float64)


def _from_integer(target: str, source: str, mode: str) -> Convert | None:
    """Integer to float, rounded once."""
    if mode not in rounding.MODES:
        return None
    if target in HALVES:
        return (lambda value: half.encode(_jammed(value), target).view(dtype_of(target))) if mode == "rn" else None
    if target == "f64":
        exact = BITS[source] < 64 or mode == "rn"
        return (lambda value: value.astype(np.float64)) if exact else None
    if mode == "rn":
        return lambda value: value.astype(np.float32)
    return lambda value: rounding.narrow(_jammed(value), mode)


def _to_integer(target: str, source: str, mode: str) -> Convert | None:
    """Float to integer: rounded to a whole number, clamped, NaN by the rule in the file's docstring."""
    if mode not in WHOLE:
        return None
    whole, dtype = WHOLE[mode], dtype_of(target)
    limits = np.iinfo(dtype)
    wide = BITS[target] == 64
    lowest = 1 << BITS[target] - 1
    nan = np.array([lowest if source == "f64" or wide else 0], f"u{dtype.itemsize}").view(dtype)
    low, high = float(limits.min), float(limits.max)

    def change(value: Array) -> Array:
        value = half.decode(value, source) if source in HALVES else value.astype(np.float64)
        rounded = whole(value)
        unordered = np.isnan(rounded)
        inside = np.clip(rounded, low, high)
        if wide:
            over = inside >= high
            inside = np.where(over | unordered, 0.0, inside)
            result = np.where(over, dtype.type(limits.max), inside.astype(dtype))
        else:
            result = inside.astype(dtype) if not unordered.any() else np.where(unordered, 0.0, inside).astype(dtype)
        return np.where(unordered, nan, result) if unordered.any() else result

    return change


def _to_float(instruction: Instruction, target: str, source: str, mode: str) -> Convert | None:
    """Float to float: exact when widening, rounded once when narrowing, to whole numbers with .rni … .rpi."""
    if mode in WHOLE:
        return WHOLE[mode] if target == source and target in ("f32", "f64") else None
    if target == source:
        return (lambda value: value) if mode == "" and target not in HALVES else None
    if source in HALVES:
        wide = np.float32 if target == "f32" else np.float64
        exact = mode == "" and target in ("f32", "f64")
        return (lambda value: half.decode(value, source).astype(wide)) if exact else None
    if target in HALVES:
        dtype = dtype_of(target)
        return (lambda value: half.encode(value.astype(np.float64), target).view(dtype)) if mode == "rn" else None
    if target == "f64":
        return (lambda value: value.astype(np.float64)) if mode == "" else None
    return (lambda value: rounding.narrow(value, mode)) if mode else None


def _pair(instruction: Instruction, target: str) -> Semantics:
    """cvt.rn.{f16x2,bf16x2}.f32 d, a, b: a in the upper half, b in the lower."""

    def evaluate(a: Array, b: Array) -> Array:
        halves = np.stack([half.encode(each.astype(np.float64), target) for each in np.broadcast_arrays(b, a)], axis=1)
        return halves.view(np.int32).reshape(-1)

    return simple(instruction, "b32", ["f32", "f32"], evaluate)


PACKED = {f"{sign}{bits}": (sign, bits) for sign in "su" for bits in (2, 4, 8, 16)}


def _pack(instruction: Instruction) -> Semantics:
    """cvt.pack.sat.type.s32[.b32] d, a, b[, c]: saturated b in the lowest bits, a above it, c's low bits above both."""
    words = instruction.modifiers
    if (
        words[1:2] != ("sat",)
        or words[2:3] == ()
        or words[2] not in PACKED
        or words[3:] not in (("s32",), ("s32", "b32"))
    ):
        raise UnsupportedError(f"{instruction}: this form of cvt.pack is not known")
    sign, bits = PACKED[words[2]]
    with_c = len(words) == 5
    if with_c == (bits == 16):
        raise UnsupportedError(f"{instruction}: 16-bit results take no third operand, smaller ones need it")
    expect_operands(instruction, 4 if with_c else 3)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if sign == "s" else (0, (1 << bits) - 1)
    mask, one, two = np.uint32((1 << bits) - 1), np.uint32(bits), np.uint32(2 * bits)

    def evaluate(a: Array, b: Array, *c: Array) -> Array:
        upper, lower = (np.clip(each, np.int32(low), np.int32(high)).view(np.uint32) & mask for each in (a, b))
        packed = upper << one | lower
        return packed | c[0] << two if c else packed

    return simple(instruction, "u32", ["s32", "s32", "u32"][: len(words) - 2], evaluate)
