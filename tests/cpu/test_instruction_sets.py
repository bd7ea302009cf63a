"""Micro-kernels, packing and the GEMM of every instruction set this machine has, against plain models."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.cpu import epilogue
from gpuq.cpu.gemm import count_blocks, make_block, make_gemm
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet, available
from gpuq.cpu.microkernel import make_panel_product
from gpuq.cpu.pack import Packed, pack_a, pack_b
from gpuq.cpu.tiles import CODES, COLUMNS, DEPTH, EXACT_DEPTH, ROWS
from gpuq.layout import read_only
from layouts import INPUT_LAYOUTS
from values import codes

Array = npt.NDArray[Any]

REAL_SETS = [INSTRUCTION_SETS[name] for name in available()]
# Tiles that no kernel has: one of the best set's own instructions, and one of plain Python that stores codes in the
# ways of the SIMD sets, so that every machine tests these.
ODD_SETS = [
    dataclasses.replace(REAL_SETS[0], rows=3, vectors=1 if REAL_SETS[0].group else 4),
    InstructionSet("portable, other storage", (), 6, 4, 1, 0, True, 2),
]
MIXES = [(a, b) for a in ("uint8", "int8") for b in ("uint8", "int8")]
# codes at their ends, a's and b's, which overflow any sum or product that is too narrow
EXTREMES = [(np.int8(-128), np.int8(-128)), (np.uint8(255), np.uint8(255)), (np.uint8(255), np.int8(-128))]
EXTREMES += [(np.int8(127), np.int8(-128)), (np.int8(-128), np.uint8(255)), (np.uint8(0), np.uint8(0))]
GUARD = 12_345


def name_of(isa: InstructionSet) -> str:
    return f"{isa.name} {isa.rows}x{isa.columns}"


every_set = pytest.mark.parametrize("isa", REAL_SETS + ODD_SETS, ids=name_of)


def model_panels(source: Array, rows: int, group: int, shift: int) -> Array:
    """The panels of codes (count, length, k), one code after the other."""
    count, length, k = source.shape
    panels = np.zeros((count, -(-length // rows), -(-k // group), rows, group), np.int64)
    for (t, row, i), code in np.ndenumerate(source):
        panels[t, row // rows, i // group, row % rows, i % group] = int(code) - shift
    return panels


def check_packed(packed: Packed, source: Array, rows: int, group: int, storage: str) -> None:
    """Assert what a packed form promises about codes (count, length, k); nobody reads the sums of missing rows."""
    low = {"i": -128, "u": 0}
    shift = low[source.dtype.kind] - low[storage[0]]
    expected = model_panels(source, rows, group or packed.panels.shape[4], shift)
    assert packed.shift == shift
    assert packed.panels.flags.c_contiguous
    assert_same(packed.panels, expected.astype(storage), "panels")
    sums = expected.sum(axis=(2, 4)).reshape(len(source), packed.sums.shape[1])
    assert_same(packed.sums[:, : source.shape[1]], sums[:, : source.shape[1]], "sums")


def check_a(isa: InstructionSet, a: Array) -> None:
    """Assert that a (count, m, k) is packed right."""
    check_packed(pack_a(a, isa), a, isa.rows, isa.group, f"i{isa.a_bytes}")


def check_b(isa: InstructionSet, b: Array) -> None:
    """Assert that b (count, k, n) is packed right."""
    check_packed(pack_b(b, isa), b.swapaxes(1, 2), isa.columns, isa.group, "u1" if isa.b_unsigned else "i1")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@every_set
def test_pack_every_size(isa: InstructionSet, dtype: str) -> None:
    """Around a tile, and k around a group or, for the portable set, a vector."""
    rng = np.random.default_rng(1)
    group = isa.group or CODES
    for length in {0, 1, isa.rows - 1, isa.rows, isa.rows + 1, isa.columns, isa.columns + 1}:
        for k in (0, 1, group - 1, group, group + 1, 2 * group + 1):
            check_a(isa, codes(rng, dtype, (2, length, k)))
            check_b(isa, codes(rng, dtype, (2, k, length)))


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pack_every_layout(dtype: str, layout: str) -> None:
    """Of the best set: the loops of the others differ only in numbers, which the sizes above see."""
    rng = np.random.default_rng(2)
    for shape in ((2, 5, 70), (1, 33, 6), (2, 70, 5)):
        source = INPUT_LAYOUTS[layout](codes(rng, dtype, shape))
        check_a(REAL_SETS[0], source)
        check_b(REAL_SETS[0], source)


@every_set
def test_pack_extreme_codes(isa: InstructionSet) -> None:
    for code in (np.int8(-128), np.int8(127), np.uint8(0), np.uint8(255)):
        check_a(isa, np.full((1, 3, 70), code))
        check_b(isa, np.full((1, 70, 3), code))


panel_product = functools.cache(make_panel_product)


def check_panels(
    isa: InstructionSet, a: Array, b: Array, steps: tuple[int, int] | None = None, before: int = 0
) -> None:
    """Assert that the micro-kernel adds the product of codes (m, k) and (k, n) over some steps to sums of `before`.

    It may write whole tiles; the sums lie in a larger array, whose rest must stay as it was.
    """
    left, right = pack_a(a[np.newaxis], isa), pack_b(b[np.newaxis], isa)
    first, last = steps or (0, left.panels.shape[2])
    whole = (left.panels.shape[1] * isa.rows, right.panels.shape[1] * isa.columns)
    sums = np.full((whole[0] + 2, whole[1] + 3), GUARD, np.int32)
    sums[: whole[0], : whole[1]] = before
    panel_product(isa)(len(a), left.panels[0], right.panels[0], first, last, sums)
    part = slice(first * left.panels.shape[4], last * left.panels.shape[4])
    product = (a[:, part].astype(np.int64) - left.shift) @ (b[part].astype(np.int64) - right.shift)
    what = f"{a.shape} · {b.shape}, steps {first} to {last}"
    assert_same(sums[: len(a), : b.shape[1]], (product + before).astype(np.int32), what)
    sums[: whole[0], : whole[1]] = GUARD
    assert_same(sums, np.full_like(sums, GUARD), f"{what}, around the sums")


@every_set
def test_tiles_of_every_row_count(isa: InstructionSet) -> None:
    """1 … 2 tiles of rows, 1 or 2 tiles of columns, 1 and more steps; products are added to the sums."""
    rng = np.random.default_rng(3)
    group = isa.group or CODES
    for rows in range(1, 2 * isa.rows + 1):
        for n, k in ((isa.columns, group), (isa.columns + 1, 5 * group - 1), (1, 1)):
            check_panels(isa, codes(rng, "uint8", (rows, k)), codes(rng, "int8", (k, n)), before=7)


@every_set
def test_tiles_of_extreme_codes(isa: InstructionSet) -> None:
    """A pass along k of the largest products of each sign: a kernel that saturates anywhere is found out."""
    for left, right in EXTREMES:
        for k in (4, DEPTH):
            check_panels(isa, np.full((isa.rows, k), left), np.full((k, isa.columns), right))


@every_set
def test_tiles_start_and_end_at_any_step(isa: InstructionSet) -> None:
    rng = np.random.default_rng(4)
    k = 6 * (isa.group or DEPTH)  # the portable set cuts rows as long as these into groups of DEPTH
    for steps in ((0, 1), (2, 5), (5, 6)):
        check_panels(isa, codes(rng, "int8", (2, k)), codes(rng, "uint8", (k, 3)), steps)


SHAPES = [(1, 1, 1), (2, 3, 4), (5, 7, 9), (13, 70, 33), (1, 131, 200), (97, 5, 1)]  # (m, k, n)
BLOCKS = [(ROWS, 3, COLUMNS), (ROWS + 1, DEPTH + 5, COLUMNS + 1), (2 * ROWS - 1, 66, 2 * COLUMNS + 3)]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", available())
def test_products(monkeypatch: pytest.MonkeyPatch, name: str, mix: tuple[str, str]) -> None:
    """Ragged shapes, whole blocks and one more, with zero points of every row and column."""
    monkeypatch.setenv("GPUQ_ISA", name)
    rng = np.random.default_rng(5)
    for m, k, n in [*SHAPES, *BLOCKS]:
        a, b = codes(rng, mix[0], (m, k)), codes(rng, mix[1], (k, n))
        points = codes(rng, mix[0], (m,)), codes(rng, mix[1], (n,))
        actual = gpuq.matmul_integer(a, b, *points)
        path = gpuq.last_path()
        assert path is not None
        assert path.isa == name
        assert_same(actual, reference.matmul_integer(a, b, *points), f"{m} x {k} x {n}")


def opposite(code: Any) -> int:
    """The zero point at the other end of a code's type."""
    limits = np.iinfo(code.dtype)
    return int(limits.min) + int(limits.max) - int(code)


@pytest.mark.parametrize("k", [DEPTH, 2 * DEPTH + 3, EXACT_DEPTH, EXACT_DEPTH + 1])
@pytest.mark.parametrize("name", available())
def test_products_of_extreme_codes(monkeypatch: pytest.MonkeyPatch, name: str, k: int) -> None:
    """All codes at their ends, with the zero points that make the most of them; the last k adds slices in int64."""
    monkeypatch.setenv("GPUQ_ISA", name)
    for left, right in EXTREMES:
        a, b = np.full((2, k), left), np.full((k, 3), right)
        for points in ((None, None), (opposite(left), opposite(right))):
            what = f"{left!r} · {right!r}, zero points {points}"
            assert_same(gpuq.matmul_integer(a, b, *points), reference.matmul_integer(a, b, *points), what)


@pytest.mark.parametrize("isa", ODD_SETS, ids=name_of)
def test_products_in_odd_tiles(isa: InstructionSet) -> None:
    """The loop over blocks knows no tile but the set's own."""
    rng = np.random.default_rng(6)
    gemm = make_gemm(epilogue.finish_int32, make_block(isa), isa, np.int32)
    maps = (read_only(np.zeros(1, np.int64)),) * 4
    for m, k, n in [(4, 5, 9), *BLOCKS]:
        a, b = codes(rng, "uint8", (1, m, k)), codes(rng, "int8", (1, k, n))
        a_points, b_points = rng.integers(0, 256, (1, m)), rng.integers(-128, 128, (1, n))
        left, right = pack_a(a, isa), pack_b(b, isa)
        result = np.full((1, m, n), GUARD, np.int32)
        operands = [(p.panels, p.sums, read_only(z - p.shift)) for p, z in ((left, a_points), (right, b_points))]
        assert not gemm(*operands, k, maps, (), (), (), result, 0, count_blocks(result.shape))
        expected = (a[0].astype(np.int64) - a_points.T) @ (b[0].astype(np.int64) - b_points)
        assert_same(result[0], expected.astype(np.int32), f"{m} x {k} x {n}")


@pytest.mark.parametrize("name", ["avx1024", *sorted(set(INSTRUCTION_SETS) - set(available()))])
def test_an_absent_set_that_is_forced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GPUQ_ISA", name)
    one = np.ones((1, 1), np.int8)
    with pytest.raises(gpuq.DeviceError, match=name):
        gpuq.matmul_integer(one, one)
