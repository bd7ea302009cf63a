"""The CPU's GEMM, piece by piece, against NumPy's integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpuq.cpu.gemm import count_blocks, gemm_kernel, make_block
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet, available
from gpuq.cpu.microkernel import make_panel_product
from gpuq.cpu.pack import pack_a, pack_b
from gpuq.cpu.tiles import COLUMNS, DEPTH, EXACT_DEPTH, ROWS
from gpuq.layout import read_only
from values import codes

Array = npt.NDArray[Any]
GARBAGE = -77


@pytest.fixture(params=available())
def isa(request: pytest.FixtureRequest) -> InstructionSet:
    """Each instruction set of this CPU."""
    return INSTRUCTION_SETS[request.param]


def panels(rng: np.random.Generator, isa: InstructionSet, m: int, k: int, n: int) -> tuple[Array, Array, Array]:
    """Packed a and b, and the product of their codes as stored."""
    a, b = codes(rng, "int8", (1, m, k)), codes(rng, "int8", (1, k, n))
    left, right = pack_a(a, isa), pack_b(b, isa)
    expected = (a[0].astype(np.int64) - left.shift) @ (b[0].astype(np.int64) - right.shift)
    return left.panels[0], right.panels[0], expected


def test_tiles_divide_blocks() -> None:
    assert EXACT_DEPTH * 255 * 128 < 2**31
    for isa in INSTRUCTION_SETS.values():
        assert ROWS % isa.rows == 0
        assert COLUMNS % isa.columns == 0


def test_panel_product_adds(isa: InstructionSet) -> None:
    """Every number of rows up to two tiles and a bit."""
    rng, multiply = np.random.default_rng(1), make_panel_product(isa)
    n = isa.columns + 1
    for m in range(1, 2 * isa.rows + 3):
        a, b, expected = panels(rng, isa, m, 70, n)
        sums = rng.integers(-1000, 1000, (a.shape[0] * isa.rows, b.shape[0] * isa.columns), np.int32)
        before = sums.copy()
        multiply(m, a, b, 0, a.shape[1], sums)
        assert (sums - before)[:m, :n].tolist() == expected.tolist()


def test_panel_product_of_some_steps(isa: InstructionSet) -> None:
    """The passes along k add up to the whole."""
    multiply = make_panel_product(isa)
    a, b, expected = panels(np.random.default_rng(2), isa, 5, 2 * DEPTH + 5, 3)
    sums, middle = np.zeros((a.shape[0] * isa.rows, b.shape[0] * isa.columns), np.int32), a.shape[1] // 2
    multiply(5, a, b, 0, middle, sums)
    multiply(5, a, b, middle, a.shape[1], sums)
    assert sums[:5, :3].tolist() == expected.tolist()


@pytest.mark.parametrize(("a_code", "b_code"), [(a, b) for a in (-128, 127) for b in (-128, 127)])
def test_panel_product_of_extreme_codes(isa: InstructionSet, a_code: int, b_code: int) -> None:
    """No instruction saturates: the largest products, as deep as int32 sums go."""
    a = pack_a(np.full((1, 2, EXACT_DEPTH), a_code, np.int8), isa)
    b = pack_b(np.full((1, EXACT_DEPTH, 2), b_code, np.int8), isa)
    sums = np.zeros((isa.rows, isa.columns), np.int32)
    make_panel_product(isa)(2, a.panels[0], b.panels[0], 0, a.panels.shape[2], sums)
    assert sums[:2, :2].tolist() == [[EXACT_DEPTH * (a_code - a.shift) * (b_code - b.shift)] * 2] * 2


def test_block_overwrites(isa: InstructionSet) -> None:
    """Several passes along k; what the totals held before is gone."""
    a, b, expected = panels(np.random.default_rng(3), isa, ROWS, 2 * DEPTH + 5, 3)
    sums, totals = (np.full((ROWS, COLUMNS), GARBAGE, np.int32) for _ in range(2))
    make_block(isa)(ROWS, a, b, sums, totals)
    assert totals[:, :3].tolist() == expected.tolist()


def run_gemm(
    isa: InstructionSet, deep: bool, a: Array, b: Array, points: tuple[Array, Array], maps: tuple[list[int], ...]
) -> tuple[Array, bool]:
    """The int32 GEMM of a (count, m, k) and b (count, k, n), into a result full of garbage."""
    left, right = pack_a(a, isa), pack_b(b, isa)
    result = np.full((len(maps[0]), a.shape[1], b.shape[2]), GARBAGE, np.int32)
    overflow = gemm_kernel("int32", isa.name, deep)(
        (left.panels, left.sums, read_only(points[0] - left.shift)),
        (right.panels, right.sums, read_only(points[1] - right.shift)),
        a.shape[2],
        tuple(read_only(np.array(part)) for part in maps),
        (),
        (),
        (),
        result,
        0,
        count_blocks(result.shape),
    )
    return result, bool(overflow)


SIZES = [
    *((1, 1, 1), (5, 3, 65), (ROWS, COLUMNS, 3), (ROWS - 1, COLUMNS - 1, 2), (ROWS + 1, COLUMNS + 1, 2)),
    *((2 * ROWS + 3, 5, 7), (3, 2 * COLUMNS + 5, 7), (2, 3, DEPTH + 1), (2, 3, 0), (0, 3, 2), (3, 0, 2)),
]


@pytest.mark.parametrize("deep", [False, True])
def test_gemm_at_the_edges_of_blocks(isa: InstructionSet, deep: bool) -> None:
    """With zero points for each row and column."""
    rng = np.random.default_rng(4)
    for m, n, k in SIZES:
        a, b = codes(rng, "uint8", (1, m, k)), codes(rng, "int8", (1, k, n))
        points = rng.integers(0, 256, (1, m)), rng.integers(-128, 128, (1, n))
        result, overflow = run_gemm(isa, deep, a, b, points, ([0],) * 4)
        expected = (a[0].astype(np.int64) - points[0].T) @ (b[0].astype(np.int64) - points[1])
        assert result[0].tolist() == expected.tolist(), f"{m, k, n}"
        assert not overflow


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
def test_overflow_is_told_at_the_exact_boundary(isa: InstructionSet, extra: int, overflow: bool) -> None:
    """33,025 · 255² + 33,022 = 2^31 - 1 fits, one more does not."""
    a, b = np.full((1, 1, 33_027), 255, np.uint8), np.full((1, 33_027, 1), 255, np.uint8)
    a[0, 0, -2:], b[0, -2:, 0] = (extra // 255, extra % 255), (255, 1)
    zeros = np.zeros((1, 1), np.int64)
    result, told = run_gemm(isa, True, a, b, (zeros, zeros), ([0],) * 4)
    assert told == overflow
    if not overflow:
        assert result.tolist() == [[[33_025 * 255 * 255 + extra]]]
