"""Logic, shifts and bit fields: and … lop3, shl, shr, shf, bfe, bfi, brev, prmt, popc, clz, bfind.

Source: PTX ISA, "Logic and Shift Instructions" and the bit-field part of "Integer Arithmetic Instructions".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedError
from ..ptxtypes import BITS, UNSIGNED, dtype_of
from ..semantics import Semantics, expect_type, read_modifiers, simple
from ..syntax import Immediate, Instruction

Array = npt.NDArray[Any]
UNTYPED = {"b16", "b32", "b64"}
LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def logic(instruction: Instruction) -> Semantics:
    """and, or, xor on bits and predicates."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, UNTYPED | {"pred"})
    return simple(instruction, kind, [kind, kind], LOGIC[instruction.opcode])


def invert(instruction: Instruction) -> Semantics:
    """not on bits and predicates; cnot: 1 for zero, else 0."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, UNTYPED | {"pred"})
    if instruction.opcode == "cnot":
        return simple(instruction, kind, [kind], lambda a: (a == 0).astype(a.dtype))
    return simple(instruction, kind, [kind], np.invert)


def lookup3(instruction: Instruction) -> Semantics:
    """lop3.b32: the truth table in the last operand, bit index 4·a + 2·b + c."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"b32"})
    if not isinstance(instruction.operands[-1], Immediate):
        raise UnsupportedError(f"{instruction}: the table must be a literal")
    table = int(instruction.operands[-1].text, 0)

    def evaluate(a: Array, b: Array, c: Array, _: Array) -> Array:
        result = np.zeros(1, np.int32)
        for index in range(8):
            if table >> index & 1:
                term = (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
                result = result | term
        return result

    return simple(instruction, kind, [kind, kind, kind, "b32"], evaluate)


def shift(instruction: Instruction) -> Semantics:
    """shl and shr; amounts above the width act as the width, .s types shift in the sign."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, UNTYPED | {f"{sign}{bits}" for sign in "su" for bits in (16, 32, 64)})
    bits, left = BITS[kind], instruction.opcode == "shl"
    if not left and kind[0] == "b":
        kind = f"u{bits}"
    dtype = dtype_of(kind)
    amount = instruction.operands[2]
    if isinstance(amount, Immediate) and 0 <= int(amount.text, 0) < bits:
        count = np.array([int(amount.text, 0)], dtype)
        operation = np.left_shift if left else np.right_shift
        return simple(instruction, kind, [kind, "u32"], lambda a, _: operation(a, count))

    def evaluate(a: Array, b: Array) -> Array:
        inside = np.minimum(b, np.uint32(bits - 1)).astype(dtype)
        if left:
            return np.where(b >= bits, dtype.type(0), a << inside)
        beyond = a >> dtype.type(bits - 1) if kind[0] == "s" else dtype.type(0)
        return np.where(b >= bits, beyond, a >> inside)

    return simple(instruction, kind, [kind, "u32"], evaluate)


def funnel(instruction: Instruction) -> Semantics:
    """shf.{l,r}.{wrap,clamp}.b32 d, a, b, c: the pair b:a shifted by c, upper half for l, lower half for r."""
    (kind,), (direction, mode) = read_modifiers(instruction, {"l", "r"}, {"wrap", "clamp"})
    expect_type(instruction, kind, {"b32"})
    if not direction or not mode:
        raise UnsupportedError(f"{instruction}: direction or mode missing")

    def evaluate(a: Array, b: Array, c: Array) -> Array:
        pair = b.astype(np.uint64) << np.uint64(32) | a
        count = (c & np.uint32(31) if mode == "wrap" else np.minimum(c, np.uint32(32))).astype(np.uint64)
        if direction == "r":
            return (pair >> count).astype(np.uint32)
        return (pair << count >> np.uint64(32)).astype(np.uint32)

    return simple(instruction, "u32", ["u32", "u32", "u32"], evaluate)


def extract(instruction: Instruction) -> Semantics:
    """bfe: c bits of a from bit b on, sign-extended for .s types; position and length are taken modulo 256."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"s32", "u32", "s64", "u64"})
    bits, dtype = BITS[kind], dtype_of(kind)

    def evaluate(a: Array, b: Array, c: Array) -> Array:
        position, length = (b & np.uint32(255)).astype(np.int64), (c & np.uint32(255)).astype(np.int64)
        raw, unsigned = a.view(UNSIGNED[bits]), UNSIGNED[bits].type
        inside = np.clip(np.minimum(length, bits - position), 0, bits)  # bits of a that the field really has
        mask = np.where(
            inside == bits, ~unsigned(0), (unsigned(1) << np.minimum(inside, bits - 1).astype(unsigned)) - unsigned(1)
        )
        field = raw >> np.minimum(position, bits - 1).astype(unsigned) & mask
        if kind[0] == "u":
            return field
        top = np.clip(position + length - 1, 0, bits - 1)
        sign = (raw >> top.astype(unsigned) & unsigned(1)).astype(bool) & (length > 0)
        return np.where(sign, field | ~mask, field).view(dtype)

    return simple(instruction, kind, [kind, "u32", "u32"], evaluate)


def insert(instruction: Instruction) -> Semantics:
    """bfi f, a, b, c, d: b with its bits c … c+d-1 replaced by the low bits of a."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"b32", "b64"})
    bits, dtype = BITS[kind], UNSIGNED[BITS[kind]]

    def evaluate(a: Array, b: Array, c: Array, d: Array) -> Array:
        position, length = c & np.uint32(255), d & np.uint32(255)
        one = dtype.type(1)
        ones = np.where(length >= bits, ~dtype.type(0), (one << np.minimum(length, bits - 1).astype(dtype)) - one)
        count = np.minimum(position, bits - 1).astype(dtype)
        mask = np.where(position < bits, ones << count, dtype.type(0))
        return b & ~mask | (a << count) & mask

    return simple(instruction, f"u{bits}", [f"u{bits}", f"u{bits}", "u32", "u32"], evaluate)


def reverse(instruction: Instruction) -> Semantics:
    """brev: the bits back to front."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"b32", "b64"})
    size = BITS[kind] // 8

    def evaluate(a: Array) -> Array:
        rows = np.unpackbits(np.ascontiguousarray(a).view(np.uint8).reshape(len(a), size), axis=1, bitorder="little")
        return np.packbits(rows[:, ::-1], axis=1, bitorder="little").view(a.dtype).reshape(len(a))

    return simple(instruction, kind, [kind], evaluate)


def permute(instruction: Instruction) -> Semantics:
    """prmt.b32 d, a, b, c: bytes of b:a picked by the nibbles of c; a nibble's top bit asks for the byte's sign."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"b32"})

    def evaluate(a: Array, b: Array, c: Array) -> Array:
        if c.size == 1:
            return _permute_alike(a, b, int(c[0]))
        pair = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros(1, np.uint32)
        for index in range(4):
            nibble = c >> np.uint32(4 * index) & np.uint32(15)
            byte = pair >> (nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
            sign = np.where(byte >= 128, np.uint64(255), np.uint64(0))
            byte = np.where(nibble >= 8, sign, byte).astype(np.uint32)
            result = result | byte << np.uint32(8 * index)
        return result

    return simple(instruction, "u32", ["u32", "u32", "u32"], evaluate)


def _permute_alike(a: Array, b: Array, selector: int) -> Array:
    """prmt of the same bytes in all lanes."""
    result = np.zeros(1, np.uint32)
    for index in range(4):
        nibble = selector >> 4 * index & 15
        byte = (b if nibble & 4 else a) >> np.uint32(8 * (nibble & 3)) & np.uint32(255)
        if nibble & 8:
            byte = np.where(byte >= 128, np.uint32(255), np.uint32(0))
        result = result | byte << np.uint32(8 * index)
    return result


def highest_bit(value: Array) -> Array:
    """The index of the highest set bit of unsigned integers, -1 for zero, as int32."""
    bits = value.dtype.itemsize * 8
    found = np.full(value.shape, -1, np.int32)
    rest = value.copy()
    step = bits // 2
    while step:
        above = rest >> value.dtype.type(step)
        upper = above != 0
        found = np.where(upper, found + step, found)
        rest = np.where(upper, above, rest)
        step //= 2
    return np.where(rest != 0, found + 1, np.int32(-1)).astype(np.int32)


def count(instruction: Instruction) -> Semantics:
    """popc and clz: results are 32-bit whatever the type."""
    (kind,), _ = read_modifiers(instruction)
    expect_type(instruction, kind, {"b32", "b64"})
    bits = BITS[kind]
    if instruction.opcode == "popc":
        return simple(instruction, "u32", [f"u{bits}"], lambda a: np.bitwise_count(a).astype(np.uint32))
    return simple(instruction, "b32", [f"u{bits}"], lambda a: np.int32(bits - 1) - highest_bit(a))


def find(instruction: Instruction) -> Semantics:
    """bfind: the highest bit that differs from the sign (.s) or from zero (.u), all ones for none; .shiftamt: its
    distance."""
    (kind,), (distance,) = read_modifiers(instruction, {"shiftamt"})
    expect_type(instruction, kind, {"s32", "u32", "s64", "u64"})
    bits = BITS[kind]

    def evaluate(a: Array) -> Array:
        plain = np.where(a < 0, ~a, a).view(UNSIGNED[bits]) if kind[0] == "s" else a
        found = highest_bit(plain)
        return np.where(found < 0, found, np.int32(bits - 1) - found) if distance else found

    return simple(instruction, "b32", [kind], evaluate)
