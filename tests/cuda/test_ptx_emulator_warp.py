"""The emulator's warp-wide instructions against the PTX manual's pseudo code, lane by lane."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ptx_emulator import BarrierError, EmulationError
from ptx_emulator.ptxtypes import register_dtype
from ptx_emulator.texts import apply, integers

Array = npt.NDArray[Any]
LANES = 128
VALUES = integers("b32", LANES, 1)


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The source lane and predicate of shfl, as the manual writes them."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & mask) | (cval & ~mask)
    min_lane = lane & mask
    if mode == "up":
        j = lane - bval
        inside = j >= max_lane
    elif mode == "down":
        j = lane + bval
        inside = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        inside = j <= max_lane
    else:
        j = min_lane | (bval & ~mask)
        inside = j <= max_lane
    return (j if inside else lane), inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffle(mode: str, width: int) -> None:
    clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
    for step in (0, 1, 3, 16, 31):
        line = f"shfl.sync.{mode}.b32 d|p, a, {step}, {clamp}, -1; selp.u32 r, 1, 0, p; xor.b32 d, d, r;"
        actual = apply(line, "b32", a=("b32", VALUES))
        wanted = []
        for lane in range(LANES):
            other, inside = shuffled(mode, lane % 32, step, clamp)
            wanted.append(int(VALUES[lane // 32 * 32 + other]) ^ int(inside))
        assert actual.tolist() == wanted


def test_shuffle_by_register() -> None:
    source = np.random.default_rng(2).integers(0, 32, LANES).astype(np.int32)
    actual = apply("shfl.sync.idx.b32 d, a, b, 31, 0xffffffff;", "b32", a=("b32", VALUES), b=("b32", source))
    assert actual.tolist() == [int(VALUES[lane // 32 * 32 + source[lane]]) for lane in range(LANES)]


def test_votes() -> None:
    flags = (np.random.default_rng(3).integers(0, 3, LANES) > 0).astype(np.int32)
    flags[:32], flags[32:64] = 1, 0
    rows = flags.reshape(-1, 32)
    expected = {"all": rows.all(1), "any": rows.any(1), "uni": rows.all(1) | ~rows.any(1)}
    for name, each in expected.items():
        line = f"setp.ne.s32 q, a, 0; vote.sync.{name}.pred p, q, -1; selp.u32 d, 1, 0, p;"
        assert apply(line, "u32", a=("b32", flags)).tolist() == np.repeat(each, 32).astype(int).tolist()
    ballots = apply("setp.ne.s32 q, a, 0; vote.sync.ballot.b32 d, !q, -1;", "b32", a=("b32", flags)).view(np.uint32)
    wanted = [sum(1 << lane for lane in range(32) if not row[lane]) for row in rows]
    assert ballots.tolist() == np.repeat(wanted, 32).tolist()


def test_match() -> None:
    values = np.random.default_rng(4).integers(0, 5, LANES).astype(np.int32)
    actual = apply("match.any.sync.b32 d, a, -1;", "b32", a=("b32", values)).view(np.uint32)
    for lane in range(LANES):
        first = lane // 32 * 32
        assert actual[lane] == sum(1 << other for other in range(32) if values[first + other] == values[lane])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("add", "s32"),
        ("add", "u32"),
        ("min", "s32"),
        ("min", "u32"),
        ("max", "s32"),
        ("max", "u32"),
        ("and", "b32"),
        ("or", "b32"),
        ("xor", "b32"),
    ],
)
def test_reduction(name: str, kind: str) -> None:
    actual = apply(f"redux.sync.{name}.{kind} d, a, -1;", "b32", a=("b32", VALUES))
    rows = VALUES.view(np.uint32 if kind == "u32" else np.int32).reshape(-1, 32)
    function = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[name]
    assert actual.tolist() == np.repeat(function.reduce(rows, axis=1, dtype=rows.dtype).view(np.int32), 32).tolist()


def test_lane_registers_and_active_mask() -> None:
    zeros = np.zeros(LANES, register_dtype("b32"))
    lane = np.arange(LANES) % 32
    assert apply("mov.u32 d, %laneid;", "b32", a=("b32", zeros)).tolist() == lane.tolist()
    for name, bits in {
        "lt": (1 << lane) - 1,
        "le": (2 << lane) - 1,
        "eq": 1 << lane,
        "gt": 2**32 - (2 << lane),
        "ge": 2**32 - (1 << lane),
    }.items():
        assert apply(f"mov.u32 d, %lanemask_{name};", "b32", a=("b32", zeros)).view(np.uint32).tolist() == bits.tolist()
    line = """mov.u32 r, %laneid; activemask.b32 d; setp.lt.u32 p, r, 8; @!p bra LATER; activemask.b32 d; LATER:"""
    wanted = np.where(lane < 8, 0xFF, 0xFFFFFFFF)
    assert apply(line, "b32", a=("b32", zeros)).view(np.uint32).tolist() == wanted.tolist()


DIVERGED = "mov.u32 r, %laneid; mov.b32 d, 0; setp.lt.u32 p, r, 16; @!p bra LATER; {} LATER:"


def test_partial_warps_with_the_right_mask() -> None:
    line = DIVERGED.format("shfl.sync.bfly.b32 d, a, 1, 31, 0xffff; redux.sync.add.s32 d, d, 0x0000ffff;")
    actual = apply(line, "b32", a=("b32", VALUES)).reshape(-1, 32)
    sums = VALUES.reshape(-1, 32)[:, :16].sum(axis=1, dtype=np.int32)
    assert (actual[:, :16] == sums[:, None]).all()
    assert (actual[:, 16:] == 0).all()


@pytest.mark.parametrize(
    "instruction",
    [
        "shfl.sync.bfly.b32 d, a, 1, 31, -1;",
        "shfl.sync.bfly.b32 d, a, 16, 31, 0x0000ffff;",
        "vote.sync.any.pred p, p, -1;",
        "redux.sync.add.s32 d, a, -1;",
        "bar.warp.sync -1;",
        "match.any.sync.b32 d, a, 0x000000ff;",
    ],
)
def test_absent_lanes_are_errors(instruction: str) -> None:
    with pytest.raises(BarrierError, match="(?s)line.*" + instruction.split()[0]):
        apply(DIVERGED.format(instruction), "b32", a=("b32", VALUES))


def test_trap() -> None:
    with pytest.raises(EmulationError, match="trap"):
        apply("setp.eq.s32 p, a, 77; @p trap; mov.b32 d, a;", "b32", a=("b32", np.array([1, 77], np.int32)))
