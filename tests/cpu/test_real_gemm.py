"""Real activations times packed weights, on every instruction set, its instruction emulated where it is missing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from instruction_sets import ALL_SETS, register

from gpuq.arithmetic import FLOAT32, NO_ACTIVATION
from gpuq.cpu import real_gemm
from gpuq.cpu.block_weight import codes_of_step, pack_blocks
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.pack import pack_b
from gpuq.layout import read_only

Array = npt.NDArray[Any]
SETS = [isa for isa in ALL_SETS if isa.dot]


@pytest.fixture(params=SETS, ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> InstructionSet:
    register(monkeypatch, request.param)
    found: InstructionSet = request.param
    return found


def multiply(
    isa: InstructionSet, x: Array, codes: Array, length: int, points: Array, scale: Array, bias: Array, name: str = ""
) -> Array:
    """By a weight whose codes have 4 bits where `name` says so."""
    y = np.full((len(x), codes.shape[1]), np.nan, np.float32)
    packed = pack_b(codes[np.newaxis], isa)
    weight = pack_blocks(codes, packed, name, length, scale, points)
    assert weight.bits == (4 if name else 8)
    real_gemm.multiply(x, weight, read_only(bias), (NO_ACTIVATION, FLOAT32), y)
    return y


def weight_of(rng: np.random.Generator, dtype: str, k: int, n: int, length: int) -> tuple[Array, Array, Array, Array]:
    """Codes, zero points and scales, and what they stand for."""
    limits, blocks = np.iinfo(dtype), -(-k // length)
    codes = rng.integers(limits.min, limits.max + 1, (k, n)).astype(dtype)
    points = rng.integers(limits.min, limits.max + 1, (blocks, n)).astype(dtype)
    scale = np.exp(rng.normal(-3, 1, (blocks, n))).astype(np.float32)
    rows = np.arange(k) // length
    return codes, points, scale, (codes.astype(np.int64) - points[rows]) * scale[rows].astype(np.float64)


def assert_near(y: Array, x: Array, wide: Array, bias: Array) -> None:
    """Within the bound of float32 sums."""
    exact = x.astype(np.float64) @ wide + bias
    bound = (len(wide) + 2) * 2.0**-23 * (np.abs(x.astype(np.float64)) @ np.abs(wide) + np.abs(bias))
    assert np.all(np.abs(y - exact) <= bound + 1e-30)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_products(isa: InstructionSet, dtype: str) -> None:
    """Rows for every strip, strips for more than a piece; ragged rows, panels and last blocks."""
    rng = np.random.default_rng(1)
    for m, (k, n, length) in itertools.product(
        (1, 2, 7, 8, 9, 70), ((5, 7, 5), (131, 33, 131), (70, 40, 8), (64, 32, 16))
    ):
        codes, points, scale, wide = weight_of(rng, dtype, k, n, length)
        x, bias = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=n).astype(np.float32)
        assert_near(multiply(isa, x, codes, length, points, scale, bias), x, wide, bias)


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_codes_of_4_bits(isa: InstructionSet, name: str) -> None:
    """Every difference of a code and a zero point, in each place of a step; and blocks with an odd one at the end."""
    low, steps = -8 if name == "int4" else 0, codes_of_step(isa, 4)
    storage = np.int8 if name == "int4" else np.uint8
    codes = np.arange(low, low + 16).astype(storage)
    for point in codes:
        points, scale = np.full((1, 16), point, storage), np.ones((1, 16), np.float32)
        given = np.eye(steps, dtype=np.float32), np.tile(codes, (steps, 1)), steps, points, scale
        y = multiply(isa, *given, np.zeros(16, np.float32), name)
        assert (y == np.tile(codes.astype(np.float32) - point, (steps, 1))).all()
    rng = np.random.default_rng(3)
    for m, k in ((1, 4 * steps), (9, 6 * steps + 3), (2, 5 * steps)):
        codes = rng.integers(low, low + 16, (k, 37)).astype(storage)
        blocks = -(-k // (2 * steps))
        points, scale = codes[:blocks], np.exp(rng.normal(size=(blocks, 37))).astype(np.float32)
        rows = np.arange(k) // (2 * steps)
        wide = (codes.astype(np.int64) - points[rows]) * scale[rows].astype(np.float64)
        x, bias = rng.normal(size=(m, k)).astype(np.float32), np.zeros(37, np.float32)
        assert_near(multiply(isa, x, codes, 2 * steps, points, scale, bias, name), x, wide, bias)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_code_is_its_number(isa: InstructionSet, dtype: str) -> None:
    """Each difference of a code and a zero point, in each place of a group: by a row of x that is 1 there alone."""
    limits = np.iinfo(dtype)
    codes = np.arange(limits.min, limits.max + 1).astype(dtype)
    k = isa.group
    for point in (limits.min, -1 if limits.min else 1, limits.max):
        points, scale = np.full((1, codes.size), point, dtype), np.ones((1, codes.size), np.float32)
        y = multiply(
            isa, np.eye(k, dtype=np.float32), np.tile(codes, (k, 1)), k, points, scale, np.zeros(codes.size, np.float32)
        )
        assert (y == np.tile(codes.astype(np.float32) - point, (k, 1))).all()


def test_large_numbers_whose_products_with_scales_are_not(isa: InstructionSet) -> None:
    """Sums of x and codes, before they are scaled, are beyond float32."""
    codes, points = np.full((64, 3), 127, np.int8), np.zeros((1, 3), np.int8)
    scale, bias = np.full((1, 3), 1e-6, np.float32), np.zeros(3, np.float32)
    for x in (np.full((2, 64), 1e37, np.float32), np.full((2, 64), -3e38, np.float32)):
        exact = x.astype(np.float64).sum(axis=1, keepdims=True) * 127 * np.float64(scale[0])
        assert np.all(np.abs(multiply(isa, x, codes, 64, points, scale, bias) / exact - 1) < 1e-5)


def test_numbers_that_are_not_finite(isa: InstructionSet) -> None:
    """They come through, to their own rows alone."""
    codes, points = np.array([[1, -1], [2, 2]], np.int8), np.zeros((1, 2), np.int8)
    x = np.array([[np.inf, 1], [1, 2], [np.nan, 0], [-np.inf, 0], [np.inf, -np.inf]], np.float32)
    y = multiply(isa, x, codes, 2, points, np.full((1, 2), 0.5, np.float32), np.zeros(2, np.float32))
    expected = [[np.inf, -np.inf], [2.5, 1.5], [np.nan, np.nan], [-np.inf, np.inf], [np.nan, -np.inf]]
    np.testing.assert_array_equal(y, np.array(expected, np.float32))


def test_a_row_is_not_made_small_by_another(isa: InstructionSet) -> None:
    """All of x was divided where one row was large or not finite, and numbers near the least normal one vanished."""
    codes, points = np.array([[3, -1], [5, 2]], np.int8), np.zeros((1, 2), np.int8)
    scale, bias = np.full((1, 2), 2.0, np.float32), np.zeros(2, np.float32)
    small = np.array([2.0**-100, -(2.0**-120)], np.float32)
    for other in (1.0, 3e38, np.inf, np.nan):
        x = np.array([[other, 0], small], np.float32)
        y = multiply(isa, x, codes, 2, points, scale, bias)
        np.testing.assert_array_equal(y[1], (small.astype(np.float64) @ codes * 2).astype(np.float32))


def test_results_do_not_depend_on_threads(isa: InstructionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuq.cpu import threads

    monkeypatch.setattr(real_gemm, "SMALLEST", 1)
    rng = np.random.default_rng(2)
    codes, points, scale, _ = weight_of(rng, "uint8", 96, 200, 32)
    x, results = rng.normal(size=(75, 96)).astype(np.float32), []
    for number in (1, 3):
        monkeypatch.setattr(threads, "_limit", number)
        results.append(multiply(isa, x, codes, 32, points, scale, np.zeros(200, np.float32)))
    assert (results[0] == results[1]).all()
