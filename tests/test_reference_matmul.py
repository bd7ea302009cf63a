"""The reference's products and requantization against Python integers and fractions, on adversarial values."""
from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import exact
from compare import assert_all_same, assert_same, assert_within_ulp
from gpuq import reference
from gpuq.dtypes import QUANTIZED, numpy_dtype
from shapes import BATCHED, MATMUL_FEW

Array = npt.NDArray[Any]
ENOUGH = 10_000  # adversarial values for every operator
BYTES = ("int8", "uint8")
MIXES = [(one, other) for one in BYTES for other in BYTES]
MULTIPLIERS = [float(np.float32(m)) for m in (
    1, 0.5, 2**-8, 2**-31, 3, 0.1, 1 / 3, 0.00123, 0.7499999, 1e-9, 2**-126, 1e30,
)]


def codes(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Array:
    """Random codes, half of them at the ends of the type."""
    low, high = QUANTIZED[name].qmin, QUANTIZED[name].qmax
    ends = rng.choice([low, high, 0], shape)
    return np.where(rng.random(shape) < 0.5, ends, rng.integers(low, high + 1, shape)).astype(name)


def product(a: Array, b: Array, a_zero_point: Array, b_zero_point: Array) -> list[list[int]]:
    """(a - za) @ (b - zb) of matrices in Python integers, the zero points already of the operands' shapes."""
    def differences(codes: Array, zero_points: Array) -> list[list[int]]:
        lines = zip(codes.tolist(), zero_points.tolist(), strict=True)
        return [[x - z for x, z in zip(*line, strict=True)] for line in lines]

    left, right = differences(a, a_zero_point), differences(b.T, b_zero_point.T)
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in right] for row in left]


def accumulators(multiplier: float, rng: np.random.Generator, zero_point: int = 0) -> list[int]:
    """int32 values: around the ties of t·multiplier near every bound of 8 and 16 bits, the ends, random ones."""
    places = {0, -128, 127, 255, -32768, 32767, 65535}
    halves = [place - zero_point + Fraction(offset, 2) for place in places for offset in (-3, -1, 1, 3)]
    near = [math.floor(half / Fraction(multiplier)) + step for half in halves for step in (-1, 0, 1, 2)]
    centres = (exact.INT32_MIN, exact.INT32_MAX, 0, 2**24, -(2**24), 2**25, 2**30)
    ends = [centre + step for centre in centres for step in (-2, -1, 0, 1, 2)]
    inside = [t for t in near + ends if exact.INT32_MIN <= t <= exact.INT32_MAX]
    inside += rng.integers(-70000, 70000, 40).tolist()
    return inside + rng.integers(exact.INT32_MIN, exact.INT32_MAX + 1, 40).tolist()


@pytest.mark.parametrize(("left", "right"), MIXES)
def test_matmul_integer_with_both_zero_points(left: str, right: str) -> None:
    rng, count = np.random.default_rng(1), 0
    for m, k, n in MATMUL_FEW:
        a, b = codes(rng, left, (m, k)), codes(rng, right, (k, n))
        rows, columns = codes(rng, left, (m,)), codes(rng, right, (n,))
        for za, zb in ((None, None), (rows, columns), (rows[:, None], columns[None]), (3, np.full((1, 1, 1), 7, right)),
                       (codes(rng, left, (1,)), None), (None, codes(rng, right, ()))):
            wide_a = np.asarray(0 if za is None else za).astype(int).reshape(-1, 1)
            wide_b = np.asarray(0 if zb is None else zb).astype(int).reshape(1, -1)
            expected = product(a, b, np.broadcast_to(wide_a, (m, k)), np.broadcast_to(wide_b, (k, n)))
            actual = reference.matmul_integer(a, b, za, zb)
            assert_same(actual, np.array(expected, np.int32).reshape(m, n), f"{m, k, n}")
            count += m * n
    assert count >= ENOUGH


@pytest.mark.parametrize(("a_shape", "b_shape"), BATCHED)
def test_batches_and_vectors(a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    """NumPy's rules for shapes, with a zero point and a scale for every row and column of every matrix."""
    rng = np.random.default_rng(2)
    a, b = codes(rng, "uint8", a_shape), codes(rng, "int8", b_shape)
    shape = np.matmul(np.zeros(a_shape), np.zeros(b_shape)).shape
    batch = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    za = codes(rng, "uint8", (*batch, a_shape[-2], 1) if a.ndim > 1 else (1,))
    zb = codes(rng, "int8", (*batch, 1, b_shape[-1]) if b.ndim > 1 else ())
    sa, sb = rng.uniform(0.1, 1, za.shape).astype(np.float32), rng.uniform(0.1, 1, zb.shape).astype(np.float32)
    integers, reals = reference.matmul_integer(a, b, za, zb), reference.scaled_matmul(a, b, sa, sb, za, zb)
    y = reference.qlinear_matmul(a, sa, za, b, sb, zb, sa * 300, za)
    assert (integers.shape, reals.shape, y.shape) == (shape, shape, shape)

    def matrices(values: Array, rows: int, columns: int) -> Array:
        return np.broadcast_to(values, (*batch, rows, columns))

    m, n, k = a_shape[-2] if a.ndim > 1 else 1, b_shape[-1] if b.ndim > 1 else 1, a_shape[-1]
    results = [result.reshape(*batch, m, n) for result in (integers, reals, y)]
    left, right = matrices(a, m, k), matrices(b[:, None] if b.ndim == 1 else b, k, n)
    all_za, all_zb = matrices(za, m, k), matrices(zb, k, n)
    for where in np.ndindex(batch):
        expected = product(left[where], right[where], all_za[where], all_zb[where])
        for row, column in np.ndindex(m, n):
            total, place = expected[row][column], (*where, row, column)
            one, other = float(matrices(sa, m, n)[place]), float(matrices(sb, m, n)[place])
            assert int(results[0][place]) == total
            assert float(results[1][place]) == exact.times(float(total), exact.times(one, other))
            multiplier = exact.divided(exact.times(one, other), float(np.float32(one) * np.float32(300)))
            zero_point = int(matrices(za, m, n)[place])
            v = exact.times(float(total), multiplier)
            assert int(results[2][place]) == exact.code(v, zero_point, 0, 255, "half_even")


def test_matmul_integer_fits_int32_or_raises() -> None:
    """k = 33,025 always fits; one more does not; the very ends of int32 do, and one beyond either does not."""
    for za, sign in ((0, 1), (255, -1)):
        full = np.full(33_026, 255 if sign > 0 else 0, np.uint8)
        ones = np.full(33_026, 255, np.uint8)
        assert int(reference.matmul_integer(full[1:], ones[1:], za)) == sign * 33_025 * 255**2
        with pytest.raises(OverflowError):
            reference.matmul_integer(full, ones, za)
        # 33,025·255² + 255·129 + 127·1 = 2^31 - 1
        a = np.array([255] * 33_026 + [127, 1, 1], np.int64)
        a = (a if sign > 0 else 255 - a).astype(np.uint8)
        b = np.array([255] * 33_025 + [129, 1, 0, 0], np.uint8)
        assert int(reference.matmul_integer(a, b, za)) == sign * exact.INT32_MAX
        b[-2] = 1
        if sign > 0:
            with pytest.raises(OverflowError):
                reference.matmul_integer(a, b, za)
        else:
            assert int(reference.matmul_integer(a, b, za)) == exact.INT32_MIN
        assert float(reference.scaled_matmul(a, b, 1.0, 1.0, za)) == sign * 2.0**31
        b[-1] = 1
        with pytest.raises(OverflowError):
            reference.matmul_integer(a, b, za)
        assert int(reference.qlinear_matmul(a, 1.0, za, b, 1.0, 0, 2.0**24, 127)) == (255 if sign > 0 else 0)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("rounding", ["half_even", "half_away", "half_up"])
def test_qlinear_matmul(rounding: str, activation: str | None) -> None:
    """The bias carries adversarial accumulators; every row has its own scale, output scale and zero point."""
    rng, count = np.random.default_rng(3), 0
    for step, multiplier in enumerate(MULTIPLIERS):
        kind, narrow = QUANTIZED[BYTES[step % 2]], step % 3 == 0
        low, high = kind.lowest(narrow), kind.qmax
        y_zero_point = np.array([low, high, exact.clamp(0, low, high), rng.integers(low, high + 1)]).astype(kind.name)
        y_scale = np.array([1, 0.5, 0.3, 0.013], np.float32)
        a_scale, b_scale = (y_scale * np.float32([1, 0.5, 1, 1.3]))[:, None], multiplier
        a, b = codes(rng, "uint8", (4, 3)), codes(rng, "int8", (3, 1))
        targets = [t for z in {0, int(y_zero_point[3])} for t in accumulators(multiplier, rng, z)]
        offset = product(a[:1], b, np.full((1, 3), 128), np.zeros((3, 1), int))[0][0]
        bias = np.clip(np.array(targets) - offset, exact.INT32_MIN, exact.INT32_MAX).astype(np.int32)
        b = np.repeat(b, bias.size, axis=1)
        y = reference.qlinear_matmul(a, a_scale, 128, b, b_scale, None, y_scale, y_zero_point, bias=bias,
                                     activation=activation, narrow_range=narrow, rounding=rounding)
        total = product(a, b[:, :1], np.full((4, 3), 128), np.zeros((3, 1), int))
        expected = []
        for row in range(4):
            z, scale = int(y_zero_point[row]), float(y_scale[row])
            m = exact.divided(exact.times(float(a_scale[row, 0]), b_scale), scale)
            ends = exact.bounds(low, high, z, activation, scale)
            sums = [exact.nearest(total[row][0] + t) for t in bias.tolist()]
            expected.append([exact.code(exact.times(t, m), z, *ends, rounding) for t in sums])
        assert_same(y, np.array(expected).astype(kind.name), f"{multiplier} {kind.name}")
        count += y.size
    assert count >= ENOUGH


def test_order_of_the_scale_product() -> None:
    """(S_a·S_b) / S_y, not S_a·(S_b / S_y): accumulators at ties that one unit in the last place of m decides."""
    rng, decided = np.random.default_rng(9), 0
    nothing, place = np.zeros((1, 1), np.uint8), np.arange(-127, 127)
    while decided < 100:
        a_scale, b_scale, y_scale = (float(scale) for scale in rng.uniform([0.5, 1e-5, 0.5], [1, 1e-4, 1]).astype("f4"))
        m = exact.divided(exact.times(a_scale, b_scale), y_scale)
        other = exact.times(a_scale, exact.divided(b_scale, y_scale))
        bias = np.rint((place + 0.5) / m).astype(np.int32)
        expected = [exact.code(exact.times(t, m), 128, 0, 255, "half_even") for t in bias.tolist()]
        wrong = [exact.code(exact.times(t, other), 128, 0, 255, "half_even") for t in bias.tolist()]
        decided += np.count_nonzero(np.array(expected) != wrong)
        b = np.zeros((1, bias.size), np.uint8)
        y = reference.qlinear_matmul(nothing, a_scale, 0, b, b_scale, 0, y_scale, 128, bias=bias)
        assert_same(y[0], np.array(expected, np.uint8), f"{a_scale, b_scale, y_scale}")


def test_output_type_of_qlinear_matmul() -> None:
    a, b = np.zeros((1, 1), np.int8), np.zeros((1, 1), np.int8)
    assert reference.qlinear_matmul(a, 1.0, 0, b, 1.0, 0, 1.0, 3).dtype == np.uint8
    assert reference.qlinear_matmul(a, 1.0, 0, b, 1.0, 0, 1.0, np.int8(3)).dtype == np.int8


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_scaled_matmul(name: str) -> None:
    """Accumulators beyond 2^24, biases of every kind of value, all exact activations."""
    rng, count = np.random.default_rng(4), 0
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 6.0, 3.4028234663852886e38, 2.0**-149, 65504.0, 65520.0]
    for step in range(12):
        left, right = MIXES[step % 4]
        a, b = codes(rng, left, (25, 300)), codes(rng, right, (300, 40))
        za, zb = codes(rng, left, (25,)), codes(rng, right, (40,))
        a[:8], za[:8], b[:, :20], zb[:20] = (QUANTIZED[left].qmax, QUANTIZED[left].qmin,
                                             QUANTIZED[right].qmax, QUANTIZED[right].qmin)
        a[:8, :3], b[:5, :20] = za[0], codes(rng, right, (5, 20))
        a_scale = 2.0 ** rng.uniform(-30, 0, 25).astype(np.float32) * (1 if step % 3 else 2.0**-40)
        b_scale = 2.0 ** rng.uniform(-20, 3, 40).astype(np.float32)
        typical = np.float32(np.median(a_scale)) * np.median(b_scale) * 4e6
        bias = rng.normal(size=40).astype(np.float32) * np.float32(typical)
        bias[:len(special)] = special
        sums = product(a, b, np.broadcast_to(za[:, None], a.shape), np.broadcast_to(zb, b.shape))
        activation: str | None = (None, "relu", "relu6")[step % 3]
        for with_bias in (None, bias):
            actual = reference.scaled_matmul(a, b, a_scale, b_scale, za, zb, bias=with_bias, activation=activation,
                                             dtype=name)
            expected = np.empty((25, 40))
            for row, column in np.ndindex(25, 40):
                scale = exact.times(float(np.float32(a_scale[row])), float(b_scale[column]))
                v = exact.times(exact.nearest(sums[row][column]), scale)
                v = v if with_bias is None else exact.plus(v, float(bias[column]))
                if activation:
                    v = v if v > 0 or math.isnan(v) else 0.0
                if activation == "relu6" and v > 6:
                    v = 6.0
                expected[row, column] = exact.convert(v, name)
            assert_same(actual, expected.astype(numpy_dtype(name)), f"step {step}, {activation}")
            count += actual.size
    assert count >= ENOUGH


def precise_gelu(v: Decimal) -> Decimal:
    """v/2·(1 + erf(v/√2)), erf by its power series in 150 digits; below -15 beneath every float32, above 15 it is v."""
    if abs(v) > 15:
        return v if v > 0 else Decimal(0)
    x = v / Decimal(2).sqrt()
    total, power, n = Decimal(0), x, 0
    while abs(power) > Decimal(10) ** -140:
        total += power / (2 * n + 1)
        n += 1
        power *= -x * x / n
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211707")
    return v / 2 * (1 + 2 * total / pi.sqrt())


def precise_silu(v: Decimal) -> Decimal:
    return v / (1 + (-v).exp())


@pytest.mark.parametrize(("activation", "precise"), [("gelu", precise_gelu), ("silu", precise_silu)])
def test_smooth_activations(activation: str, precise: Callable[[Decimal], Decimal]) -> None:
    """Within 4 ulp of the true value, the limits at the infinities exact, NaN stays."""
    rng = np.random.default_rng(5)
    v = np.concatenate([rng.normal(size=200), rng.uniform(-14.5, 14.5, 300), rng.uniform(-110, -80, 50), [0.0],
                        10.0 ** rng.uniform(-44, 1, 100), -(10.0 ** rng.uniform(-44, 1, 100))]).astype(np.float32)
    nothing = np.zeros((1, 1), np.uint8)
    actual = reference.scaled_matmul(nothing, np.zeros((1, v.size), np.uint8), 1.0, 1.0, bias=v, activation=activation)
    with localcontext() as context:
        context.prec = 150
        true = [exact.nearest(Fraction(precise(Decimal(float(value))))) for value in v]
    assert_within_ulp(actual[0], np.array(true, np.float32), 4, activation)
    ends = np.array([-math.inf, math.inf, math.nan, -1e30, 1e30, -0.0], np.float32)
    actual = reference.scaled_matmul(np.zeros((1, 0), np.uint8), np.zeros((0, 6), np.uint8), 1.0, 1.0, bias=ends,
                                     activation=activation)
    assert_same(actual[0], np.array([-0.0, math.inf, math.nan, -0.0, np.float32(1e30), 0.0], np.float32))


def multipliers(mode: str) -> list[tuple[Any, float]]:
    """Multipliers of a mode, each with the real number it stands for."""
    if mode == "float":
        return [(m, m) for m in MULTIPLIERS]
    if mode == "float64":
        return [(m, m) for m in (*MULTIPLIERS[:10], 0.1, 1 / 3, 0.0123456789012345, 1e-300, 1e300)]
    shifts = (0, 1, -1, -7, -15, -31, 9, 30)
    pairs = [(m, shift) for m in (2**30, 2**31 - 1, 1518500250, 1073741825) for shift in shifts]
    return [((m, shift), m * 2.0 ** (shift - 31)) for m, shift in pairs] + [((0, 0), 1.0)]


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("mode", ["float", "float64", "fixed_point", "fixed_point_half_up"])
def test_requantize(mode: str, activation: str | None) -> None:
    rng, count = np.random.default_rng(6), 0
    choices = multipliers(mode)
    for step, choice in enumerate(np.concatenate([rng.permutation(len(choices)) for _ in range(5)])):
        multiplier, value = choices[choice]
        kind = QUANTIZED[("int8", "uint8", "int16", "uint16")[step % 4]]
        narrow, y_scale = step % 3 == 0, (0.03, 1.0, 3e-5, 12.0, 2e-39)[step % 5]
        low, high = kind.lowest(narrow), kind.qmax
        z = (exact.clamp(0, low, high), low, high, int(rng.integers(low, high + 1)))[step // 2 % 4]
        t = accumulators(value, rng, z)
        bias = int(rng.integers(-1000, 1000)) if step % 2 else None
        acc = [exact.clamp(total - (bias or 0), exact.INT32_MIN, exact.INT32_MAX) for total in t]
        ends = exact.bounds(low, high, z, activation, float(np.float32(y_scale)))
        values = [exact.requantized(one + (bias or 0), multiplier, mode) for one in acc]
        expected = [exact.code(v, z, *ends, "half_even") for v in values]
        actual = reference.requantize(np.array(acc, np.int32), multiplier, z, bias=bias, activation=activation,
                                      y_scale=y_scale, dtype=kind.name, narrow_range=narrow, mode=mode)
        assert_same(actual, np.array(expected).astype(kind.name), f"{multiplier} {kind.name} z={z} bias={bias}")
        count += len(acc)
    assert count >= ENOUGH


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("mode", ["float", "float64", "fixed_point", "fixed_point_half_up"])
def test_requantize_along_an_axis(mode: str, axis: int) -> None:
    rng, shape = np.random.default_rng(7), (5, 6)
    length = shape[axis]
    acc = rng.integers(exact.INT32_MIN, exact.INT32_MAX + 1, shape, np.int32)
    real = rng.uniform(1e-9, 3e-8, length)  # sums beyond int32 stay within 16 bits
    bias = rng.integers(exact.INT32_MIN, exact.INT32_MAX + 1, length, np.int32)
    zero_point = rng.integers(-128, 128, length).astype(np.int16)
    fixed = mode.startswith("fixed")
    multiplier = reference.quantize_multiplier(real) if fixed else real.astype("f4" if mode == "float" else "f8")
    actual = reference.requantize(acc, multiplier, zero_point, bias=bias, axis=axis, dtype="int16", mode=mode)
    for index in np.ndindex(shape):
        i = index[axis]
        one = tuple(int(part[i]) for part in multiplier) if fixed else float(multiplier[i])
        u = exact.requantized(int(acc[index]) + int(bias[i]), one, mode)
        assert int(actual[index]) == exact.code(u, int(zero_point[i]), -32768, 32767, "half_even"), index


def test_quantize_multiplier() -> None:
    rng = np.random.default_rng(8)
    powers = 2.0 ** np.arange(-40, 31)
    below = np.nextafter(powers, 0)
    ties = rng.integers(2**31, 2**32, 500) * 2.0**-33 + 2.0**-34
    real = np.concatenate([
        [0.0, 2.0**-1074, 1e-300, 0.1], powers, below, np.nextafter(powers, np.inf), 0.75 * powers,
        powers * (1 - 2.0**-32), powers * (1 - 3 * 2.0**-33), powers * (1 + 2.0**-31), ties,
        2.0 ** rng.uniform(-34, 30, 10_000),
    ])
    real = real[real < 2.0**30 * (1 - 2.0**-32)]  # from here on the shift is 31
    expected = []
    for value in (Fraction(one) for one in real.tolist()):
        shift = 0 if value == 0 else value.numerator.bit_length() - value.denominator.bit_length()
        shift += value >= Fraction(2) ** shift
        m = math.floor(value / Fraction(2) ** shift * 2**31 + Fraction(1, 2))
        m, shift = (2**30, shift + 1) if m == 2**31 else (m, shift)
        expected.append((0, 0) if m == 0 or shift < -31 else (m, shift))
    assert real.size >= ENOUGH
    assert_all_same(reference.quantize_multiplier(real), tuple(np.array(expected, np.int32).T))
    m, shift = reference.quantize_multiplier(0.1)
    assert (type(m), type(shift), int(m), int(shift)) == (np.int32, np.int32, 1717986918, -3)
