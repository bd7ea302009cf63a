"""Warp-wide instructions: shfl, vote, match, redux, activemask, bar.warp.sync.

Source: PTX ISA, "Parallel Synchronization and Communication Instructions". A lane whose member mask names a lane that
is not here, or not itself, is a BarrierError; so is reading a lane that is not active.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BarrierError, UnsupportedError
from ..group import WARP, Group
from ..semantics import Semantics, expect_operands, expect_type, read_modifiers
from ..syntax import Instruction
from .transfer import parts

Array = npt.NDArray[Any]
BIT = np.uint32(1) << np.arange(WARP, dtype=np.uint32)


def active_bits(group: Group, flags: Array | None = None) -> Array:
    """Per warp, one bit for each lane that is active (and has `flags` set), (warps,) uint32."""
    chosen = np.ones(group.count, bool) if group.mask is None else group.mask
    if flags is not None:
        chosen = chosen & group.full(flags)
    return (chosen.reshape(-1, WARP) * BIT).sum(axis=1, dtype=np.uint32)


def check_members(group: Group, members: Array) -> None:
    """Raise BarrierError unless every active lane's member mask holds the lane itself and active lanes only."""
    wanted = group.full(members).view(np.uint32).reshape(-1, WARP)
    absent = wanted & ~active_bits(group)[:, None]
    wrong = ((absent != 0) | (wanted & BIT == 0)).reshape(-1)
    if group.mask is not None:
        wrong = wrong & group.mask
    if wrong.any():
        lane = int(np.flatnonzero(wrong)[0])
        mask, active = int(wanted.reshape(-1)[lane]), int(active_bits(group)[lane // WARP])
        raise BarrierError(group.blame(lane, f"member mask {mask:#010x}, but the active lanes are {active:#010x}"))


def shuffle(instruction: Instruction) -> Semantics:
    """shfl.sync.{up,down,bfly,idx}.b32 d[|p], a, b, c, members."""
    (kind,), (_, mode) = read_modifiers(instruction, {"sync"}, {"up", "down", "bfly", "idx"})
    expect_type(instruction, kind, {"b32"})
    expect_operands(instruction, 5)
    if instruction.modifiers[0] != "sync" or not mode:
        raise UnsupportedError(f"{instruction}: only shfl.sync is known")
    targets = tuple(zip(parts(instruction.operands[0]), ("b32", "pred"), strict=False))
    sources = tuple((each, "b32") for each in instruction.operands[1:])

    def evaluate(group: Group, a: Array, b: Array, c: Array, members: Array) -> Array | tuple[Array, Array]:
        check_members(group, members)
        lane = np.tile(np.arange(WARP, dtype=np.int32), group.count // WARP)
        step, clamp, segment = b & 31, c & 31, c >> 8 & 31
        last = lane & segment | clamp & ~segment
        if mode == "up":
            other = lane - step
            inside = other >= last
        else:
            other = {"down": lane + step, "bfly": lane ^ step, "idx": lane & segment | step & ~segment}[mode]
            inside = other <= last
        other = group.arange(group.count) - lane + np.where(inside, other, lane)
        if group.mask is not None:
            lost = group.mask & ~group.mask[np.where(group.mask, other, 0)]
            if lost.any():
                raise BarrierError(group.blame(int(np.flatnonzero(lost)[0]), "reads a lane that is not active"))
            other = np.where(group.mask, other, 0)
        value = group.full(a)[other]
        return (value, np.broadcast_to(inside, other.shape)) if len(targets) == 2 else value

    return Semantics(targets, sources, evaluate, lanewise=False)


def vote(instruction: Instruction) -> Semantics:
    """vote.sync.{all,any,uni}.pred and vote.sync.ballot.b32."""
    (kind,), (_, mode) = read_modifiers(instruction, {"sync"}, {"all", "any", "uni", "ballot"})
    expect_operands(instruction, 3)
    if instruction.modifiers[0] != "sync" or (mode == "ballot") != (kind == "b32"):
        raise UnsupportedError(f"{instruction}: this form of vote is not known")
    target, *sources = instruction.operands

    def evaluate(group: Group, p: Array, members: Array) -> Array:
        check_members(group, members)
        wanted = group.full(members).view(np.uint32)
        yes = np.repeat(active_bits(group, p), WARP) & wanted
        if mode == "ballot":
            return yes.view(np.int32)
        return {"all": yes == wanted, "any": yes != 0, "uni": (yes == 0) | (yes == wanted)}[mode]

    return Semantics(((target, kind),), tuple(zip(sources, ("pred", "b32"), strict=True)), evaluate, lanewise=False)


def match(instruction: Instruction) -> Semantics:
    """match.any.sync d, a, members: the lanes that hold the same value."""
    (kind,), (mode, _) = read_modifiers(instruction, {"any"}, {"sync"})
    expect_operands(instruction, 3)
    expect_type(instruction, kind, {"b32", "b64"})
    if not mode:
        raise UnsupportedError(f"{instruction}: only match.any.sync is known")
    target, *sources = instruction.operands

    def evaluate(group: Group, a: Array, members: Array) -> Array:
        check_members(group, members)
        rows = group.full(a).reshape(-1, WARP)
        equal = rows[:, :, None] == rows[:, None, :]
        return ((equal * BIT).sum(axis=2, dtype=np.uint32).reshape(-1) & group.full(members).view(np.uint32)).view(
            np.int32
        )

    return Semantics(((target, "b32"),), tuple(zip(sources, (kind, "b32"), strict=True)), evaluate, lanewise=False)


REDUCTIONS: dict[str, Callable[..., Array]] = {
    "add": np.add.reduce,
    "min": np.minimum.reduce,
    "max": np.maximum.reduce,
    "and": np.bitwise_and.reduce,
    "or": np.bitwise_or.reduce,
    "xor": np.bitwise_xor.reduce,
}


def reduction(instruction: Instruction) -> Semantics:
    """redux.sync.op.type d, a, members; every lane of a warp must have the same member mask."""
    (kind,), (_, name) = read_modifiers(instruction, {"sync"}, set(REDUCTIONS))
    expect_operands(instruction, 3)
    expect_type(instruction, kind, {"b32"} if name in ("and", "or", "xor") else {"s32", "u32"})
    target, *sources = instruction.operands

    def evaluate(group: Group, a: Array, members: Array) -> Array:
        check_members(group, members)
        rows, wanted = group.full(a).reshape(-1, WARP), group.full(members).view(np.uint32).reshape(-1, WARP)
        active = active_bits(group)
        result = np.zeros(rows.shape, rows.dtype)
        for warp in np.flatnonzero(active):
            inside = (active[warp] & BIT) != 0
            if (wanted[warp][inside] != active[warp]).any():
                raise BarrierError(group.blame(int(warp) * WARP, "redux among lanes with different member masks"))
            result[warp] = (
                REDUCTIONS[name](rows[warp][inside], dtype=rows.dtype)
                if name == "add"
                else REDUCTIONS[name](rows[warp][inside])
            )
        return result.reshape(-1)

    return Semantics(((target, kind),), tuple(zip(sources, (kind, "b32"), strict=True)), evaluate, lanewise=False)


def active_mask(instruction: Instruction) -> Semantics:
    """activemask.b32 d."""
    expect_operands(instruction, 1)

    def evaluate(group: Group) -> Array:
        return np.repeat(active_bits(group), WARP).view(np.int32)

    return Semantics(((instruction.operands[0], "b32"),), (), evaluate, lanewise=False)


def warp_barrier(instruction: Instruction) -> Semantics:
    """bar.warp.sync members: orders the warp's accesses to shared memory."""
    expect_operands(instruction, 1)
    if instruction.modifiers != ("warp", "sync"):
        raise UnsupportedError(f"{instruction}: not a known form")

    def evaluate(group: Group, members: Array) -> None:
        check_members(group, members)
        group.shared.synchronize_warps(group, group.lanes())

    return Semantics((), ((instruction.operands[0], "b32"),), evaluate, lanewise=False)
