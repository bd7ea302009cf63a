"""The emulator's conversions between integers and floats against exact fractions, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from ptx_emulator.exact import COUNT, MODES, as_float, assert_bits, finite, halves, round_exactly
from ptx_emulator.ptxtypes import BITS
from ptx_emulator.texts import apply, floats, integers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
def test_integer_to_float(source: str, mode: str) -> None:
    values = integers(source, COUNT, 3)
    numbers = [int(v) if source[0] == "s" else int(v) % (1 << BITS[source]) for v in values]
    actual = apply(f"cvt.{mode}.f32.{source} d, a;", "f32", a=(source, values))
    assert_bits(actual, [round_exactly(Fraction(n), "f32", mode) for n in numbers], source)
    if mode == "rn":
        actual = apply(f"cvt.rn.f64.{source} d, a;", "f64", a=(source, values))
        assert_bits(actual, [round_exactly(Fraction(n), "f64", mode) for n in numbers], source)
        for kind in ("f16", "bf16"):
            actual = apply(f"cvt.rn.{kind}.{source} d, a;", "b16", a=(source, values))
            assert as_float(actual, kind) == [round_exactly(Fraction(n), kind, mode) for n in numbers]


WHOLE: dict[str, Callable[[float], int]] = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
@pytest.mark.parametrize("target", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
def test_float_to_integer(source: str, target: str) -> None:
    bits = BITS[target]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)
    values = floats({"f16": np.float16, "f32": np.float32, "f64": np.float64}[source], COUNT, 5)
    values[:8] = [np.nan, 0.5, 1.5, -0.5, 2.5, 126.5, 127.5, -128.5]
    unknown = 1 << bits - 1 if source == "f64" or bits == 64 else 0
    register = target if bits > 8 else target[0] + "32"
    given = values.view(np.int16) if source == "f16" else values
    for mode, whole in WHOLE.items():
        actual = apply(f"cvt.{mode}.{target}.{source} d, a;", register, a=("b16" if source == "f16" else source, given))
        for value, found in zip(values, actual, strict=True):
            if np.isnan(value):
                wanted = unknown
            elif np.isinf(value):
                wanted = high if value > 0 else low
            else:
                wanted = max(low, min(high, whole(float(value))))
            assert (int(found) - wanted) % (1 << BITS[register]) % (1 << bits) == 0, (mode, value, found, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_narrowing(mode: str) -> None:
    values = floats(np.float64, COUNT, 6)
    values[::2] = floats(np.float32, COUNT, 7)[::2].astype(np.float64) * (1 + 2.0**-24)
    values[~np.isfinite(values)] = 1
    actual = apply(f"cvt.{mode}.f32.f64 d, a;", "f32", a=("f64", values))
    wanted = [math.copysign(round_exactly(Fraction(v), "f32", mode), v) for v in values.tolist()]
    assert_bits(actual, wanted, mode)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_half_conversions(kind: str) -> None:
    values = finite("f32", 8)
    exact = [round_exactly(Fraction(float(v)), kind, "rn") for v in values]
    actual = apply(f"cvt.rn.{kind}.f32 d, a;", "b16", a=("f32", values))
    assert as_float(actual, kind) == exact
    pairs = apply(f"cvt.rn.{kind}x2.f32 d, a, b;", "b32", a=("f32", values), b=("f32", values[::-1].copy()))
    assert as_float(pairs.view(np.int16)[1::2], kind) == exact
    assert as_float(pairs.view(np.int16)[0::2], kind) == exact[::-1]
    bits = halves(kind, 9)
    assert apply(f"cvt.f32.{kind} d, a;", "f32", a=("b16", bits)).tolist() == as_float(bits, kind)


def test_rounding_to_whole_floats() -> None:
    values = np.array([0.5, 1.5, -0.5, -2.5, 2.0**30, np.inf], np.float32)
    for mode, wanted in {
        "rni": [0, 2, -0.0, -2],
        "rzi": [0, 1, -0.0, -2],
        "rmi": [0, 1, -1, -3],
        "rpi": [1, 2, -0.0, -2],
    }.items():
        assert_bits(apply(f"cvt.{mode}.f32.f32 d, a;", "f32", a=("f32", values)), [*wanted, 2.0**30, np.inf], mode)
    assert_bits(apply("cvt.sat.f32.f32 d, a;", "f32", a=("f32", values)), [0.5, 1, 0, 0, 1, 1], "sat")
