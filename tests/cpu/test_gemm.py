"""The CPU's GEMM, piece by piece, against NumPy's integers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from instruction_sets import ALL_SETS, ODD_SETS, REAL_SETS, fill_kernel, product_kernel

from compare import assert_same
from gpuq.cpu import epilogue
from gpuq.cpu.blocking import Blocks, count_blocks
from gpuq.cpu.gemm import make_gemm
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.pack import pack_b
from gpuq.cpu.tiles import DEPTH, EXACT_DEPTH, STRIP, group_length
from gpuq.layout import read_only
from values import codes

Array = npt.NDArray[Any]
GARBAGE = -77
# codes at their ends, a's and b's, which overflow any sum or product that is too narrow
EXTREMES = [(np.int8(-128), np.int8(-128)), (np.uint8(255), np.uint8(255)), (np.uint8(255), np.int8(-128))]
EXTREMES += [(np.int8(127), np.int8(-128)), (np.int8(-128), np.uint8(255)), (np.uint8(0), np.uint8(0))]
DEEP_SETS = REAL_SETS + ODD_SETS[:1]
by_set = pytest.mark.parametrize("isa", ALL_SETS, ids=lambda isa: isa.name)


def flip_of(a: Array) -> np.uint8:
    """The bit that makes codes of a signed."""
    return np.uint8(0 if a.dtype == np.int8 else 128)


def fill_strip(isa: InstructionSet, a: Array, start: int, stop: int, padded: int) -> tuple[Array, Array]:
    """A strip of codes (rows, k) amid garbage, and the sums of its rows."""
    strip = np.full((isa.rows, STRIP), GARBAGE, f"i{isa.a_bytes}")
    sums = np.zeros(len(a), np.int32)
    fill_kernel(isa)(read_only(a.view(np.uint8)), start, stop, padded, flip_of(a), strip, sums)
    return strip, sums


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@by_set
def test_a_strip_holds_signed_codes_and_zeros_and_nothing_else_is_written(isa: InstructionSet, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for rows, stop, padded in ((1, 1, 4), (isa.rows, 3, 3), (isa.rows - 1, 64, 64), (2, 131, 136), (1, DEPTH, DEPTH)):
        a = codes(rng, dtype, (rows, stop + 9))
        for start in (0, 1):
            strip, sums = fill_strip(isa, a, start, stop, padded)
            signed = a[:, start:stop].astype(np.int64) - flip_of(a)
            expected = np.full_like(strip, GARBAGE)
            expected[:rows, :padded] = 0
            expected[:rows, : stop - start] = signed
            expected[:rows, stop - start : padded] = 0
            expected[:rows, padded:] = GARBAGE
            assert_same(strip, expected, f"{rows} rows of {stop}")
            assert sums.tolist() == signed.sum(axis=1).tolist()


def check_product(isa: InstructionSet, a: Array, b: Array, steps: tuple[int, int] | None = None) -> None:
    """Assert that the micro-kernel stores, and adds, the product of codes (rows, k) and (k, n) over some steps.

    It may write whole tiles; the sums lie in a larger array, whose rest must stay as it was.
    """
    packed, group = pack_b(b[np.newaxis], isa), group_length(isa, len(b))
    first, last = steps or (0, packed.panels.shape[2])
    part = slice(first * group, min(last * group, len(b)))
    strip, _ = fill_strip(isa, a, part.start, part.stop, (last - first) * group)
    product = (a[:, part].astype(np.int64) - flip_of(a)) @ (b[part].astype(np.int64) - packed.shift)
    width, length = packed.panels.shape[1] * isa.columns, b.shape[1]
    for add in (False, True):
        sums = np.full((isa.rows + 2, width), GARBAGE, np.int32)
        product_kernel(isa)(len(a), strip, packed.panels[0], first, last, sums, add)
        what = f"{a.shape} · {b.shape}, steps {first} to {last}, add {add}"
        assert_same(sums[: len(a), :length], (product + add * GARBAGE).astype(np.int32), what)
        assert_same(sums[isa.rows :], np.full((2, width), GARBAGE, np.int32), f"{what}, below the sums")


@by_set
def test_tiles_of_every_row_count(isa: InstructionSet) -> None:
    """1 or 2 tiles of columns, 1 and more steps, no codes at all."""
    rng, group = np.random.default_rng(3), isa.group or 64
    for rows in range(1, isa.rows + 1):
        for n, k in ((isa.columns, group), (isa.columns + 1, 5 * group * isa.steps - 1), (1, 1), (3, 0)):
            check_product(isa, codes(rng, "uint8", (rows, k)), codes(rng, "int8", (k, n)))


@by_set
def test_tiles_of_extreme_codes(isa: InstructionSet) -> None:
    """A pass along k of the largest products of each sign: a kernel that saturates anywhere is found out."""
    for left, right in EXTREMES:
        for k in (4, DEPTH):
            check_product(isa, np.full((isa.rows, k), left), np.full((k, isa.columns), right))


@by_set
def test_tiles_start_and_end_at_any_step(isa: InstructionSet) -> None:
    """Of those that the instruction takes at once."""
    rng = np.random.default_rng(4)
    k = 6 * (isa.group * isa.steps or DEPTH)  # the portable set cuts columns as long as these into groups of DEPTH
    for first, last in ((0, 1), (2, 3), (5, 6)):
        steps = first * isa.steps, last * isa.steps
        for rows in (2, isa.rows):
            check_product(isa, codes(rng, "int8", (rows, k)), codes(rng, "uint8", (k, 3)), steps)


@functools.cache
def gemm(isa: InstructionSet, deep: bool) -> Callable[..., Any]:
    return make_gemm(epilogue.finish_int32, isa, deep)


def run_gemm(
    isa: InstructionSet, deep: bool, a: Array, b: Array, points: tuple[Array, Array], maps: Any = None
) -> tuple[Array, bool]:
    """The int32 GEMM of a (count, m, k) and b (count, k, n), into a result full of garbage, in blocks of two tiles each
    way and passes of two steps, or of twice as many as the instruction takes at once.
    """
    packed = pack_b(b, isa)
    maps = read_only(np.array(maps if maps is not None else [[0]] * 4, np.int64))
    result = np.full((maps.shape[1], a.shape[1], b.shape[2]), GARBAGE, np.int32)
    overflow, flip = np.zeros(1, np.uint8), flip_of(a)
    blocks = Blocks(2 * isa.rows, 2 * isa.columns, 2 * isa.steps if isa.group else 1)
    matrices = read_only(a.view(np.uint8)), packed.panels, packed.sums, result
    numbers = flip, read_only(points[0] - int(flip)), read_only(points[1] - packed.shift)
    arguments = (matrices, numbers, maps, (), (), (), tuple(blocks), overflow)
    count = count_blocks(result.shape, blocks)
    for first, last in ((0, count // 2), (count // 2, count)):
        gemm(isa, deep)(arguments, first, last)
    return result, bool(overflow[0])


def sizes_of(isa: InstructionSet) -> list[tuple[int, int, int]]:
    """(m, n, k) beside the edges of tiles, blocks and passes, and nothing."""
    m, n, k = 2 * isa.rows, 2 * isa.columns, 2 * (isa.group * isa.steps or DEPTH)
    edges = [(m, n, k), (m - 1, n - 1, k - 1), (m + 1, n + 1, k + 1), (2 * m + 3, 5, 3 * k + 1), (3, 2 * n + 5, 7)]
    return [(1, 1, 1), *edges, (2, 3, 0), (0, 3, 2), (3, 0, 2)]


@pytest.mark.parametrize(
    ("isa", "deep"),
    [(isa, False) for isa in ALL_SETS] + [(isa, True) for isa in DEEP_SETS],
    ids=lambda value: getattr(value, "name", "deep" if value else ""),
)
def test_gemm_at_the_edges_of_blocks(isa: InstructionSet, deep: bool) -> None:
    """With zero points for each row and column."""
    rng = np.random.default_rng(4)
    for m, n, k in sizes_of(isa):
        a, b = codes(rng, "uint8", (1, m, k)), codes(rng, "int8", (1, k, n))
        points = rng.integers(0, 256, (1, m)), rng.integers(-128, 128, (1, n))
        result, overflow = run_gemm(isa, deep, a, b, points)
        expected = (a[0].astype(np.int64) - points[0].T) @ (b[0].astype(np.int64) - points[1])
        assert_same(result[0], expected.astype(np.int32), f"{m, k, n}")
        assert not overflow


@by_set
def test_maps_choose_matrices_and_parameters(isa: InstructionSet) -> None:
    """Product t multiplies matrix a_map[t] by b_map[t] with the zero points of row_map[t] and column_map[t]."""
    rng = np.random.default_rng(5)
    a, b = codes(rng, "int8", (3, 5, 9)), codes(rng, "uint8", (2, 9, 6))
    points = rng.integers(-128, 128, (4, 5)), rng.integers(0, 256, (3, 6))
    maps = ([2, 0, 1, 1, 0], [1, 1, 0, 1, 0], [3, 2, 1, 0, 0], [0, 1, 2, 2, 1])
    result, _ = run_gemm(isa, False, a, b, points, maps)
    for t, (i, j, p, c) in enumerate(zip(*maps, strict=True)):
        expected = (a[i].astype(np.int64) - points[0][p][:, None]) @ (b[j].astype(np.int64) - points[1][c])
        assert result[t].tolist() == expected.tolist()


@pytest.mark.parametrize(("extra", "overflow"), [(0, False), (33_022, False), (33_023, True)])
@pytest.mark.parametrize("isa", DEEP_SETS, ids=lambda isa: isa.name)
def test_overflow_is_told_at_the_exact_boundary(isa: InstructionSet, extra: int, overflow: bool) -> None:
    """33,025 · 255² + 33,022 = 2^31 - 1 fits, one more does not."""
    a, b = np.full((1, 1, 33_027), 255, np.uint8), np.full((1, 33_027, 1), 255, np.uint8)
    a[0, 0, -2:], b[0, -2:, 0] = (extra // 255, extra % 255), (255, 1)
    zeros = np.zeros((1, 1), np.int64)
    result, told = run_gemm(isa, True, a, b, (zeros, zeros))
    assert told == overflow
    if not overflow:
        assert result.tolist() == [[[33_025 * 255 * 255 + extra]]]


@by_set
def test_extreme_codes_as_deep_as_int32_goes(isa: InstructionSet) -> None:
    for left, right in EXTREMES:
        a, b = np.full((1, 1, EXACT_DEPTH), left), np.full((1, EXACT_DEPTH, 1), right)
        zeros = np.zeros((1, 1), np.int64)
        result, _ = run_gemm(isa, False, a, b, (zeros, zeros))
        assert result.tolist() == [[[EXACT_DEPTH * int(left) * int(right)]]], f"{left!r} · {right!r}"
