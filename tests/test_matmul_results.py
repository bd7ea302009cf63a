"""Results of the matrix products, bit for bit: bias, activation, rounding, types, sums too deep for int32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compare import assert_same, assert_within_ulp
from gpuq import reference
from gpuq.dtypes import QUANTIZED, numpy_dtype
from products import (
    BYTES,
    DEEPEST,
    INT32_MAX,
    INT32_MIN,
    MIXES,
    REAL_RESULTS,
    ROUNDINGS,
    Array,
    arguments,
    biases,
    operands,
    some,
)
from runner import Runner
from shapes import MATMUL_FEW
from values import codes

# ---- bias, activation, rounding, type of the result ----


@pytest.mark.parametrize("dtype", REAL_RESULTS)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_scaled_matmul(run: Runner, activation: str | None, dtype: str) -> None:
    rng = np.random.default_rng(8)
    for m, k, n in MATMUL_FEW:
        a, b = operands(rng, MIXES[m % 4], (m, k), (k, n))
        for shape in ((), (1, 1), (n,), (1, n)):
            values = arguments(rng, "scaled_matmul", a, b, (m,), (n,))
            bias = some(rng, (0.0, -0.0, 1e-9, -3.7, 5.5, 1e4, np.inf, -np.inf, np.nan, -1e30), shape)
            options = {"bias": bias, "activation": activation, "dtype": dtype}
            run.check("scaled_matmul", **values, **options, what=f"{m, k, n} {bias} {activation} {dtype}")


@pytest.mark.parametrize("dtype", REAL_RESULTS)
def test_scaled_matmul_results_of_every_size(run: Runner, dtype: str) -> None:
    """Products beyond the type, subnormal ones, and bias of every real type."""
    rng = np.random.default_rng(9)
    a, b = operands(rng, ("int8", "uint8"), (6, 5), (5, 7))
    for scale in (2.0**-126, 2.0**-100, 2.0**-24, 1e-5, 1.0, 60.0, 1e30, 2.0**127):
        run.check("scaled_matmul", a, b, scale, 1.0, dtype=dtype, what=f"{scale}")
        for real in ("float64", "float32", "float16", "bfloat16"):
            bias = rng.normal(size=7).astype(numpy_dtype(real))
            run.check("scaled_matmul", a, b, scale, np.float32(1), 3, bias=bias, dtype=dtype, what=f"{scale} {real}")
    run.check("scaled_matmul", a, b, 1.0, 1.0, bias=0.1, dtype=dtype)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_smooth_activations(run: Runner, activation: str) -> None:
    rng = np.random.default_rng(10)
    for m, k, n in MATMUL_FEW:
        a, b = operands(rng, MIXES[n % 4], (m, k), (k, n))
        bias = some(rng, (0.0, -0.0, 1e-9, -3.7, 5.5, 1e4, np.inf, -np.inf, np.nan, -1e30), (n,))
        for scale in run.part((1.0, 0.01, 1e-5, 1e-30), m + k + n, 4):
            values = a, b, scale, 1.0, codes(rng, a.dtype.name, (m,)), 3
            expected = reference.scaled_matmul(*values, bias=bias, activation=activation)
            actual = run("scaled_matmul", *values, bias=bias, activation=activation)
            assert_within_ulp(actual, expected, 4, f"{m, k, n} {scale}")
            for dtype in ("float16", "bfloat16"):
                actual = run("scaled_matmul", *values, bias=bias, activation=activation, dtype=dtype)
                assert_casts_of_neighbours(actual, expected, dtype)


def assert_casts_of_neighbours(actual: Array, expected: Array, dtype: str) -> None:
    """Assert that every element is the rounded value of a float32 within 4 ulp of the expected one."""
    low = high = expected
    for _ in range(4):
        low, high = np.nextafter(low, np.float32(-np.inf)), np.nextafter(high, np.float32(np.inf))
    with np.errstate(over="ignore"):
        low, high = low.astype(numpy_dtype(dtype)), high.astype(numpy_dtype(dtype))
    assert actual.dtype == low.dtype
    low, actual, high = (values.astype(np.float32) for values in (low, actual, high))
    inside = (low <= actual) & (actual <= high) | np.isnan(actual) & np.isnan(expected)
    assert inside.all(), f"{actual[~inside]}, expected {low[~inside]} … {high[~inside]}"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("kind", BYTES)
def test_qlinear_matmul(run: Runner, kind: str, activation: str | None, rounding: str) -> None:
    rng = np.random.default_rng(11)
    for step, (m, k, n) in enumerate(MATMUL_FEW):
        a, b = operands(rng, MIXES[step % 4], (m, k), (k, n))
        shapes = itertools.product((None, (), (1, 1), (n,), (1, n)), ((), (m,), (m, 1)))
        for bias_shape, rows in run.part(shapes, step + ROUNDINGS.index(rounding) + BYTES.index(kind), 4):
            narrow = bool((step + len(rows)) % 2)
            values = arguments(rng, "qlinear_matmul", a, b, rows, (n,))
            values["y_zero_point"] = codes(rng, kind, rows, narrow)
            options = {
                "bias": None if bias_shape is None else biases(rng, bias_shape),
                "activation": activation,
                "narrow_range": narrow,
                "rounding": rounding,
            }
            run.check("qlinear_matmul", **values, **options, what=f"{m, k, n} {rows} {options}")


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_qlinear_matmul_ties(run: Runner, rounding: str) -> None:
    """Every accumulator from -600 to 600 halved: bias alone, as the codes are 0."""
    acc = np.arange(-600, 601, dtype=np.int32)
    a, b = np.zeros((1, 2), np.int8), np.zeros((2, acc.size), np.int8)
    for point in (np.int8(0), np.int8(-128), np.int8(127), np.uint8(7)):
        for y_scale in (2.0, 4.0, 0.5):
            run.check("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, y_scale, point, bias=acc, rounding=rounding)


def test_qlinear_matmul_types_of_results(run: Runner) -> None:
    """y_zero_point decides; a Python int means uint8."""
    a = np.int8([[-3, 3]])
    b = np.uint8([[2, 0], [0, 2]])
    assert_same(run("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, 1.0, 0), np.uint8([[0, 6]]))
    assert_same(run("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, 1.0, np.int8(0)), np.int8([[-6, 6]]))
    assert_same(run("qlinear_matmul", a, 1.0, 0, b, 1.0, 0, 1.0, np.uint8([10])), np.uint8([[4, 16]]))


def test_scales_of_every_real_type(run: Runner) -> None:
    rng = np.random.default_rng(12)
    a, b = operands(rng, ("int8", "int8"), (3, 5), (5, 4))
    for real in ("float64", "float32", "float16", "bfloat16"):
        rows, columns = np.array([0.1, 0.3, 2.0]), np.array([0.7, 0.01, 1.0, 3.3])
        rows, columns = rows.astype(numpy_dtype(real)), columns.astype(numpy_dtype(real))
        run.check("scaled_matmul", a, b, rows, columns, what=real)
        run.check("qlinear_matmul", a, rows, 0, b, columns, 0, rows, np.int8(3), what=real)


# ---- deep sums ----


@pytest.mark.parametrize("mix", MIXES)
def test_the_deepest_product_that_never_overflows(run_each_isa: Runner, mix: tuple[str, str]) -> None:
    """k = 33,025, every |code - zero point| 255: the sum is 33,025 · 255² = 2,147,450,625, or minus that."""
    low, high = ([getattr(QUANTIZED[name], end) for name in mix] for end in ("qmin", "qmax"))
    for a_code, a_point in ((high[0], low[0]), (low[0], high[0])):
        for b_code, b_point in ((high[1], low[1]), (low[1], high[1])):
            a, b = np.full((2, DEEPEST), a_code, mix[0]), np.full((DEEPEST, 3), b_code, mix[1])
            expected = DEEPEST * (a_code - a_point) * (b_code - b_point)
            actual = run_each_isa("matmul_integer", a, b, a_point, b_point)
            assert_same(actual, np.full((2, 3), expected, np.int32))


def deep(total: int) -> tuple[Array, Array, int, int]:
    """uint8 a and b with zero points whose product is `total`, beyond 33,025 · 255² in magnitude."""
    a, b = [255] * DEEPEST, [255] * DEEPEST
    rest = abs(total) - DEEPEST * 255 * 255
    while rest > 0:
        factor = min(rest, 255)
        a.append(factor)
        b.append(rest // factor if rest // factor < 256 else 255)
        rest -= a[-1] * b[-1]
    if total > 0:
        return np.uint8([a]), np.uint8(b)[:, None], 0, 0
    return np.uint8([a]), 255 - np.uint8(b)[:, None], 0, 255


@pytest.mark.parametrize("total", [INT32_MAX, INT32_MIN])
def test_the_largest_sums_that_fit(run_each_isa: Runner, total: int) -> None:
    assert_same(run_each_isa("matmul_integer", *deep(total)), np.int32([[total]]))


TOO_LARGE = (INT32_MAX + 1, INT32_MIN - 1, INT32_MAX + 1000, 2**32, 2**32 + 1, -(2**32))


@pytest.mark.parametrize("total", TOO_LARGE)
def test_sums_that_do_not_fit(run_each_isa: Runner, total: int) -> None:
    values = deep(total)
    with pytest.raises(OverflowError, match="int32"):
        run_each_isa("matmul_integer", *values)


@pytest.mark.parametrize("total", TOO_LARGE)
def test_sums_that_need_not_fit(run: Runner, total: int) -> None:
    """Results that are no int32 are those of the exact sum."""
    a, b, a_point, b_point = deep(total)
    assert_same(run("scaled_matmul", a, b, 1.0, 1.0, a_point, b_point), np.float32([[total]]))
    run.check("scaled_matmul", a, b, 2.0**-20, 1.0, a_point, b_point, bias=np.float32([-total * 2.0**-20]))
    cases = itertools.product((2.0**25, 2.0**24, 3e7), (None, INT32_MIN, INT32_MAX))
    for y_scale, bias in run.part(cases, TOO_LARGE.index(total), 3):
        values = (a, 1.0, a_point, b, 1.0, b_point, y_scale, np.int8(-3))
        run.check("qlinear_matmul", *values, bias=bias, what=f"{y_scale} {bias}")


@pytest.mark.parametrize("k", [DEEPEST + 1, 40_000, 66_052, 131_073])
def test_long_sums_that_cancel(run_each_isa: Runner, k: int) -> None:
    """Partial sums leave int32, the result does not."""
    a = np.full((3, k), 255, np.uint8)
    b = np.full((k, 2), 127, np.int8)
    b[k // 2 :] = -127
    run_each_isa.check("matmul_integer", a, b)


def test_one_element_that_overflows_among_many(run_each_isa: Runner) -> None:
    a = np.zeros((70, DEEPEST + 8), np.uint8)
    b = np.full((DEEPEST + 8, 5), 255, np.uint8)
    a[68] = 255
    assert (DEEPEST + 8) * 255 * 255 > INT32_MAX
    with pytest.raises(OverflowError, match="int32"):
        run_each_isa("matmul_integer", a, b)
    a[68] = 254
    run_each_isa.check("matmul_integer", a, b)
