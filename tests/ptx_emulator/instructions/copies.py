"""cp.async and its groups; the bookkeeping stands in asynchronous.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import access
from ..errors import UnsupportedError
from ..group import Group
from ..semantics import Semantics, expect_operands, read_modifiers
from ..syntax import Immediate, Instruction, Register
from .transfer import hint_free

Array = npt.NDArray[Any]


def copy(instruction: Instruction) -> Semantics:
    """cp.async and its commit_group, wait_group and wait_all."""
    if instruction.modifiers == ("async", "commit_group"):
        return Semantics((), (), lambda group: group.copies.commit(group), lanewise=False)
    if instruction.modifiers == ("async", "wait_all"):
        return Semantics((), (), lambda group: group.copies.wait(group, -1), lanewise=False)
    if instruction.modifiers == ("async", "wait_group"):
        expect_operands(instruction, 1)
        if not isinstance(instruction.operands[0], Immediate):
            raise UnsupportedError(f"{instruction}: the number of groups must be a literal")
        pending = int(instruction.operands[0].text, 0)
        return Semantics((), (), lambda group: group.copies.wait(group, pending), lanewise=False)
    return _start(instruction)


def _start(instruction: Instruction) -> Semantics:
    """cp.async.{ca,cg}.shared.global [to], [from], size[, source size | ignore predicate]."""
    kept = [word for word in instruction.modifiers if word in ("ca", "cg")]
    words = hint_free(instruction)
    types, (first, to, source) = read_modifiers(words, {"async"}, {"shared"}, {"global"})
    expect_operands(instruction, 3, 4)
    target, origin, size, *last = instruction.operands
    width = int(size.text, 0) if isinstance(size, Immediate) else 0
    if (
        types
        or not (first and to and source)
        or len(kept) != 1
        or width not in ((16,) if kept == ["cg"] else (4, 8, 16))
    ):
        raise UnsupportedError(f"{instruction}: this form of cp.async is not known")

    def evaluate(group: Group, there: Array, here: Array, *rest: Array) -> None:
        ignored = group.pick(rest[0]) if rest and rest[0].dtype == bool else None
        count = group.lanes().size
        amount = np.full(count, width) if not rest else group.pick(rest[0]).astype(np.int64)
        if ignored is not None:
            amount = np.where(ignored, 0, width)
        content = _read(group, group.pick(here), amount, width)
        group.counters.shared_access(group, group.pick(there), width, group.lanes())
        group.copies.start(group, group.pick(there), content)

    return Semantics(
        (), ((target, "address"), (origin, "address"), *((each, _kind(each)) for each in last)), evaluate, False
    )


def _kind(operand: object) -> str:
    """A fourth operand that is a predicate reads "predicate or u32" by its register's type."""
    return "size or predicate" if isinstance(operand, Register) else "u32"


def _read(group: Group, address: Array, amount: Array, width: int) -> Array:
    """`amount` bytes per active lane, filled up with zeros to (lanes, width)."""
    lanes = group.lanes()
    content = np.zeros((lanes.size, width), np.uint8)
    access.check_alignment(group, address, width, lanes)
    whole = amount == width
    if whole.all():
        return access.load(group, address, width, lanes)
    if whole.any():
        content[whole] = access.load(group, address[whole], width, lanes[whole])
    for row in np.flatnonzero((amount > 0) & ~whole):
        for byte in range(min(int(amount[row]), width)):
            content[row, byte] = access.load(group, address[row : row + 1] + byte, 1, lanes[row : row + 1])[0, 0]
    return content
