"""float32 and float64 arithmetic: add, sub, mul, fma, div, rcp, sqrt, min, max, neg, abs, copysign, testp.

Source: PTX ISA, "Floating Point Instructions". float64 knows round-to-nearest only. The .approx and .full forms raise,
because their bits are the hardware's secret; but rcp.approx.ftz.f64, the start of Newton's method in every double
function, is executed with a random last bit: a result that depends on it differs from seed to seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedError
from ..group import Group
from ..semantics import Semantics, expect_type, read_modifiers, simple
from ..syntax import Instruction
from . import rounding
from .rounding import MODES

Array = npt.NDArray[Any]
SINGLE: dict[str, Callable[..., Array]] = {
    "add": rounding.add32,
    "sub": lambda a, b, mode: rounding.add32(a, -b, mode),
    "mul": rounding.multiply32,
    "div": rounding.divide32,
    "fma": rounding.fma32,
    "mad": rounding.fma32,
    "sqrt": rounding.root32,
    "rcp": lambda a, mode: rounding.divide32(np.ones(1, np.float32), a, mode),
}
DOUBLE: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "sqrt": np.sqrt,
    "fma": rounding.fma64,
    "mad": rounding.fma64,
    "rcp": np.reciprocal,
}
COUNT = {"add": 2, "sub": 2, "mul": 2, "div": 2, "fma": 3, "mad": 3, "sqrt": 1, "rcp": 1}
NEEDS_MODE = {"div", "fma", "mad", "sqrt", "rcp"}


def arithmetic(instruction: Instruction) -> Semantics:
    """Every operation of SINGLE with .rn, .rz, .rm, .rp, .ftz and .sat; without a mode, to nearest."""
    if instruction.name == "rcp.approx.ftz.f64":
        return _approximate_reciprocal(instruction)
    (kind,), (mode, flush, clamp) = read_modifiers(instruction, MODES, {"ftz"}, {"sat"})
    expect_type(instruction, kind, {"f32", "f64"})
    name = instruction.opcode
    if not mode and name in NEEDS_MODE:
        raise UnsupportedError(f"{instruction}: the form without a rounding mode is not known")
    sources = [kind] * COUNT[name]
    if kind == "f64":
        if mode not in ("", "rn") or flush or clamp:
            raise UnsupportedError(f"{instruction}: float64 knows .rn only")
        return simple(instruction, kind, sources, DOUBLE[name])
    exact, direction = SINGLE[name], mode or "rn"

    def evaluate(*values: Array) -> Array:
        return rounding.canonical(exact(*values, direction))

    return simple(instruction, kind, sources, _dressed(evaluate, flush, clamp))


def _approximate_reciprocal(instruction: Instruction) -> Semantics:
    """rcp.approx.ftz.f64: 1 / (upper half of a), kept to 20 mantissa bits, the last of them one up or down at
    random."""
    half = np.uint64(32)

    def evaluate(group: Group, a: Array) -> Array:
        upper = group.full(a).view(np.uint64) >> half << half
        operand = upper.view(np.float64)
        exact = 1.0 / np.where(np.abs(operand) < np.finfo(np.float64).tiny, np.copysign(0.0, operand), operand)
        rough = exact.view(np.uint64) + group.rng.integers(0, 3 << 32, group.count, np.uint64) - np.uint64(1 << 32)
        result = np.where(np.isfinite(exact) & (exact != 0), rough >> half << half, exact.view(np.uint64)).view(
            np.float64
        )
        return np.where(np.abs(result) < np.finfo(np.float64).tiny, np.copysign(0.0, result), result)

    (target,), (source,) = instruction.operands[:1], instruction.operands[1:]
    return Semantics(((target, "f64"),), ((source, "f64"),), evaluate, lanewise=False)


def _dressed(evaluate: Callable[..., Array], flush: str, clamp: str) -> Callable[..., Array]:
    """`evaluate` with its operands and result flushed (.ftz) and its result clamped (.sat)."""
    if not flush and not clamp:
        return evaluate

    def dressed(*values: Array) -> Array:
        result = evaluate(*map(rounding.flush, values)) if flush else evaluate(*values)
        result = rounding.flush(result) if flush else result
        return rounding.saturate(result) if clamp else result

    return dressed


def smaller(a: Array, b: Array) -> Array:
    """The smaller number; a NaN loses against a number, and -0 is below +0."""
    bits = np.dtype(f"i{a.dtype.itemsize}")
    return np.where(a == b, (a.view(bits) | b.view(bits)).view(a.dtype), np.fmin(a, b))


def larger(a: Array, b: Array) -> Array:
    """The larger number, by the rules of `smaller`."""
    bits = np.dtype(f"i{a.dtype.itemsize}")
    return np.where(a == b, (a.view(bits) & b.view(bits)).view(a.dtype), np.fmax(a, b))


def extreme(instruction: Instruction) -> Semantics:
    """min and max; with .NaN a NaN wins."""
    (kind,), (flush, propagate) = read_modifiers(instruction, {"ftz"}, {"NaN"})
    expect_type(instruction, kind, {"f32", "f64"})
    pick = smaller if instruction.opcode == "min" else larger

    def evaluate(a: Array, b: Array) -> Array:
        result = pick(a, b)
        return rounding.canonical(np.where(np.isnan(a) | np.isnan(b), a + b, result) if propagate else result)

    return simple(instruction, kind, [kind, kind], _dressed(evaluate, flush, ""))


def sign(instruction: Instruction) -> Semantics:
    """neg, abs and copysign (the sign of a on the magnitude of b)."""
    (kind,), (flush,) = read_modifiers(instruction, {"ftz"})
    expect_type(instruction, kind, {"f32", "f64"})
    if instruction.opcode == "copysign":
        return simple(instruction, kind, [kind, kind], lambda a, b: np.copysign(b, a))
    return simple(
        instruction, kind, [kind], _dressed(np.negative if instruction.opcode == "neg" else np.abs, flush, "")
    )


def _normal(value: Array) -> Array:
    return np.isfinite(value) & (np.abs(value) >= np.finfo(value.dtype).tiny)


PROPERTIES: dict[str, Callable[[Array], Array]] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda value: ~np.isnan(value),
    "notanumber": np.isnan,
    "normal": _normal,
    "subnormal": lambda value: np.isfinite(value) & ~_normal(value) & (value != 0),
}


def test_property(instruction: Instruction) -> Semantics:
    """testp.<property>."""
    (kind,), (name,) = read_modifiers(instruction, set(PROPERTIES))
    expect_type(instruction, kind, {"f32", "f64"})
    if not name:
        raise UnsupportedError(f"{instruction}: no property to test")
    return simple(instruction, "pred", [kind], PROPERTIES[name])
