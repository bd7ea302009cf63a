"""What gpuq promises, one promise a test, on values small enough to check by hand.

The sweeps in the other files prove every operator against reference.py; these tests say in plain words what would be
wrong. test_traps.py plants each such error and sees to it that its test here fails.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import gpuq
from compare import assert_same

TIES = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])


def random_codes(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("depth", [5, 40_000])
def test_every_zero_point_term_counts(depth: int) -> None:
    """(a − za)(b − zb) = ab − za·b − zb·a + za·zb: with both zero points away from 0 no term can go missing, neither
    where int32 holds every term nor where k is too large for that.
    """
    generator = np.random.default_rng(1)
    a, b = random_codes(generator, (3, depth), "uint8"), random_codes(generator, (depth, 4), "int8")
    expected = (a.astype(np.int64) - 7) @ (b.astype(np.int64) + 11)
    assert gpuq.matmul_integer(a, b, 7, -11).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rounding", "codes"),
    [
        ("half_even", [-2, -2, 0, 0, 2, 2]),
        ("half_away", [-3, -2, -1, 1, 2, 3]),
        ("half_up", [-2, -1, 0, 1, 2, 3]),
    ],
)
def test_ties_go_where_the_rounding_says(rounding: str, codes: list[int]) -> None:
    assert gpuq.quantize_linear(TIES, 1.0, dtype="int8", rounding=rounding).tolist() == codes


def test_just_below_a_tie_is_no_tie() -> None:
    """0.49999997 + 0.5 is 1 in float32: whoever rounds by adding 0.5 gets 1 here."""
    below = np.nextafter(TIES, np.float32(0))
    for rounding in ("half_even", "half_away", "half_up"):
        codes = gpuq.quantize_linear(below, 1.0, dtype="int8", rounding=rounding)
        assert codes.tolist() == [-2, -1, 0, 0, 1, 2]


def test_quantization_divides_and_does_not_multiply_by_the_inverse() -> None:
    scale = np.float32(0.3)
    x = np.arange(0.5, 120, dtype=np.float32) * scale
    by_inverse = np.rint(x * (np.float32(1) / scale)).astype(np.uint8)
    codes = gpuq.quantize_linear(x, scale)
    assert codes.tolist() == np.rint(x / scale).tolist()
    assert (codes != by_inverse).any()


def test_nan_becomes_the_zero_point_and_infinities_saturate() -> None:
    x = np.float32([np.nan, np.inf, -np.inf])
    for rounding in ("half_even", "half_away", "half_up", "torch"):
        assert gpuq.quantize_linear(x, 0.5, np.int8(3), rounding=rounding).tolist() == [3, 127, -128]


def test_the_last_short_block_has_its_own_scale() -> None:
    x = np.ones((2, 5), np.float32)
    scale = np.float32([[1, 0.5, 0.25], [0.2, 0.125, 0.0625]])
    codes = gpuq.quantize_linear(x, scale, block_size=2)
    assert codes.tolist() == [[1, 1, 2, 2, 4], [5, 5, 8, 8, 16]]


def test_scales_are_multiplied_with_each_other_first() -> None:
    """f32(acc·f32(sa·sb)), not f32(f32(acc·sa)·sb): there are values that tell them apart."""
    a, b = np.arange(1, 120, dtype=np.int8)[:, np.newaxis], np.int8([[113]])
    a_scale, b_scale = np.float32(0.1), np.float32(0.3)
    accumulators = (a.astype(np.int32) * 113).astype(np.float32)
    expected = accumulators * (a_scale * b_scale)
    assert_same(gpuq.scaled_matmul(a, b, a_scale, b_scale), expected)
    assert (expected != accumulators * a_scale * b_scale).any()


def test_the_product_is_rounded_before_the_bias_is_added() -> None:
    """One rounding too few (a fused multiply-add) gives other bits on some of these values."""
    a, b = np.arange(1, 120, dtype=np.int8)[:, np.newaxis], np.int8([[113]])
    scale, bias = np.float32(0.1), np.float32(-600.0)
    products = (a.astype(np.int32) * 113).astype(np.float32)
    fused = [
        [np.float32(float(Fraction(float(p)) * Fraction(float(scale)) + Fraction(float(bias))))] for p in products[:, 0]
    ]
    expected = products * scale + bias
    assert_same(gpuq.scaled_matmul(a, b, scale, 1.0, bias=bias), expected)
    assert (expected != np.float32(fused)).any()


def test_accumulators_beyond_int32_stay_exact_in_float_and_8_bit_outputs() -> None:
    a, b = np.full((1, 40_000), 255, np.uint8), np.full((40_000, 1), 255, np.uint8)
    assert gpuq.scaled_matmul(a, b, 1.0, 1.0).tolist() == [[float(np.float32(2_601_000_000))]]
    assert gpuq.qlinear_matmul(a, 1.0, None, b, 1.0, None, 2.601e7, np.uint8(0)).tolist() == [[100]]


def test_an_accumulator_that_does_not_fit_int32_is_an_error() -> None:
    a, b = np.full((1, 40_000), 255, np.uint8), np.full((40_000, 1), 255, np.uint8)
    with pytest.raises(OverflowError, match="int32"):
        gpuq.matmul_integer(a, b)


def test_the_largest_sum_at_the_documented_depth_fits() -> None:
    """k = 33,025 is the last depth at which no types and zero points can overflow int32."""
    a, b = np.full((1, 33_025), 255, np.uint8), np.full((33_025, 1), 255, np.uint8)
    assert gpuq.matmul_integer(a, b).tolist() == [[33_025 * 255 * 255]]


def test_an_int32_bias_is_added_exactly_before_the_one_rounding() -> None:
    """2^24 + 1 is no float32: rounding the accumulator alone first would lose the 1 that the bias takes back."""
    accumulator = np.int32([2**24 + 1])
    assert gpuq.requantize(accumulator, 1.0, 0, bias=np.int32(-(2**24))).tolist() == [1]


def test_relu6_clamps_at_the_codes_of_0_and_6() -> None:
    accumulators = np.int32([-100, 0, 10, 100])
    codes = gpuq.requantize(accumulators, 1.0, np.uint8(20), activation="relu6", y_scale=0.25, dtype="uint8")
    assert codes.tolist() == [20, 20, 30, 44]


def test_fixed_point_halves_go_up_in_the_product_and_away_from_zero_in_the_shift() -> None:
    """gemmlowp's two steps round differently, and ruy rounds both upward: −5/4 = −1.25, −6/4 = −1.5."""
    half, shift = np.int32(2**30), np.int32(-1)  # 0.5 · 2^-1 = 0.25
    accumulators = np.int32([-6, -5, -3, -2, 2, 3, 6])
    assert gpuq.requantize(accumulators, (half, shift), 0, mode="fixed_point").tolist() == [-2, -1, -1, -1, 1, 1, 2]
    assert gpuq.requantize(accumulators, (half, shift), 0, mode="fixed_point_half_up").tolist() == [
        -1,
        -1,
        0,
        0,
        1,
        1,
        2,
    ]


def test_real_zero_is_exact_whatever_the_parameters() -> None:
    for scale in (1e-30, 0.1, 3.7, 1e30):
        codes = gpuq.quantize_linear(np.float32([0.0, -0.0]), scale, np.int8(-57))
        assert codes.tolist() == [-57, -57]
        assert gpuq.dequantize_linear(codes, scale, np.int8(-57)).tolist() == [0.0, 0.0]
