"""Packing against a plain Python model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from instruction_sets import ALL_SETS, ODD_SETS, REAL_SETS

from compare import assert_same
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.pack import pack_b
from gpuq.cpu.tiles import CODES, DEPTH, LINE, group_length
from layouts import INPUT_LAYOUTS
from values import codes

Array = npt.NDArray[Any]

# no instruction has such groups: packing must take them from the table, not from habit
ODD = InstructionSet("odd", (), "", rows=3, vectors=5, lanes=1, group=3, b_unsigned=False, a_bytes=1)
by_set = pytest.mark.parametrize("isa", [*ALL_SETS, ODD], ids=lambda isa: isa.name)


def check(b: Array, isa: InstructionSet) -> None:
    """Assert that b (count, k, n) is packed right, with the sums of its columns; nobody reads those of missing ones."""
    packed = pack_b(b, isa)
    count, k, n = b.shape
    group = group_length(isa, k)
    shift = (0 if isa.b_unsigned else 128) - (0 if b.dtype == np.uint8 else 128)
    steps, panels = -(-k // (group * isa.steps)) * isa.steps, -(-n // isa.columns)
    stored = np.zeros((count, steps * group, panels * isa.columns), np.int64)
    stored[:, :k, :n] = b.astype(np.int64) - shift
    expected = stored.reshape(count, steps, group, panels, isa.columns).transpose(0, 3, 1, 4, 2)
    assert packed.shift == shift
    assert packed.isa == isa.name
    assert packed.panels.flags.c_contiguous
    assert packed.panels.size == 0 or packed.panels.ctypes.data % LINE == 0
    assert_same(packed.panels, expected.astype(np.uint8 if isa.b_unsigned else np.int8), f"panels of {b.shape}")
    assert_same(packed.sums[:, :n], stored.sum(axis=1)[:, :n], f"sums of {b.shape}")


def sizes(unit: int) -> list[int]:
    """One, and what lies around a unit and a few of them."""
    return [1, unit - 1, unit, unit + 1, 4 * unit + 1, 9 * unit - 1]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@by_set
def test_pack_every_size(isa: InstructionSet, dtype: str) -> None:
    """Around panels and the cache lines they share, groups and, for the portable set, vectors; both orders."""
    rng = np.random.default_rng(1)
    for k in {0, 1, 3, *sizes(isa.group * isa.steps or CODES)}:
        for n in {0, *sizes(isa.columns)}:
            b = codes(rng, dtype, (1, k, n))
            check(b, isa)
            check(np.asfortranarray(b), isa)
    check(codes(rng, dtype, (0, 3, 3)), isa)
    check(codes(rng, dtype, (3, 5, 2)), isa)


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pack_every_layout(dtype: str, layout: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((2, 5, 70), (1, 70, 5), (2, 0, 3), (3, 1, 1), (1, 33, 66)):
        source = INPUT_LAYOUTS[layout](codes(rng, dtype, shape))
        for isa in (REAL_SETS[0], ODD):
            check(source, isa)
            check(source.swapaxes(1, 2), isa)


@pytest.mark.parametrize(("dtype", "code"), [("int8", -128), ("int8", 127), ("uint8", 0), ("uint8", 255)])
@pytest.mark.parametrize("order", ["rows", "columns"])
@pytest.mark.parametrize("isa", [REAL_SETS[0], INSTRUCTION_SETS["portable"], ODD_SETS[0]], ids=lambda isa: isa.name)
def test_sums_of_extreme_codes(isa: InstructionSet, order: str, dtype: str, code: int) -> None:
    """A column too long for one int32 sum: 255 · (2^23 + 2^20) is more than 2^31."""
    k = 2**23 + 2**20
    b = np.full((1, k, isa.columns), code, dtype) if order == "rows" else np.full((1, 1, k), code, dtype).swapaxes(1, 2)
    packed = pack_b(b, isa)
    assert packed.sums[0, : b.shape[2]].tolist() == [k * (code - packed.shift)] * b.shape[2]


def test_pack_copies() -> None:
    source = np.ones((1, 3, 3), np.int8)
    packed = pack_b(source, ODD)
    source[...] = 0
    assert packed.panels[0, 0, 0, :3].min() == 1


def test_groups_that_are_not_fixed() -> None:
    """Columns are cut into equal pieces of whole vectors, none longer than a pass along k."""
    portable = INSTRUCTION_SETS["portable"]
    for k in (0, 1, CODES, CODES + 1, DEPTH - 1, DEPTH, DEPTH + 1, 10 * DEPTH + 1):
        length = group_length(portable, k)
        assert length % CODES == 0
        assert CODES <= length <= DEPTH
        assert -(-k // length) * length - k < length
    assert group_length(ODD, 1000) == 3


def test_a_batch_that_lies_in_no_order() -> None:
    """Matrices of which a view of three axes is a copy were packed from where the caller's begin, as if they lay so."""
    isa, rng = REAL_SETS[0], np.random.default_rng(3)
    for shape, axes in (((3, 2, 5, 4), (1, 0, 2, 3)), ((2, 3, 4, 5), (1, 0, 3, 2)), ((4, 2, 5, 1), (1, 0, 2, 3))):
        b = codes(rng, "int8", shape).transpose(axes)
        packed, expected = pack_b(b, isa), pack_b(np.ascontiguousarray(b).reshape(-1, *b.shape[-2:]), isa)
        assert_same(packed.panels, expected.panels)
        assert_same(packed.sums, expected.sums)
