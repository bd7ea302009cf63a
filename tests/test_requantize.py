"""Requantizing accumulators and choosing parameters against the reference, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies

import gpuq
from compare import assert_all_same, assert_same
from gpuq import reference
from gpuq.dtypes import QUANTIZED, REAL, numpy_dtype
from layouts import INPUT_LAYOUTS, PLACES
from runner import Runner
from shapes import ELEMENTWISE, LAID_OUT, PER_AXIS
from values import codes, pick

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
TYPES = ("int8", "uint8", "int16", "uint16")
MODES = ("float", "float64", "fixed_point", "fixed_point_half_up")
ACTIVATIONS = (None, "relu", "relu6")
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
# powers of two, whose products have exact ties, and others, small enough that codes do not all saturate, up to huge
MULTIPLIERS = (0.5, 2.0**-8, 2.0**-16, 2.0**-31, 1.0, 2.0, 0.1, 1 / 3, 0.00123, 0.7499999, 3e-6, 1e-9, 1000.7)
Y_SCALES = (0.1, 0.05, 4.0, 12.0, 2.4, 1e-6, 1e30)  # 6 / y_scale: exact ties, below 1/2, beyond every code


def accumulators(rng: np.random.Generator, shape: Shape, multiplier: float) -> Array:
    """int32 numbers: near ties and near the bounds of 8 and 16 bits after multiplication, the ends of int32, noise."""
    halves = np.concatenate([rng.integers(-600, 600, 60), rng.integers(-140_000, 140_000, 60)]) / 2
    near = np.floor(halves / multiplier).clip(INT32_MIN, INT32_MAX - 1).astype(np.int64)
    ends = [INT32_MIN, INT32_MIN + 1, INT32_MAX - 1, INT32_MAX, 0, 1, -1, 2**24 + 1, -(2**24) - 1, 2**30, -(2**30)]
    pool = np.concatenate([near, near + 1, ends, rng.integers(INT32_MIN, INT32_MAX, 20)])
    return pick(rng, pool.astype(np.int32), shape)


def int32_numbers(rng: np.random.Generator, shape: Shape) -> Array:
    """Biases: small ones, and the ends of int32, whose sums with accumulators do not fit int32."""
    ends = rng.choice(np.array([INT32_MIN, INT32_MAX, 0, 1], np.int32), shape)
    return np.where(rng.random(shape) < 0.3, ends, rng.integers(-1000, 1000, shape)).astype(np.int32)


def multipliers(rng: np.random.Generator, shape: Shape, mode: str) -> Any:
    reals = rng.choice(np.array(MULTIPLIERS, np.float32), shape)
    return reals if mode in ("float", "float64") else reference.quantize_multiplier(reals)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TYPES)
def test_every_mode_and_type(run: Runner, kind: str, mode: str, activation: str | None) -> None:
    """Every multiplier with zero points at both ends and inside, with and without bias, narrow and full range."""
    rng = np.random.default_rng(1)
    low, high = QUANTIZED[kind].qmin, QUANTIZED[kind].qmax
    for step, real in enumerate(MULTIPLIERS):
        multiplier = real if mode in ("float", "float64") else reference.quantize_multiplier(real)
        acc = accumulators(rng, (150,), real)
        for zero_point in run.part((low + 1, high, (low + high) // 3), step, 3):
            options = {
                "bias": (None, 7, INT32_MIN, INT32_MAX, np.array([-3], np.int32))[step % 5],
                "activation": activation,
                "y_scale": Y_SCALES[step % len(Y_SCALES)],
                "dtype": kind,
                "narrow_range": step % 2 == 1,
                "mode": mode,
            }
            run.check("requantize", acc, multiplier, zero_point, what=f"{real} {zero_point} {options}", **options)


@pytest.mark.parametrize("mode", MODES)
def test_every_axis_and_parameter_shape(run: Runner, mode: str) -> None:
    """Each parameter in turn, and all of them, along the axis; the others with one element of some shape."""
    rng, names = np.random.default_rng(2), ("multiplier", "zero_point", "bias", "y_scale")
    for shape, axis in PER_AXIS:
        for along in (*({name} for name in names), set(names)):
            wanted: dict[str, Shape] = {name: (shape[axis],) if name in along else () for name in names}
            multiplier = multipliers(rng, wanted["multiplier"], mode)
            options = {
                "bias": int32_numbers(rng, wanted["bias"] or (1, 1)),
                "y_scale": rng.choice(np.array(Y_SCALES, np.float32), wanted["y_scale"]),
                "activation": ("relu6", "relu", None)[len(shape) % 3],
                "axis": axis,
                "mode": mode,
            }
            acc = accumulators(rng, shape, 0.1)
            what = f"{shape}, axis {axis}, {sorted(along)}"
            run.check("requantize", acc, multiplier, codes(rng, "int8", wanted["zero_point"]), what=what, **options)


@pytest.mark.parametrize(("kind", "bits"), [("uint8", 8), ("uint16", 16)])
def test_sums_are_rounded_to_float32_once(run: Runner, kind: str, bits: int) -> None:
    """Sums of 25 to 33 bits that float32 rounds onto a tie between two codes, to both sides of one, and not at all:
    whoever rounds acc, the bias or half of a sum by itself gives another code.
    """
    rng = np.random.default_rng(8)
    codes = rng.integers(2 ** (bits - 1), 2**bits, 60)
    for shift in range(25 - bits, 33 - bits):
        half = 2 ** max(0, shift + bits - 25)  # of what float32 rounds to there
        ties = (2 * codes[:, None] + 1) << (shift - 1) if shift else 2 * codes[:, None]
        sums = np.ravel(ties + [0, 1, -1, half, -half, half + 1, -half - 1])
        for sign, bias in ((1, INT32_MAX), (1, INT32_MAX - 98765), (-1, INT32_MIN), (-1, INT32_MIN + 98765)):
            for several in (False, True):
                acc = (sign * sums - bias).astype(np.int32)
                assert np.all(acc + np.int64(bias) == sign * sums)
                given = np.full(len(acc), bias, np.int32) if several else bias
                zero_point = 0 if sign > 0 else 2**bits - 1
                options = {"bias": given, "dtype": kind, "what": f"2^-{shift}, bias {bias}"}
                run.check("requantize", acc, 2.0**-shift, zero_point, **options)


def test_one_shift_for_many_multipliers(run: Runner) -> None:
    """The two halves of a fixed-point multiplier may differ in shape."""
    rng = np.random.default_rng(3)
    acc = accumulators(rng, (9, 4), 0.1)
    mantissas = np.array([2**30, 2**31 - 1, 0, 1_500_000_000], np.int32)
    for mode in ("fixed_point", "fixed_point_half_up"):
        for shift in range(-31, 31):
            run.check("requantize", acc, (mantissas, shift), 0, mode=mode, what=f"{mode} {shift}")
            run.check("requantize", acc, (2**30 + 1, np.full(4, shift, np.int32)), 0, mode=mode, what=f"{mode} {shift}")


def test_the_default_axis_is_the_last(run: Runner) -> None:
    acc = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert_same(run("requantize", acc, [1.0, 2.0, 3.0], 0), np.int8([[0, 2, 6], [3, 8, 15]]))
    assert_same(run("requantize", acc, 1.0, [1, 2, 3], dtype="uint8"), np.uint8([[1, 3, 5], [4, 6, 8]]))


def test_every_shape(run: Runner) -> None:
    rng = np.random.default_rng(4)
    for shape in ELEMENTWISE:
        run.check("requantize", accumulators(rng, shape, 0.001), 0.001, np.int8(-3), what=str(shape))


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_layouts(run: Runner, mode: str, layout: str) -> None:
    rng = np.random.default_rng(5)
    for shape in LAID_OUT:
        acc = INPUT_LAYOUTS[layout](accumulators(rng, shape, 0.1))
        before = acc.copy()
        run.check("requantize", acc, multipliers(rng, (), mode), 0, mode=mode, what=f"{shape}")
        for axis in range(len(shape)):
            multiplier = multipliers(rng, (shape[axis],), mode)
            bias = INPUT_LAYOUTS[layout](int32_numbers(rng, (shape[axis],)))
            run.check("requantize", acc, multiplier, 0, bias=bias, axis=axis, mode=mode, what=f"{shape}, axis {axis}")
        assert_same(acc, before, "acc changed")


@pytest.mark.parametrize("place", PLACES)
def test_out(run: Runner, place: str) -> None:
    rng = np.random.default_rng(6)
    for shape in LAID_OUT:
        for kind in TYPES:
            for mode in MODES:
                acc, multiplier = accumulators(rng, shape, 0.1), multipliers(rng, shape[-1:], mode)
                options = {"dtype": kind, "mode": mode, "what": f"{shape} {kind} {mode}"}
                run.check_into(PLACES[place], "requantize", acc, multiplier, 1, **options)


def test_kinds_of_parameters(run: Runner) -> None:
    """Multipliers of every real type; in "float64" mode they keep what float32 would drop."""
    rng = np.random.default_rng(7)
    acc = accumulators(rng, (40, 3), 0.1)
    for real in REAL:
        multiplier = np.array([0.1, 0.3, 0.7]).astype(numpy_dtype(real))
        for mode in ("float", "float64"):
            run.check("requantize", acc, multiplier, np.array([1, 2, 3], np.int8), mode=mode, what=f"{real} {mode}")
    for mode in ("float", "float64"):
        for multiplier in (0.1, 1, 0, [0.1], np.float64(0.1), np.array(0.1)):
            run.check("requantize", acc, multiplier, np.int16(5), dtype=np.int16, mode=mode, what=f"{multiplier!r}")
    halfway = np.nextafter(0.5, 0)  # float32 rounds it to 0.5
    assert_same(run("requantize", np.int32([1]), halfway, 0, mode="float64"), np.int8([0]))
    assert_same(run("requantize", np.int32([1]), 0.5, 0, mode="float64"), np.int8([1]))


def test_relu6_needs_the_scale_of_the_result(run: Runner) -> None:
    with pytest.raises(ValueError, match="y_scale"):
        run("requantize", np.int32([1]), 1.0, 0, activation="relu6")


int32 = strategies.integers(INT32_MIN, INT32_MAX)


@given(
    acc=strategies.lists(int32, min_size=1, max_size=20),
    bias=int32,
    real=strategies.floats(0, 2.0**29),
    zero_point=strategies.integers(-128, 127),
    activation=strategies.sampled_from(ACTIVATIONS),
)
def test_any_accumulator(
    run: Runner, acc: list[int], bias: int, real: float, zero_point: int, activation: str | None
) -> None:
    for mode in MODES:
        multiplier = real if mode in ("float", "float64") else gpuq.quantize_multiplier(real)
        options = {"bias": bias, "activation": activation, "y_scale": 0.1, "mode": mode}
        run.check("requantize", np.array(acc, np.int32), multiplier, zero_point, **options)


# ---- quantize_multiplier ----

REALS = [
    *(0.0, 5e-324, 1e-300, 2.0**-126, 1e-9, 0.1, 1 / 3, 0.5, 1.0, 2.0, 1000.7),
    *(value for exponent in (-33, -32, -31, -1, 0, 1, 29) for value in (2.0**exponent, np.nextafter(2.0**exponent, 0))),
    *(0.5 + 2.0**-33, 0.5 + 3 * 2.0**-33, 1 - 2.0**-33, 1 - 2.0**-32, 1 - 2.0**-31),  # ties of the last bit of m
    2.0**30 - 1,
]


def test_quantize_multiplier() -> None:
    for real in REALS:
        actual = gpuq.quantize_multiplier(real)
        assert_all_same(actual, reference.quantize_multiplier(real), repr(real))
        assert all(isinstance(part, np.int32) for part in actual)
    reals = np.array(REALS)
    for values in (reals, reals.reshape(-1, 1), np.asfortranarray(reals[:20].reshape(4, 5)), reals[::-2], reals[:0]):
        actual = gpuq.quantize_multiplier(values)
        assert_all_same(actual, reference.quantize_multiplier(values))
        assert all(isinstance(part, np.ndarray) for part in actual)


def test_quantize_multiplier_is_near() -> None:
    """real ≈ m·2^(shift−31), within half of the last bit of m."""
    for real in REALS:
        m, shift = (int(part) for part in gpuq.quantize_multiplier(real))
        assert (m, shift) == (0, 0) or 2**30 <= m < 2**31
        assert abs(real - m * 2.0 ** (shift - 31)) <= 2.0 ** (shift - 32)


@pytest.mark.parametrize("real", [-1e-9, math.nan, math.inf, -math.inf, 2.0**30, np.nextafter(2.0**30, 0), [0.5, -1.0]])
def test_quantize_multiplier_refuses(real: Any) -> None:
    with pytest.raises(ValueError, match="real"):
        gpuq.quantize_multiplier(real)


# ---- choose_qparams ----

LARGEST = float(np.finfo(np.float32).max)
RANGES = [
    *((0.0, 0.0), (-0.0, 0.0), (-1.0, 1.0), (-1.0, 2.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 6.0), (-1e-3, 1e3)),
    *((-1e-40, 1e-40), (0.0, 2.0**-126)),  # scales that are no normal float32
    *((-LARGEST, LARGEST), (-1e308, 1e308), (0.0, 1.7e308)),  # widths that overflow
    *((-127.5, 127.5), (-0.5, 254.5), (-1.5, 253.5), (-2.5, 252.5)),  # zero points halfway between two codes
]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_choose_qparams(kind: str, narrow: bool, symmetric: bool) -> None:
    options = {"symmetric": symmetric, "narrow_range": narrow}
    for rmin, rmax in RANGES:
        actual = gpuq.choose_qparams(rmin, rmax, kind, **options)
        expected = reference.choose_qparams(rmin, rmax, kind, **options)
        assert_all_same(tuple(actual)[:2], expected[:2], f"{rmin} … {rmax}")
        assert (actual.qmin, actual.qmax) == expected[2:]
        assert isinstance(actual.scale, np.float32)
        assert isinstance(actual.zero_point, numpy_dtype(kind).type)
    low, high = np.array(RANGES).T
    for rmin, rmax in ((low, high), (low[:, None], 1e308), (-1.0, high[high >= -1]), (low[:0], high[:0])):
        actual = gpuq.choose_qparams(rmin, rmax, kind, **options)
        assert_all_same(tuple(actual)[:2], reference.choose_qparams(rmin, rmax, kind, **options)[:2])


@pytest.mark.parametrize("symmetric", [False, True])
def test_choose_qparams_of_a_width_that_vanishes_when_divided(symmetric: bool) -> None:
    """Only 0 … 0 has scale 1; every other range has at least the smallest normal scale."""
    for rmin, rmax in ((0.0, 5e-324), (-5e-324, 0.0), (-1e-323, 1e-322)):
        actual = gpuq.choose_qparams(rmin, rmax, symmetric=symmetric)
        assert actual.scale == np.float32(2.0**-126)
        expected = reference.choose_qparams(rmin, rmax, symmetric=symmetric)
        assert_all_same(tuple(actual)[:2], expected[:2], f"{rmin} … {rmax}")


@pytest.mark.parametrize("real", REAL)
def test_choose_qparams_of_every_real_type(real: str) -> None:
    low, high = (np.array(values).astype(numpy_dtype(real)) for values in ([[-1.3, 0.2], [-7.7, -0.1]], [3.1, 0.7]))
    expected = reference.choose_qparams(low, high)
    assert_all_same(tuple(gpuq.choose_qparams(low, high))[:2], expected[:2])


def test_choose_qparams_in_words() -> None:
    """The range is covered: rmin gives the lowest code and rmax the highest, 0.0 the zero point."""
    parameters = gpuq.choose_qparams(-1.0, 3.0)
    assert parameters == gpuq.QParams(np.float32(4 / 255), np.int8(-64), -128, 127)
    assert gpuq.choose_qparams(-1.0, 3.0, symmetric=True) == gpuq.QParams(np.float32(3 / 127), np.int8(0), -128, 127)
    assert gpuq.choose_qparams(-1.0, 3.0, "uint8", symmetric=True).zero_point == 128
    x = np.float32([-1, 0, 3])
    assert gpuq.quantize_linear(x, parameters.scale, parameters.zero_point).tolist() == [-128, -64, 127]


@pytest.mark.parametrize(("rmin", "rmax"), [(1, 0), (math.nan, 1), (0, math.nan), (0, math.inf), (-math.inf, 0)])
def test_choose_qparams_refuses(rmin: float, rmax: float) -> None:
    with pytest.raises(ValueError, match="rmin|rmax"):
        gpuq.choose_qparams(rmin, rmax)
    with pytest.raises(ValueError, match="rmin|rmax"):
        gpuq.choose_qparams([rmin, 0.0], [rmax, 1.0])
