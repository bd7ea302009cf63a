"""Quantizing without a division gives the bits of a division, and scales for which it would not are divided by.

That the quotient is right for every significand of S is shown in tests/cuda/test_division.py, on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.arithmetic import HALF_AWAY, HALF_EVEN
from gpuq.cpu.quantizing import divides
from gpuq.division import LARGEST, SMALLEST

RNG = np.random.default_rng(3)
ENDS = [SMALLEST, LARGEST, np.float32(2.0**-149), np.float32(2.0**-126), np.finfo(np.float32).max]
BITS = (np.array(ENDS).view(np.int32)[:, np.newaxis] + np.arange(-1, 2)).astype(np.int32)  # the ends and neighbours
SCALES = np.concatenate([
    BITS[(BITS > 0) & (BITS < 0x7F800000)].view(np.float32),
    np.exp2(RNG.uniform(-100, 100, 30)).astype(np.float32),
    RNG.uniform(0.001, 2, 30).astype(np.float32),
])  # fmt: skip


def numbers_for(scale: np.float32) -> Any:
    """Ties and their neighbours, what saturates, any bits, infinities and NaN."""
    with np.errstate(all="ignore"):
        ties = (np.arange(-600, 601) / 2).astype(np.float32) * scale
        far = RNG.integers(-(2**18), 2**18, 400).astype(np.float32) / 2 * scale
        bits = RNG.integers(0, 2**32, 400, np.uint32).view(np.float32)
        special = np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, -1e-45])
        below, above = np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf))
    return np.concatenate([ties, below, above, far, bits, special])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int4"])
def test_codes_of_all_magnitudes(kind: str) -> None:
    for scale in SCALES:
        x, lowest = numbers_for(scale), 0 if kind.startswith("u") else -8
        for zero_point in (lowest, 0, 5):
            for name in ("quantize_linear", "fake_quantize"):
                given = (x, scale, zero_point)
                expected = getattr(reference, name)(*given, dtype=kind)
                assert_same(getattr(gpuq, name)(*given, dtype=kind), expected, f"{name}, {scale!r}, {zero_point}")


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(2**16, dtype=np.uint16).view(np.float16 if name == "float16" else ml_dtypes.bfloat16)
    for scale in (0.1, 3e-5, 40.0):
        for operator in ("quantize_linear", "fake_quantize"):
            expected = getattr(reference, operator)(x, scale, 3, dtype="uint8")
            assert_same(getattr(gpuq, operator)(x, scale, 3, dtype="uint8"), expected, f"{operator}, {scale}")


def test_what_is_divided() -> None:
    """Scales at the ends, whose remainders may underflow; other roundings; numbers in float64."""
    smaller, larger = float(SMALLEST) * 0.999, float(LARGEST) * 1.001
    assert divides(HALF_EVEN, False, smaller)
    assert divides(HALF_EVEN, False, larger)
    assert divides(HALF_AWAY, False, 1.0)
    assert divides(HALF_EVEN, True, 1.0)
