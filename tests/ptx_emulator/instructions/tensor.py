"""Integer tensor core instructions: mma.sync and ldmatrix.

Source: PTX ISA, "Warp Level Matrix Instructions". All 32 lanes of a warp must be active.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BarrierError, UnsupportedError
from ..group import WARP, Group
from ..semantics import Semantics, expect_operands, read_modifiers
from ..syntax import Instruction
from .fragments import SHAPES, gather, load_matrix, scatter
from .transfer import hint_free, parts

Array = npt.NDArray[Any]


def whole_warps(group: Group) -> Array | slice:
    """The warps that are active; BarrierError if one of them is so only in part."""
    if group.mask is None:
        return slice(None)
    lanes = group.mask.reshape(-1, WARP)
    some, every = lanes.any(axis=1), lanes.all(axis=1)
    if (some != every).any():
        warp = int(np.flatnonzero(some != every)[0])
        lane = warp * WARP + int(np.flatnonzero(lanes[warp])[0])
        raise BarrierError(group.blame(lane, f"needs all lanes of the warp, {int(lanes[warp].sum())} are active"))
    return np.flatnonzero(some)


def _columns(group: Group, warps: Array | slice, values: tuple[Array, ...]) -> Array:
    """Registers of the active warps, (warps, 32, registers), contiguous."""
    return np.stack([group.full(each).reshape(-1, WARP)[warps] for each in values], axis=2)


def _registers(group: Group, warps: Array | slice, values: Array) -> tuple[Array, ...]:
    """(warps, 32, registers) as one array over all lanes per register."""
    result = np.zeros((values.shape[2], group.count // WARP, WARP), values.dtype)
    result[:, warps] = values.transpose(2, 0, 1)
    return tuple(result.reshape(values.shape[2], -1))


def multiply_accumulate(instruction: Instruction) -> Semantics:
    """mma.sync.aligned.{m8n8k16,m16n8k32}.row.col[.satfinite].s32.{s8,u8}.{s8,u8}.s32 d, a, b, c."""
    types, (_, _, shape, _, _, limit) = read_modifiers(
        instruction, {"sync"}, {"aligned"}, set(SHAPES), {"row"}, {"col"}, {"satfinite"}
    )
    expect_operands(instruction, 4)
    if not shape or len(types) != 4 or types[0] != "s32" or types[3] != "s32" or {types[1], types[2]} - {"s8", "u8"}:
        raise UnsupportedError(f"{instruction}: this form of mma is not known")
    layout = SHAPES[shape]
    signs = ["i1" if kind == "s8" else "u1" for kind in types[1:3]]
    d, a, b, c = map(parts, instruction.operands)
    counts = tuple(each.rows.shape[1] // 4 for each in (layout.a, layout.b))
    if (len(a), len(b)) != counts or not len(c) == len(d) == layout.accumulator.rows.shape[1]:
        raise UnsupportedError(f"{instruction}: wrong number of registers")

    def evaluate(group: Group, *values: Array) -> tuple[Array, ...]:
        warps = whole_warps(group)
        left, right = values[: len(a)], values[len(a) : len(a) + len(b)]
        first = gather(layout.a, _columns(group, warps, left).view(signs[0])).astype(np.float32)
        second = gather(layout.b, _columns(group, warps, right).view(signs[1])).astype(np.float32)
        product = np.matmul(first, second)  # exact: below 32 · 255² < 2^24
        added = scatter(layout.accumulator, product)
        sums = _columns(group, warps, values[len(a) + len(b) :])
        if limit:
            ends = np.iinfo(np.int32)
            sums = np.clip(sums + added.astype(np.int64), ends.min, ends.max).astype(np.int32)
        else:
            sums = sums + added.astype(np.int32)
        return _registers(group, warps, sums)

    return Semantics(tuple((each, "b32") for each in d), tuple((each, "b32") for each in (*a, *b, *c)), evaluate, False)


def load_matrices(instruction: Instruction) -> Semantics:
    """ldmatrix.sync.aligned.m8n8.{x1,x2,x4}[.trans].shared.b16 d, [row address]; lanes 8·i … 8·i+7 address matrix i."""
    (kind,), (_, _, shape, count, transposed, space) = read_modifiers(
        hint_free(instruction), {"sync"}, {"aligned"}, {"m8n8"}, {"x1", "x2", "x4"}, {"trans"}, {"shared"}
    )
    expect_operands(instruction, 2)
    targets = parts(instruction.operands[0])
    if kind != "b16" or not shape or not space or not count or len(targets) != int(count[1:]):
        raise UnsupportedError(f"{instruction}: this form of ldmatrix is not known")
    number = len(targets)

    def evaluate(group: Group, address: Array) -> Array | tuple[Array, ...]:
        warps = whole_warps(group)
        lanes = group.full(group.arange(group.count)).reshape(-1, WARP)[warps, : 8 * number].reshape(-1)
        chosen = group.full(address)[lanes]
        group.counters.shared_access(group, chosen, 16, lanes)
        rows = group.shared.load(group, chosen, 16, lanes).view(np.int16).reshape(-1, number, 8, 8)
        each = [load_matrix(np.ascontiguousarray(rows[:, index]), bool(transposed)) for index in range(number)]
        words = np.stack([np.ascontiguousarray(matrix).view(np.int32)[:, :, 0] for matrix in each], axis=2)
        result = _registers(group, warps, words)
        return result if number > 1 else result[0]

    return Semantics(tuple((each, "b32") for each in targets), ((instruction.operands[1], "address"),), evaluate, False)
