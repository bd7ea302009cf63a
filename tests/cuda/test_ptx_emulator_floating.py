"""The emulator's float arithmetic against exact fractions, bit for bit, in every rounding direction."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptx_emulator import ContractionError, UnsupportedError, launch
from ptx_emulator.exact import COUNT, MODES, as_float, assert_bits, finite, halves, round_exactly
from ptx_emulator.instructions import rounding
from ptx_emulator.ptxtypes import register_dtype
from ptx_emulator.texts import apply, floats, kernel

Array = npt.NDArray[Any]


EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
    "div": lambda a, b: a / b,
}


def near_cancellation(values: list[Array], name: str) -> None:
    """Make a third of the lanes sums that nearly cancel, the hard case of one rounding."""
    if name == "fma":
        values[2][::3] = (-values[0] * values[1])[::3]
        values[2][~np.isfinite(values[2])] = 1
    elif name in ("add", "sub"):
        values[1][::3] = np.nextafter(-values[0], values[0].dtype.type(0))[::3]


@pytest.mark.parametrize(("kind", "mode"), [("f32", mode) for mode in MODES] + [("f64", "rn")])
@pytest.mark.parametrize("name", list(EXACT))
def test_one_rounding(name: str, kind: str, mode: str) -> None:
    count = 3 if name == "fma" else 2
    values = [finite(kind, seed) for seed in range(count)]
    if name == "div":
        values[1][values[1] == 0] = 3
    with np.errstate(all="ignore"):
        near_cancellation(values, name)
        sign = {
            "add": lambda a, b: a + b,
            "sub": lambda a, b: a - b,
            "mul": lambda a, b: a * b,
            "div": lambda a, b: a / b,
            "fma": lambda a, b, c: a * b + c,
        }[name](*(each.astype(np.float64) for each in values))
    inputs = {letter: (kind, each) for letter, each in zip("abc", values, strict=False)}
    actual = apply(f"{name}.{mode}.{kind} d, {', '.join(inputs)};", kind, **inputs)
    wanted = []
    for row, hint in zip(zip(*values, strict=True), sign, strict=False):
        exact = EXACT[name](*(Fraction(float(each)) for each in row))
        result = round_exactly(exact, kind, mode)
        if exact == 0 and name in ("mul", "div"):
            result = math.copysign(0.0, math.copysign(1, row[0]) * math.copysign(1, row[1]))
        elif exact == 0:
            both = hint if math.copysign(1, hint) < 0 else 0.0
            mixed = mode == "rm" and any(math.copysign(1, term) < 0 for term in terms(name, row))
            result = -0.0 if math.copysign(1, both) < 0 or mixed else 0.0
        wanted.append(result)
    assert_bits(actual, wanted, kind)


def terms(name: str, row: tuple[Any, ...]) -> list[float]:
    """The two terms of a sum, signs of zeros included."""
    first = [float(each) for each in row]
    if name == "fma":
        return [math.copysign(1, first[0]) * math.copysign(1, first[1]), first[2]]
    return [first[0], first[1] if name == "add" else -first[1]]


@pytest.mark.parametrize("mode", MODES)
def test_square_root_and_reciprocal(mode: str) -> None:
    values = np.abs(finite("f32", 1))
    actual = apply(f"sqrt.{mode}.f32 d, a;", "f32", a=("f32", values))
    scale = Fraction(2) ** 400
    wanted = [
        round_exactly(Fraction(math.isqrt(int(Fraction(float(v)) * scale**2)), 1) / scale, "f32", mode)
        if math.isqrt(int(Fraction(float(v)) * scale**2)) ** 2 == Fraction(float(v)) * scale**2
        else round_exactly(
            (Fraction(math.isqrt(int(Fraction(float(v)) * scale**2))) + Fraction(1, 2)) / scale, "f32", mode
        )
        for v in values
    ]
    assert_bits(actual, wanted, "sqrt")
    values[values == 0] = 5
    actual = apply(f"rcp.{mode}.f32 d, a;", "f32", a=("f32", values))
    assert_bits(actual, [round_exactly(1 / Fraction(float(v)), "f32", mode) for v in values], "rcp")


def test_special_values() -> None:
    inf, nan = np.inf, np.nan
    a = np.array([inf, inf, -inf, 0, inf, nan, 1, 0.0, -0.0], np.float32)
    b = np.array([-inf, inf, inf, inf, 0, 1, nan, -0.0, 0.0], np.float32)
    inputs = {"a": ("f32", a), "b": ("f32", b)}
    assert_bits(apply("add.f32 d, a, b;", "f32", **inputs), [nan, inf, nan, inf, inf, nan, nan, 0, 0], "add")
    assert_bits(apply("mul.f32 d, a, b;", "f32", **inputs), [-inf, inf, -inf, nan, nan, nan, nan, -0.0, -0.0], "mul")
    assert_bits(apply("min.f32 d, a, b;", "f32", **inputs), [-inf, inf, -inf, 0, 0, 1, 1, -0.0, -0.0], "min")
    assert_bits(apply("max.f32 d, a, b;", "f32", **inputs), [inf, inf, inf, inf, inf, 1, 1, 0.0, 0.0], "max")
    assert_bits(
        apply("max.NaN.f32 d, a, b;", "f32", **inputs), [inf, inf, inf, inf, inf, nan, nan, 0.0, 0.0], "max.NaN"
    )
    canonical = apply("add.f32 d, a, b;", "f32", **inputs)[[0, 5]].view(np.uint32)
    assert canonical.tolist() == [0x7FFFFFFF, 0x7FFFFFFF]


def test_flush_and_saturate() -> None:
    tiny = np.float32(2.0**-140)
    a = np.array([tiny, -tiny, 2.0**-126, 2.0**-100, 0.25, 3, -1, np.nan], np.float32)
    b = np.array([1, 1, 0.5, 2.0**-40, 0.5, 1, 1, 1], np.float32)
    inputs = {"a": ("f32", a), "b": ("f32", b)}
    assert_bits(apply("mul.ftz.f32 d, a, b;", "f32", **inputs), [0.0, -0.0, 0, 0, 0.125, 3, -1, np.nan], "ftz")
    assert_bits(apply("mul.sat.f32 d, a, b;", "f32", **inputs), [tiny, 0, 2.0**-127, 2.0**-140, 0.125, 1, 0, 0], "sat")
    assert_bits(
        apply("neg.ftz.f32 d, a;", "f32", **inputs), [-0.0, 0, -(2.0**-126), -(2.0**-100), -0.25, -3, 1, np.nan], "neg"
    )


def test_signs_properties_and_comparisons() -> None:
    a = np.array([1.5, -0.0, np.inf, np.nan, 2.0**-140], np.float32)
    b = np.array([-1, 2, -3, 4, np.nan], np.float32)
    inputs = {"a": ("f32", a), "b": ("f32", b)}
    assert_bits(apply("copysign.f32 d, a, b;", "f32", **inputs), [1, -2, 3, 4, np.nan], "copysign")
    assert_bits(apply("abs.f32 d, a;", "f32", **inputs), [1.5, 0, np.inf, np.nan, 2.0**-140], "abs")
    for name, wanted in {
        "finite": [1, 1, 0, 0, 1],
        "infinite": [0, 0, 1, 0, 0],
        "number": [1, 1, 1, 0, 1],
        "notanumber": [0, 0, 0, 1, 0],
        "normal": [1, 0, 0, 0, 0],
        "subnormal": [0, 0, 0, 0, 1],
    }.items():
        assert apply(f"testp.{name}.f32 p, a; selp.u32 d, 1, 0, p;", "u32", **inputs).tolist() == wanted, name
    for name, wanted in {
        "lt": [0, 1, 0, 0, 0],
        "ltu": [0, 1, 0, 1, 1],
        "ne": [1, 1, 1, 0, 0],
        "neu": [1, 1, 1, 1, 1],
        "num": [1, 1, 1, 0, 0],
        "nan": [0, 0, 0, 1, 1],
        "ge": [1, 0, 1, 0, 0],
        "equ": [0, 0, 0, 1, 1],
    }.items():
        assert apply(f"setp.{name}.f32 p, a, b; selp.u32 d, 1, 0, p;", "u32", **inputs).tolist() == wanted, name


def assert_halves(actual: Array, exact: list[Fraction], kind: str) -> None:
    """16-bit patterns equal to exact values rounded once; signs of zero are not looked at."""
    wanted = [round_exactly(value, kind, "rn") for value in exact]
    assert as_float(actual, kind) == wanted


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma"])
def test_half_arithmetic(kind: str, name: str) -> None:
    values = [halves(kind, seed) for seed in range(3 if name == "fma" else 2)]
    values[1][::4] = values[0][::4] ^ np.int16(-0x8000)
    exact = [EXACT[name](*map(Fraction, row)) for row in zip(*(as_float(each, kind) for each in values), strict=True)]
    letters = ", ".join("abc"[: len(values)])
    inputs = {n: ("b16", v) for n, v in zip("abc", values, strict=False)}
    assert_halves(apply(f"{name}.rn.{kind} d, {letters};", "b16", **inputs), exact, kind)
    pairs = {n: ("b32", v.view(np.int32)) for n, v in zip("abc", values, strict=False)}
    assert_halves(apply(f"{name}.rn.{kind}x2 d, {letters};", "b32", **pairs).view(np.int16), exact, kind)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_half_extremes_and_signs(kind: str) -> None:
    a, b = halves(kind, 1), halves(kind, 2)
    inputs = {"a": ("b16", a), "b": ("b16", b)}
    numbers = list(zip(as_float(a, kind), as_float(b, kind), strict=True))
    assert as_float(apply(f"min.{kind} d, a, b;", "b16", **inputs), kind) == [min(pair) for pair in numbers]
    assert as_float(apply(f"max.{kind} d, a, b;", "b16", **inputs), kind) == [max(pair) for pair in numbers]
    assert (apply(f"neg.{kind} d, a;", "b16", a=("b16", a)) == a ^ np.int16(-0x8000)).all()
    assert (apply(f"abs.{kind}x2 d, a;", "b32", a=("b32", a.view(np.int32))).view(np.int16) == a & 0x7FFF).all()
    relu = as_float(apply(f"fma.rn.relu.{kind} d, a, a, b;", "b16", **inputs), kind)
    assert min(relu) == 0
    assert max(relu) > 0


def test_approximate_reciprocal() -> None:
    """20 bits, low half zero, zeros and infinities exact, subnormals flushed."""
    values = floats(np.float64, COUNT, 12)
    actual = apply("rcp.approx.ftz.f64 d, a;", "f64", a=("f64", values))
    assert (actual.view(np.uint64) & 0xFFFFFFFF == 0).all()
    normal = np.isfinite(values) & (np.abs(values) < 2.0**1000) & (np.abs(values) > 2.0**-1000)
    assert (np.abs(actual[normal] * values[normal] - 1) < 2.0**-18).all()
    special = np.array([0.0, -0.0, np.inf, -np.inf, 5e-324, np.nan])
    wanted = [np.inf, -np.inf, 0.0, -0.0, np.inf, np.nan]
    assert_bits(apply("rcp.approx.ftz.f64 d, a;", "f64", a=("f64", special)), wanted, "rcp")


def test_single_fma_one_by_one() -> None:
    """Sums that float64 holds, or rounds to no middle between two float32 numbers, are rounded anew at once; each value
    by itself takes that way or the other. Two sums lie beside a middle, by less than float64 tells: rounded twice they
    would go to the wrong side.
    """
    values = [finite("f32", seed) for seed in range(3)]
    near = (1 + 2.0**-23) * 2.0**-12, (1 - 2.0**-23) * 2.0**-12  # whose product is 2^-24 · (1 − 2^-46)
    beside = [tuple(map(np.float32, (sign * near[0], near[1], sign * (1 + 2.0**-23)))) for sign in (1, -1)]
    rows = [*zip(*values, strict=True), *beside, tuple(map(np.float32, (2.0**24 + 2, 1, 1)))]
    quick = 0
    with np.errstate(all="ignore"):
        for row in rows:
            a, b, c = (np.array([each], np.float32) for each in row)
            total = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
            quick += not rounding.rounds_twice(total).any()
            exact = Fraction(float(a[0])) * Fraction(float(b[0])) + Fraction(float(c[0]))
            found = rounding.fma32(a, b, c, "rn")
            assert float(found[0]) == round_exactly(exact, "f32", "rn"), row
        for a, b, c in beside:
            assert np.float32(np.float64(a) * np.float64(b) + np.float64(c)) != rounding.fma32(
                a[None], b[None], c[None], "rn"
            )
    assert 0 < quick < len(rows)


@settings(max_examples=300, deadline=None)
@given(*[st.floats(allow_nan=False, allow_infinity=False)] * 3)
def test_double_fma_is_exact(a: float, b: float, c: float) -> None:
    with np.errstate(all="ignore"):
        actual = float(rounding.fma64(*(np.array([each]) for each in (a, b, c)))[0])
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert actual == round_exactly(exact, "f64", "rn")


@pytest.mark.parametrize(
    "line",
    [
        "div.full.f32 d, a, a;",
        "ex2.approx.f32 d, a;",
        "rcp.approx.ftz.f32 d, a;",
        "add.rz.f64 d, a, a;",
        "div.f32 d, a, a;",
        "sqrt.approx.f32 d, a;",
        "cvt.f32.f64 d, a;",
        "cvt.rni.f64.f32 d, a;",
    ],
)
def test_unknown_forms_name_themselves(line: str) -> None:
    kind = "f64" if line.endswith(("f64 d, a, a;", "f64 d, a;")) else "f32"
    with pytest.raises(UnsupportedError, match=line.split()[0]):
        apply(line, kind, a=(kind, np.ones(4, register_dtype(kind))))


def test_products_and_sums_that_may_be_fused_are_refused() -> None:
    ones = np.ones(4, np.float32)
    for line in (
        "mul.f32 d, a, a; add.f32 d, d, a;",
        "mul.f32 d, a, a; sub.f32 d, a, d;",
        ".reg .f32 x; mul.ftz.f32 d, a, a; neg.f32 x, d; mov.f32 d, x; add.f32 d, a, d;",
    ):
        with pytest.raises(ContractionError, match=r"line.*may fuse this with line.*mul"):
            apply(line, "f32", a=("f32", ones))
    module = kernel(".reg .f32 a; mov.f32 a, 0f3F800000; mul.f32 a, a, a; add.f32 a, a, a;")
    launch(module, "test", 1, 32, [], contraction=True)
    with pytest.raises(ContractionError):
        launch(module, "test", 1, 32, [])
    for line in ("mul.rn.f32 d, a, a; add.f32 d, d, a;", "mul.f32 d, a, a; add.rn.f32 d, d, a;"):
        assert apply(line, "f32", a=("f32", ones)).tolist() == [2] * 4
    apply("mul.lo.s32 d, a, a; add.s32 d, d, a;", "s32", a=("s32", ones.view(np.int32)))
