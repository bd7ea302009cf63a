"""atom and red on global and shared memory, in an order shuffled by the launch's seed.

Source: PTX ISA, "Parallel Synchronization and Communication Instructions: atom, red". Lanes on one address follow one
another; atomics do not conflict with atomics of other threads or blocks, only with plain accesses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import access
from ..errors import UninitializedError, UnsupportedError
from ..group import Group
from ..memory import ATOMIC
from ..semantics import Semantics, expect_operands, read_modifiers
from ..syntax import Instruction
from .transfer import SHARED_WINDOW, SPACES, hint_free

Array = npt.NDArray[Any]
Update = Callable[..., Array]
UPDATES: dict[str, Update] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, b: b,
    "cas": lambda old, b, c: np.where(old == b, c, old),
    "inc": lambda old, b: np.where(old >= b, np.uint32(0), old + np.uint32(1)),
    "dec": lambda old, b: np.where((old == 0) | (old > b), b, old - np.uint32(1)),
}
TYPES = {
    "add": {"u32", "s32", "u64", "f32", "f64"},
    "min": {"s32", "u32", "s64", "u64"},
    "max": {"s32", "u32", "s64", "u64"},
    "and": {"b32", "b64"},
    "or": {"b32", "b64"},
    "xor": {"b32", "b64"},
    "exch": {"b32", "b64"},
    "cas": {"b16", "b32", "b64"},
    "inc": {"u32"},
    "dec": {"u32"},
}


def atomic(instruction: Instruction) -> Semantics:
    """atom.op d, [a], b[, c] and red.op [a], b."""
    (kind,), (space, name) = read_modifiers(hint_free(instruction), SPACES - {"local", "const", "param"}, set(UPDATES))
    result = instruction.opcode == "atom"
    if not name or kind not in TYPES[name] or (not result and name in ("cas", "exch")):
        raise UnsupportedError(f"{instruction}: this form is not known")
    expect_operands(instruction, 2 + result + (name == "cas"))
    target, sources = instruction.operands[:result], instruction.operands[result:]

    def evaluate(group: Group, address: Array, *values: Array) -> Array | None:
        picked = [group.pick(each) for each in values]
        old = _perform(group, space, group.pick(address), UPDATES[name], picked)
        return group.spread(old, old.dtype) if result else None

    return Semantics(
        tuple((each, kind) for each in target),
        ((sources[0], "address"), *((each, kind) for each in sources[1:])),
        evaluate,
        lanewise=False,
    )


def _perform(group: Group, space: str, address: Array, update: Update, values: list[Array]) -> Array:
    """Update every lane's cell; returns what each lane found, (lanes,)."""
    width, dtype, lanes = values[0].dtype.itemsize, values[0].dtype, group.lanes()
    if not space:
        in_shared = address >= SHARED_WINDOW
        if in_shared.any() and not in_shared.all():
            raise UnsupportedError(group.blame(int(lanes[0]), "one atomic on shared and global addresses"))
        space = "shared" if in_shared.all() else "global"
        address = address - SHARED_WINDOW if space == "shared" else address
    if space == "shared":
        return _shared(group, address, update, values)
    group.counters.global_access(group, address, width, lanes, "stores")
    old = np.empty(lanes.size, dtype)
    for chosen, cells in access.accesses(group, address, width, lanes):
        buffer = cells.buffer
        access.check_write(cells, cells.threads(), atomic=True)
        unknown = ~cells.take(buffer.initialized)
        if unknown.any() and not buffer.complete:
            cells.fail(UninitializedError, unknown, "atomically updated, but nobody has written it")
        old[chosen] = _update(
            group, buffer.data.view(dtype), cells.offset // width, update, [each[chosen] for each in values]
        )
        cells.put(buffer.written_by(), ATOMIC)
    return old


def _shared(group: Group, address: Array, update: Update, values: list[Array]) -> Array:
    """The same on shared memory: read, update, and stamp as an atomic write."""
    shared, lanes, width = group.shared, group.lanes(), values[0].dtype.itemsize
    group.counters.shared_access(group, address, width, lanes)
    rows = shared.place(group, address, width, lanes)
    shared.claim(group, rows, width, lanes, atomic=True)
    if not shared.grains(shared.initialized, width)[rows].all():
        raise UninitializedError(
            group.blame(int(lanes[0]), "shared memory atomically updated, but nobody has written it")
        )
    cells = shared.data.view(values[0].dtype)
    old = _update(group, cells, rows, update, values)
    content = cells[rows].reshape(-1, 1).view(np.uint8).reshape(len(rows), width)
    shared.store(group, address, content, lanes, atomic=True)
    return old


def _update(group: Group, cells: Array, index: Array, update: Update, values: list[Array]) -> Array:
    """Update `cells[index]` lane after lane in shuffled order; lanes on different cells go at once."""
    order = group.rng.permutation(index.size)
    order = order[np.argsort(index[order], kind="stable")]
    cell = index[order]
    starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
    lengths = np.diff(np.r_[starts, cell.size])
    old = np.empty(index.size, cells.dtype)
    for turn in range(int(lengths.max(initial=0))):
        now = order[starts[lengths > turn] + turn]
        old[now] = cells[index[now]]
        cells[index[now]] = update(old[now], *(each[now] for each in values))
    return old
