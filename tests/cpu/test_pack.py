"""Packing against a plain Python model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.pack import Packed, pack_a, pack_b
from gpuq.cpu.tiles import CODES, DEPTH, group_length
from layouts import INPUT_LAYOUTS
from values import codes

Array = npt.NDArray[Any]

# no instruction has such tiles: packing must take them from the table, not from habit
ODD = InstructionSet("odd", (), rows=3, vectors=5, lanes=1, group=3, b_unsigned=False, a_bytes=1)
SETS = {**INSTRUCTION_SETS, "odd": ODD}

# (matrices, rows, k): nothing, one, one short of, exactly and one past tiles, groups and vectors
SHAPES = [(1, 0, 5), (1, 5, 0), (0, 3, 3), (1, 1, 1), (3, 2, 5)] + [
    (1, rows, k) for rows in (3, 4, 5, 11, 12, 13, 31, 32, 33) for k in (1, 3, 4, 5, 63, 64, 65, 130)
]


def padded(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def check(packed: Packed, rows: Array, isa: InstructionSet, tile: int, unsigned: bool) -> None:
    """Assert that `rows` (count, rows, k) of codes are packed into tiles of that many rows, with the sums of each."""
    count, length, k = rows.shape
    group = group_length(isa, k)
    shift = (0 if unsigned else 128) - (0 if rows.dtype == np.uint8 else 128)
    steps, tiles = -(-k // group), -(-length // tile)
    stored = np.zeros((count, tiles * tile, steps * group), np.int64)
    stored[:, :length, :k] = rows.astype(np.int64) - shift
    panels = stored.reshape(count, tiles, tile, steps, group).transpose(0, 1, 3, 2, 4)
    assert packed.shift == shift
    assert packed.isa == isa.name
    assert packed.panels.flags.c_contiguous
    assert packed.panels.shape == panels.shape
    assert (packed.panels == panels).all()
    assert packed.sums[:, :length].tolist() == stored[:, :length].sum(axis=2).tolist()


def check_both(source: Array, isa: InstructionSet) -> None:
    """Pack (count, rows, k) as rows of a and, seen as (count, k, n), as columns of b."""
    a = pack_a(source, isa)
    assert a.panels.dtype == np.dtype(f"i{isa.a_bytes}")
    check(a, source, isa, isa.rows, False)
    b = pack_b(source, isa)
    assert b.panels.dtype == (np.uint8 if isa.b_unsigned else np.int8)
    check(b, source.swapaxes(1, 2), isa, isa.columns, isa.b_unsigned)


@pytest.mark.parametrize("name", SETS)
def test_pack(name: str) -> None:
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        for dtype in ("int8", "uint8"):
            check_both(codes(rng, dtype, shape), SETS[name])


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pack_layouts(dtype: str, layout: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((2, 5, 70), (1, 70, 5), (2, 0, 3), (3, 1, 1)):
        source = INPUT_LAYOUTS[layout](codes(rng, dtype, shape))
        check_both(source, ODD)
        check_both(source.swapaxes(1, 2), ODD)


@pytest.mark.parametrize(("dtype", "code"), [("int8", -128), ("int8", 127), ("uint8", 0), ("uint8", 255)])
def test_sums_of_extreme_codes(dtype: str, code: int) -> None:
    """A row too long for one int32 sum: 255 · (2^23 + 2^20) is more than 2^31."""
    k = 2**23 + 2**20
    packed = pack_a(np.full((1, 1, k), code, dtype), SETS["portable"])
    assert packed.sums[0, 0] == k * (code - packed.shift)


def test_pack_copies() -> None:
    source = np.ones((1, 3, 3), np.int8)
    packed = pack_a(source, ODD)
    source[...] = 0
    assert packed.panels.min() == 1


def test_groups_that_are_not_fixed() -> None:
    """Rows are cut into equal pieces of whole vectors, none longer than a pass along k."""
    portable = SETS["portable"]
    for k in (0, 1, CODES, CODES + 1, DEPTH - 1, DEPTH, DEPTH + 1, 10 * DEPTH + 1):
        length = group_length(portable, k)
        assert length % CODES == 0
        assert CODES <= length <= DEPTH
        assert padded(k, length) - k < length
    assert group_length(ODD, 1000) == 3
