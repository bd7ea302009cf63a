"""Products whose b is packed as it is multiplied: every edge of a unit, any number of threads, in every layout."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from instruction_sets import REAL_SETS

import gpuq
from compare import assert_same
from gpuq import dispatch, reference
from gpuq.cpu.blocking import FUSED_BLOCKS, FUSED_ROWS, MOST_ROOM, choose_fused_blocks
from gpuq.cpu.fused import pack_and_multiply
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.kept import run_again
from gpuq.cpu.spread import ALONE
from gpuq.cpu.tiles import packed_at_once
from gpuq.layout import read_only
from values import codes

Array = npt.NDArray[Any]


def check(rng: np.random.Generator, shape: tuple[int, int, int], order: str, times: int = 3) -> None:
    """The product of codes of types by chance, with zero points for rows and columns, several times."""
    m, k, n = shape
    (left, right), b_step = rng.choice(["int8", "uint8"], 2), 2 if order == "strided" else 1
    whole = codes(rng, right, (k, n * b_step))
    b = np.asfortranarray(whole) if order == "F" else whole[:, ::b_step]
    for _ in range(times):
        a, rows, columns = codes(rng, left, (m, k)), codes(rng, left, (m, 1)), codes(rng, right, (1, n))
        expected = (a.astype(np.int64) - rows) @ (b.astype(np.int64) - columns)
        assert_same(gpuq.matmul_integer(a, b, rows, columns, device="cpu"), expected.astype(np.int32), str(shape))


def is_fused(m: int, k: int, n: int, isa: InstructionSet, threads: int) -> bool:
    return choose_fused_blocks(m, k, n, isa, threads) is not None


@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", REAL_SETS, ids=lambda isa: isa.name)
def test_the_edges_of_units(isa: InstructionSet, threads: int, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuq.cpu.threads._limit", threads)
    monkeypatch.setenv("GPUQ_ISA", isa.name)
    rng, unit = np.random.default_rng(threads), packed_at_once(isa) * isa.columns
    for n in (unit * threads, unit * threads + 1, unit * (FUSED_BLOCKS * threads + 1) - 1):
        for m, k in itertools.product((1, isa.rows + 1), (1, 3, 130)):
            assert is_fused(m, k, n, isa, threads)
            check(rng, (m, k, n), order)


def test_many_rows_deep_columns_and_wide_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks below each other, several passes along k, more columns than a block may have."""
    monkeypatch.setattr("gpuq.cpu.threads._limit", 2)
    rng, isa = np.random.default_rng(0), INSTRUCTION_SETS[dispatch.instruction_set()]
    for m, k, n in ((FUSED_ROWS, 1500, 300), (FUSED_ROWS - 1, 70, 3000), (2, 33_000, 256), (3, 7, 20_000)):
        assert is_fused(m, k, n, isa, 2)
        check(rng, (m, k, n), "C", times=2)


def test_every_epilogue() -> None:
    rng = np.random.default_rng(1)
    a, b = codes(rng, "uint8", (9, 200)), codes(rng, "int8", (200, 700))
    scales, bias = rng.uniform(0.01, 0.1, 700).astype(np.float32), rng.normal(size=700).astype(np.float32)
    for _ in range(3):
        for dtype in ("float32", "float16"):
            options = {"bias": bias, "activation": "relu", "dtype": dtype}
            expected = reference.scaled_matmul(a, b, 0.1, scales, 3, None, **options)
            assert_same(gpuq.scaled_matmul(a, b, 0.1, scales, 3, None, **options, device="cpu"), expected)
        for zero_point in (np.uint8(7), np.int8(-7)):
            arguments = (a, 0.1, 3, b, scales, None, 20.0, zero_point)
            assert_same(gpuq.qlinear_matmul(*arguments, device="cpu"), reference.qlinear_matmul(*arguments))


def test_sums_that_leave_int32_are_told() -> None:
    """Such products are not fused: a call has a flag of its own."""
    a, b = np.full((2, 70_000), 255, np.uint8), np.full((70_000, 300), 255, np.uint8)
    for _ in range(3):
        with pytest.raises(OverflowError, match="int32"):
            gpuq.matmul_integer(a, b, device="cpu")


def test_a_part_is_no_larger_than_what_is_there() -> None:
    """One column of 10⁷ codes asked for the room of 128, 1.3 GB."""
    isa = INSTRUCTION_SETS["avx512_vnni"]
    narrow = choose_fused_blocks(1, 1000, 1, isa, 1)
    assert narrow is not None
    assert narrow.columns == isa.columns
    assert choose_fused_blocks(1, 10**7, 1, isa, 1) is None
    for m, k, n, threads in itertools.product((1, 256), (1, 1000, 60_000, 10**6), (1, 100, 5000), (1, 2, 16)):
        blocks = choose_fused_blocks(m, k, n, isa, threads)
        assert blocks is None or blocks.columns * k <= MOST_ROOM


def test_a_thread_without_memory_for_its_part() -> None:
    """It is a MemoryError, and leaves no reference to the operands behind."""
    array = np.zeros(8, np.uint8)
    of_a_block = 8 * max(isa.rows for isa in INSTRUCTION_SETS.values() if not isa.without_tiles)
    told = f"the workspace of a thread: at most {MOST_ROOM} bytes, or {of_a_block} for each block along k"
    before = sys.getrefcount(array)
    for _ in range(3):
        with pytest.raises(MemoryError, match=told):
            pack_and_multiply(ALONE, ((id(array),) * 4, (0, 0), (1 << 20, 1 << 40, 1)), 1, 1)
    assert sys.getrefcount(array) == before


def test_operands_of_any_kind_share_one_compiled_form() -> None:
    """Only addresses are put into a kept call: one that may not be written had 0.3 s of compilation of its own."""
    rng = np.random.default_rng(2)
    a, b = codes(rng, "uint8", (9, 200)), codes(rng, "int8", (200, 700))
    gpuq.matmul_integer(a, b, device="cpu")
    gpuq.matmul_integer(a, gpuq.prepack(b), device="cpu")
    functions: Any = (run_again, pack_and_multiply)
    before = [len(function.overloads) for function in functions]
    for left in (a, a.view(np.int8), a[np.newaxis], a[np.newaxis, np.newaxis], a[0], read_only(a)):
        for right in (b, b.view(np.uint8), read_only(b)):
            for second in (right, gpuq.prepack(right)):
                gpuq.matmul_integer(left, second, device="cpu")
                gpuq.scaled_matmul(left, second, 0.1, 0.1, device="cpu")
    assert [len(function.overloads) for function in functions] == before


def test_what_is_packed_beforehand() -> None:
    """Too many rows, nothing to multiply, too few columns for all threads."""
    isa = INSTRUCTION_SETS["avx512_vnni"]
    unit = packed_at_once(isa) * isa.columns
    assert is_fused(1, 64, unit, isa, 1)
    assert is_fused(1, 64, 1, isa, 1)
    assert not is_fused(1, 64, 2 * unit - 1, isa, 2)
    assert not is_fused(FUSED_ROWS + 1, 64, 2 * unit, isa, 2)
    assert not any(is_fused(m, k, n, isa, 2) for m, k, n in ((0, 64, 600), (5, 0, 600), (5, 64, 0)))
