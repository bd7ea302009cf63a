"""The matrix products on every instruction set this machine has, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.cpu.blocking import MOST_COLUMNS, MOST_ROWS
from gpuq.cpu.isa import INSTRUCTION_SETS, available
from gpuq.cpu.tiles import DEPTH, EXACT_DEPTH
from values import codes

MIXES = [(a, b) for a in ("uint8", "int8") for b in ("uint8", "int8")]
# codes at their ends, a's and b's, which overflow any sum or product that is too narrow
EXTREMES = [(np.int8(-128), np.int8(-128)), (np.uint8(255), np.uint8(255)), (np.uint8(255), np.int8(-128))]
EXTREMES += [(np.int8(127), np.int8(-128)), (np.int8(-128), np.uint8(255)), (np.uint8(0), np.uint8(0))]

SHAPES = [(1, 1, 1), (2, 3, 4), (5, 7, 9), (13, 70, 33), (1, 131, 200), (97, 5, 1)]  # (m, k, n)
BLOCKS = [(MOST_ROWS, 3, MOST_COLUMNS), (MOST_ROWS + 1, DEPTH + 5, MOST_COLUMNS + 1)]
BLOCKS += [(2 * MOST_ROWS - 1, 66, 2 * MOST_COLUMNS + 3)]


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


@pytest.mark.parametrize("name", ["avx1024", *sorted(set(INSTRUCTION_SETS) - set(available()))])
def test_an_absent_set_that_is_forced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GPUQ_ISA", name)
    one = np.ones((1, 1), np.int8)
    with pytest.raises(gpuq.DeviceError, match=name):
        gpuq.matmul_integer(one, one)
