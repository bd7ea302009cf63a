"""x / S without a division: every quotient that it could miss, for every significand of S, and the ends of the range.

Let a and b be the significands of x and S, integers in [2^23, 2^24), and t = a / b. q' can differ from t rounded to
float32 only where t lies very close to the middle between two float32 numbers: the error of q before the correction is
below 1.5 units in the last place, that of the correction below 2^−22 of it. A middle is m / 2^24 for a ≥ b, m / 2^25
for a < b, with an odd m of 25 bits, and its distance from t is |n| / (2^24 · b) or |n| / (2^25 · b) with n = 2^24 · a −
m · b or 2^25 · a − m · b. Put together, only |n| ≤ 6 can matter. For each b and n the equation has few solutions, found
by b's inverse modulo a power of two. Exponents do not matter, as nothing overflows or underflows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import download, upload  # noqa: E402
from gpuq.cpu.compile import jit  # noqa: E402
from gpuq.division import LARGEST, SMALLEST, divide, reciprocal_of  # noqa: E402

REACH = 8
ONE, TWO = 1 << 23, 1 << 24


@jit
def inverse(odd: int, bits: int) -> int:
    """The inverse of an odd number modulo 2^bits, by Newton's iteration."""
    x = odd
    for _ in range(5):
        x = (x * (2 - odd * x)) & ((1 << bits) - 1)
    return x


@jit
def count_hard_cases(first: int, last: int, reach: int) -> Any:
    """How many (a, b) lie that close to a middle, b from first to last, and how many of them are wrong."""
    tried = wrong = 0
    for b in range(first, last):
        divisor = (np.float32(b), reciprocal_of(np.float32(b)))
        zeros, odd = 0, b
        while odd & 1 == 0:
            zeros, odd = zeros + 1, odd >> 1
        own_inverse = inverse(odd, 25)
        for bits in (24, 25):
            step = 1 << (bits - zeros)  # from one solution m to the next
            for n in range(-reach, reach + 1):
                if n == 0 or n % (1 << zeros) != 0:
                    continue
                m = (-(n >> zeros) * own_inverse) & (step - 1)
                m += max(0, (TWO - m + step - 1) // step) * step
                while m < 2 * TWO:
                    a = (m * b + n) >> bits
                    if m & 1 and ONE <= a < TWO and (a << bits) == m * b + n:
                        tried += 1
                        wrong += divide(np.float32(a), divisor) != np.float32(np.float64(a) / np.float64(b))
                    m += step
    return tried, wrong


def test_every_hard_case_of_every_significand() -> None:
    tried, wrong = count_hard_cases(ONE, TWO, REACH)
    assert tried > 40_000_000
    assert wrong == 0


@jit
def divide_all(x: Any, scale: Any, quotients: Any) -> None:
    for i in range(x.shape[0]):
        quotients[i] = divide(x[i], (scale[i], reciprocal_of(scale[i])))


def quotients_of(x: Any, scale: Any) -> Any:
    result = np.empty_like(x)
    divide_all(x, scale, result)
    return result


@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_all_magnitudes(seed: int) -> None:
    """What matters is exact: every quotient from 1/8 to 2^20. The rest rounds to 0 or saturates alike."""
    rng = np.random.default_rng(seed)
    scale = rng.integers(1, 0x7F800000, 500_000, np.uint32).view(np.float32)
    x = rng.integers(0, 2**32, 500_000, np.uint32).view(np.float32)
    near = rng.integers(-(2**21), 2**21, 250_000) / 2
    with np.errstate(all="ignore"):
        x[::2] = near.astype(np.float32) * scale[::2]
        exact, found = x / scale, quotients_of(x, scale)
    small = np.abs(exact) < 1 / 8
    inside = (np.abs(exact) < 2.0**20) & ~small
    assert inside.sum() > 100_000
    assert (found[inside] == exact[inside]).all()
    assert (np.abs(found[small]) <= 1 / 8).all()
    beyond = np.abs(exact) >= 2.0**20
    assert (np.abs(found[beyond]) >= 2.0**19).all()
    assert (np.signbit(found[beyond]) == np.signbit(exact[beyond])).all()
    assert (np.isnan(found) == np.isnan(exact)).all()


def test_scales_at_the_ends() -> None:
    """Where scaling by a power of two begins, and at both ends of float32: ties and their neighbours."""
    ends = [SMALLEST, LARGEST, np.float32(2.0**-149), np.float32(2.0**-126), np.finfo(np.float32).max]
    bits = np.concatenate([np.float32(end).view(np.uint32) + np.arange(-3, 4) for end in ends]).astype(np.uint32)
    scales = bits[(bits > 0) & (bits < 0x7F800000)].view(np.float32)
    with np.errstate(all="ignore"):
        x = (np.arange(-600, 601)[:, None] * (scales.astype(np.float64) / 2)).astype(np.float32)
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
        x, scale = (np.ascontiguousarray(each).reshape(-1) for each in np.broadcast_arrays(x, scales))
        exact = x / scale
        found = quotients_of(x, scale)
    same = (found == exact) | (np.isnan(found) & np.isnan(exact)) | (np.abs(exact) < 1 / 8)
    assert same[np.isfinite(exact)].all()


def test_a_bound_rounds_to_its_code() -> None:
    """x is saturated before it is divided, to f32(S · low): that divided by S must round to low, for any code."""
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(-256, 257), rng.integers(-(2**17), 2**17, 500), [-(2**17), 2**17]])
    scale = np.exp2(rng.uniform(-100, 100, 3000)).astype(np.float32)[:, None]
    bounds = scale * codes.astype(np.float32)
    assert (np.rint(bounds / scale) == codes).all()


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_codes_of_all_magnitudes(emulate: Callable[..., Any], kind: str) -> None:
    """Any x over any scale: ties and their neighbours, what saturates, infinities and NaN, scales to both ends."""
    emulated, rng = emulate(), np.random.default_rng(1)
    scale = rng.integers(1, 0x7F800000, 4096, np.uint32).view(np.float32)
    scale[:4] = np.float32(2.0**-149), np.finfo(np.float32).tiny, np.finfo(np.float32).max, np.float32(2.0**121)
    zero_point = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, 4096).astype(kind)
    with np.errstate(all="ignore"):
        ties = (rng.integers(-600, 600, (2, 4096)) / 2).astype(np.float32) * scale
        x = np.concatenate([
            rng.integers(0, 2**32, (2, 4096), np.uint32).view(np.float32), ties,
            np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf)),
            np.tile(np.float32([np.inf, -np.inf, np.nan, -0.0]), (1, 1024)),
        ])  # fmt: skip
        expected = reference.quantize_linear(x, scale, zero_point, axis=1)
        expected_values = reference.fake_quantize(x, scale, zero_point, axis=1)
    there, own = upload(emulated, x), (upload(emulated, scale), upload(emulated, zero_point))
    assert_same(download(emulated, gpuq.quantize_linear(there, *own, axis=1)), expected)
    assert_same(download(emulated, gpuq.fake_quantize(there, *own, axis=1)), expected_values)
