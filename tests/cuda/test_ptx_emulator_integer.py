"""The emulator's integer, logic and comparison instructions against Python's unbounded integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ptx_emulator import UnsupportedError
from ptx_emulator.ptxtypes import BITS, register_dtype
from ptx_emulator.texts import apply, integers

Array = npt.NDArray[Any]
COUNT = 400


def signed(value: int, bits: int) -> int:
    """The low `bits` of a value as a signed number."""
    value %= 1 << bits
    return value - (1 << bits) if value >> bits - 1 else value


def read(value: Any, kind: str) -> int:
    """A register's value as PTX type `kind` sees it."""
    bits = BITS[kind]
    return signed(int(value), bits) if kind[0] == "s" else int(value) % (1 << bits)


def check(
    line: str,
    output: str,
    kinds: list[str],
    expected: Callable[..., int],
    ranges: dict[int, tuple[int, int]] | None = None,
) -> None:
    """Compare `line` on random operands with a function of Python integers; `ranges` limits an operand's values."""
    values = [integers(kind, COUNT, seed) for seed, kind in enumerate(kinds)]
    for index, (low, high) in (ranges or {}).items():
        values[index] = np.random.default_rng(9 + index).integers(low, high, COUNT).astype(values[index].dtype)
    actual = apply(line, output, **{name: (kind, each) for name, kind, each in zip("abc", kinds, values, strict=False)})
    bits = BITS[output]
    rows = [[read(v, kind) for v in each.tolist()] for kind, each in zip(kinds, values, strict=True)]
    wanted = [signed(expected(*row), bits) for row in zip(*rows, strict=True)]
    assert actual.tolist() == wanted


INTEGERS = ["s16", "u16", "s32", "u32", "s64", "u64"]


@pytest.mark.parametrize("kind", INTEGERS)
def test_arithmetic(kind: str) -> None:
    bits = BITS[kind]
    check(f"add.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a + b)
    check(f"sub.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a - b)
    check(f"mul.lo.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a * b)
    check(f"mul.hi.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a * b >> bits)
    check(f"mad.lo.{kind} d, a, b, c;", kind, [kind] * 3, lambda a, b, c: a * b + c)
    check(f"mad.hi.{kind} d, a, b, c;", kind, [kind] * 3, lambda a, b, c: (a * b >> bits) + c)
    check(f"min.{kind} d, a, b;", kind, [kind, kind], min)
    check(f"max.{kind} d, a, b;", kind, [kind, kind], max)
    check(f"sad.{kind} d, a, b, c;", kind, [kind] * 3, lambda a, b, c: c + abs(a - b))


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
def test_wide_products(kind: str) -> None:
    wide = kind[0] + str(2 * BITS[kind])
    check(f"mul.wide.{kind} d, a, b;", wide, [kind, kind], lambda a, b: a * b)
    check(f"mad.wide.{kind} d, a, b, c;", wide, [kind, kind, wide], lambda a, b, c: a * b + c)


@pytest.mark.parametrize("kind", INTEGERS)
def test_division(kind: str) -> None:
    def quotient(a: int, b: int) -> int:
        return -1 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)

    check(f"div.{kind} d, a, b;", kind, [kind, kind], quotient)
    check(f"rem.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a if b == 0 else a - b * quotient(a, b))


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_sign(kind: str) -> None:
    check(f"neg.{kind} d, a;", kind, [kind], lambda a: -a)
    check(f"abs.{kind} d, a;", kind, [kind], abs)


def test_saturating() -> None:
    def clamp(value: int) -> int:
        return max(-(2**31), min(2**31 - 1, value))

    check("add.sat.s32 d, a, b;", "s32", ["s32", "s32"], lambda a, b: clamp(a + b))
    check("sub.sat.s32 d, a, b;", "s32", ["s32", "s32"], lambda a, b: clamp(a - b))


@pytest.mark.parametrize("kind", ["b16", "b32", "b64"])
def test_logic(kind: str) -> None:
    bits = BITS[kind]
    check(f"and.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a & b)
    check(f"or.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a | b)
    check(f"xor.{kind} d, a, b;", kind, [kind, kind], lambda a, b: a ^ b)
    check(f"not.{kind} d, a;", kind, [kind], lambda a: ~a)
    check(f"cnot.{kind} d, a;", kind, [kind], lambda a: int(a == 0))
    check(f"shl.{kind} d, a, b;", kind, [kind, "u32"], lambda a, b: a << b if b < bits else 0, {1: (0, 80)})
    check(f"shl.{kind} d, a, 5;", kind, [kind], lambda a: a << 5)


@pytest.mark.parametrize("kind", INTEGERS + ["b32"])
def test_right_shift(kind: str) -> None:
    check(f"shr.{kind} d, a, b;", kind, [kind, "u32"], lambda a, b: a >> b, {1: (0, 80)})
    check(f"shr.{kind} d, a, b;", kind, [kind, "u32"], lambda a, b: a >> b, {1: (2**31 - 9, 2**31)})
    check(f"shr.{kind} d, a, 7;", kind, [kind], lambda a: a >> 7)


@pytest.mark.parametrize("table", [0x00, 0x01, 0x96, 0xE8, 0xCA, 0xFE, 0xFF])
def test_lop3(table: int) -> None:
    def expected(a: int, b: int, c: int) -> int:
        return sum((table >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i for i in range(32))

    check(f"lop3.b32 d, a, b, c, {table};", "b32", ["b32"] * 3, expected)


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shift(mode: str) -> None:
    def amount(c: int) -> int:
        return c & 31 if mode == "wrap" else min(c, 32)

    check(
        f"shf.l.{mode}.b32 d, a, b, c;",
        "b32",
        ["b32", "b32", "u32"],
        lambda a, b, c: (b << 32 | a) << amount(c) >> 32,
        {2: (0, 70)},
    )
    check(
        f"shf.r.{mode}.b32 d, a, b, c;",
        "b32",
        ["b32", "b32", "u32"],
        lambda a, b, c: (b << 32 | a) >> amount(c),
        {2: (0, 70)},
    )


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_bit_field_extract(kind: str) -> None:
    bits = BITS[kind]

    def expected(a: int, position: int, length: int) -> int:
        # the PTX manual's loop, bit by bit
        raw = a % (1 << bits)
        top = raw >> min(position + length - 1, bits - 1) & 1 if kind[0] == "s" and length else 0
        inside = [raw >> position + i & 1 if i < length and position + i < bits else top for i in range(bits)]
        return sum(bit << i for i, bit in enumerate(inside))

    check(f"bfe.{kind} d, a, b, c;", kind, [kind, "u32", "u32"], expected, {1: (0, 80), 2: (0, 80)})


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_bit_field_insert_and_counts(kind: str) -> None:
    bits = BITS[kind]

    def inserted(a: int, b: int, position: int, length: int) -> int:
        for i in range(length):
            if position + i < bits:
                b = b & ~(1 << position + i) | (a >> i & 1) << position + i
        return b

    for position, length in [(0, 8), (8, 8), (3, 29), (28, 8), (40, 3), (0, 70), (5, 0)]:
        check(
            f"bfi.{kind} d, a, b, {position}, {length};",
            kind,
            [kind, kind],
            lambda a, b, position=position, length=length: inserted(a, b, position, length),
        )
    check(f"brev.{kind} d, a;", kind, [kind], lambda a: int(f"{a:0{bits}b}"[::-1], 2))
    check(f"popc.{kind} d, a;", "u32", [kind], lambda a: a.bit_count())
    check(f"clz.{kind} d, a;", "u32", [kind], lambda a: bits - a.bit_length())


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_find_bit(kind: str) -> None:
    bits = BITS[kind]
    check(f"bfind.{kind} d, a;", "u32", [kind], lambda a: (~a if a < 0 else a).bit_length() - 1)
    check(
        f"bfind.shiftamt.{kind} d, a;",
        "u32",
        [kind],
        lambda a: bits - (~a if a < 0 else a).bit_length() if a not in (0, -1) else -1,
    )


def test_permute() -> None:
    def expected(a: int, b: int, c: int) -> int:
        pool = [(b << 32 | a) >> 8 * i & 255 for i in range(8)]
        result = 0
        for i in range(4):
            nibble = c >> 4 * i & 15
            byte = pool[nibble & 7]
            result |= ((255 if byte & 128 else 0) if nibble & 8 else byte) << 8 * i
        return result

    check("prmt.b32 d, a, b, c;", "b32", ["b32"] * 3, expected)
    for selector in (0x3210, 0x7654, 0x5140, 0xFB73, 0x88CC, 0x12345):  # the same in all lanes has a way of its own
        check(f"prmt.b32 d, a, b, {selector};", "b32", ["b32"] * 2, lambda a, b, s=selector: expected(a, b, s))


def bytes_of(value: int, kind: str, size: int) -> list[int]:
    """The `size`-bit parts of a 32-bit value, signed or not as `kind` says."""
    parts = [value >> shift & (1 << size) - 1 for shift in range(0, 32, size)]
    return [signed(part, size) for part in parts] if kind[0] == "s" else parts


@pytest.mark.parametrize("first", ["s32", "u32"])
@pytest.mark.parametrize("second", ["s32", "u32"])
def test_dot_products(first: str, second: str) -> None:
    def four(a: int, b: int, c: int) -> int:
        return c + sum(x * y for x, y in zip(bytes_of(a, first, 8), bytes_of(b, second, 8), strict=True))

    check(f"dp4a.{first}.{second} d, a, b, c;", "b32", ["b32"] * 3, four)

    def two(a: int, b: int, c: int, start: int) -> int:
        chosen = bytes_of(b, second, 8)[start : start + 2]
        return c + sum(x * y for x, y in zip(bytes_of(a, first, 16), chosen, strict=True))

    check(f"dp2a.lo.{first}.{second} d, a, b, c;", "b32", ["b32"] * 3, lambda a, b, c: two(a, b, c, 0))
    check(f"dp2a.hi.{first}.{second} d, a, b, c;", "b32", ["b32"] * 3, lambda a, b, c: two(a, b, c, 2))


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_comparisons(kind: str) -> None:
    for name, compare in COMPARISONS.items():
        check(
            f"setp.{name}.{kind} p, a, b; selp.u32 d, 1, 0, p;",
            "u32",
            [kind, kind],
            lambda a, b, compare=compare: int(compare(a, b)),
            {1: (0, 3)},
        )
    if kind[0] == "u":
        for name, other in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")):
            check(
                f"setp.{name}.{kind} p, a, b; selp.u32 d, 1, 0, p;",
                "u32",
                [kind, kind],
                lambda a, b, other=other: int(COMPARISONS[other](a, b)),
            )


def test_combined_comparison_and_both_results() -> None:
    line = (
        "setp.gt.s32 q, c, 0; setp.lt.and.s32 p|q, a, b, q; selp.u32 r, 1, 0, p; selp.u32 d, 2, 0, q; add.u32 d, d, r;"
    )
    check(line, "u32", ["s32"] * 3, lambda a, b, c: int(a < b and c > 0) + 2 * int(not a < b and c > 0))
    check(
        "setp.gt.s32 q, c, 0; setp.lt.xor.s32 p, a, b, !q; selp.u32 d, 1, 0, p;",
        "u32",
        ["s32"] * 3,
        lambda a, b, c: int((a < b) != (not c > 0)),
    )


def test_select() -> None:
    check("setp.lt.s32 p, c, 0; selp.b64 d, a, b, p;", "b64", ["b64", "b64", "s32"], lambda a, b, c: a if c < 0 else b)
    check("slct.b32.s32 d, a, b, c;", "b32", ["b32", "b32", "s32"], lambda a, b, c: a if c >= 0 else b)


def test_packing_moves() -> None:
    check(
        ".reg .b16 x, y; mov.b32 {x, y}, a; mov.b32 d, {y, x};", "b32", ["b32"], lambda a: a >> 16 | (a & 0xFFFF) << 16
    )
    check(
        ".reg .b32 x, y; mov.b64 {x, _}, a; mov.b64 {_, y}, a; mov.b64 d, {y, x};",
        "b64",
        ["b64"],
        lambda a: a >> 32 | (a & 0xFFFFFFFF) << 32,
    )


@pytest.mark.parametrize("target", [*INTEGERS, "s8", "u8"])
@pytest.mark.parametrize("source", INTEGERS)
def test_integer_conversions(source: str, target: str) -> None:
    bits = BITS[target]
    register = target if bits > 8 else target[0] + "32"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)
    check(f"cvt.{target}.{source} d, a;", register, [source], lambda a: read(a, target))
    check(f"cvt.sat.{target}.{source} d, a;", register, [source], lambda a: max(low, min(high, a)))


def test_pack_with_saturation() -> None:
    def expected(a: int, b: int, c: int, low: int, high: int, bits: int) -> int:
        a, b = (max(low, min(high, x)) % (1 << bits) for x in (a, b))
        return b | a << bits | c << 2 * bits

    wide = {0: (-300, 300), 1: (-300, 300)}
    check(
        "cvt.pack.sat.s8.s32.b32 d, a, b, c;", "b32", ["s32", "s32", "b32"], lambda *v: expected(*v, -128, 127, 8), wide
    )
    check("cvt.pack.sat.u8.s32.b32 d, a, b, c;", "b32", ["s32", "s32", "b32"], lambda *v: expected(*v, 0, 255, 8), wide)
    check(
        "cvt.pack.sat.s16.s32 d, a, b;", "b32", ["s32", "s32"], lambda a, b: expected(a, b, 0, -(2**15), 2**15 - 1, 16)
    )


def test_immediates() -> None:
    check("add.s32 d, a, -2147483648;", "s32", ["s32"], lambda a: a - 2**31)
    check("and.b64 d, a, 0xFFFF0000FFFF0000;", "b64", ["b64"], lambda a: a & 0xFFFF0000FFFF0000)
    check("mov.b32 d, 0f3F800000;", "b32", ["b32"], lambda a: 0x3F800000)
    check("mov.b64 d, 0d3FF0000000000000;", "b64", ["b32"], lambda a: 0x3FF0000000000000)


@pytest.mark.parametrize(
    "line",
    [
        "add.cc.s32 d, a, b;",
        "mul24.lo.s32 d, a, b;",
        "mul.s32 d, a, b;",
        "frob.s32 d, a, b;",
        "add.s32 d, a;",
        "vadd.s32.s32.s32 d, a, b;",
        "add.f8 d, a, b;",
        "setp.foo.s32 p, a, b;",
    ],
)
def test_unknown_forms_name_themselves(line: str) -> None:
    values = np.zeros(4, register_dtype("s32"))
    with pytest.raises(UnsupportedError, match=line.split()[0].split(".")[0]):
        apply(line, "s32", a=("s32", values), b=("s32", values))
