"""mov, cvta, ld and st in every state space, and the memory fences.

Source: PTX ISA, "Data Movement and Conversion Instructions". Cache and ordering hints change nothing here. Generic
addresses of shared and local memory lie in windows far above every buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import access
from ..errors import AccessError, EmulationError, UnsupportedError
from ..group import Group
from ..ptxtypes import BITS, dtype_of
from ..semantics import Semantics, expect_operands, read_modifiers
from ..syntax import Address, Immediate, Instruction, Operand, Symbol, Vector

Array = npt.NDArray[Any]
SHARED_WINDOW, LOCAL_WINDOW = np.int64(1) << np.int64(60), np.int64(1) << np.int64(61)
LOCAL_BASE = 64  # local addresses start here, so that address 0 is no variable
SPACES = {"global", "shared", "local", "const", "param"}
HINTS = {"weak", "relaxed", "acquire", "release", "volatile", "nc", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "unified"}
STRONG = {"volatile", "relaxed", "acquire"}  # loads that may meet other threads' atomics
SCOPES = {"cta", "cluster", "gpu", "sys"}
VECTORS = {"v2", "v4", "v8"}


def hint_free(instruction: Instruction) -> Instruction:
    """The instruction without the hints that change no result."""
    kept = [
        word
        for word in instruction.modifiers
        if word not in HINTS | SCOPES and not (word[:4] in ("L1::", "L2::") and word != "L2::cache_hint")
    ]
    kept = [word.split("::")[0] if word in ("shared::cta", "param::entry") else word for word in kept]
    return Instruction(
        instruction.guard, instruction.opcode, tuple(kept), instruction.operands, instruction.line, instruction.text
    )


def parts(operand: Operand) -> tuple[Operand, ...]:
    """The elements of a vector operand, or the operand alone."""
    return operand.parts if isinstance(operand, Vector) else (operand,)


def load(instruction: Instruction) -> Semantics:
    """ld. Parameters are read by slots, so ld.param becomes a copy."""
    (kind,), (space, vector) = read_modifiers(hint_free(instruction), SPACES, VECTORS)
    expect_operands(instruction, 2)
    targets, source = parts(instruction.operands[0]), instruction.operands[1]
    if len(targets) != int(vector[1:] or 1):
        raise UnsupportedError(f"{instruction}: {len(targets)} registers for .{vector}")
    size = BITS[kind] // 8
    if space == "param":
        if not isinstance(source, Address) or not isinstance(source.base, Symbol):
            raise UnsupportedError(f"{instruction}: a parameter is read by its name")
        each = [Address(source.base, source.offset + index * size) for index in range(len(targets))]
        return Semantics(
            tuple((target, kind) for target in targets),
            tuple((word, f"param.{kind}") for word in each),
            (lambda value: value) if len(each) == 1 else (lambda *values: values),
        )
    dtype, count = dtype_of(kind), len(targets)
    strong = bool(STRONG & {*instruction.modifiers})

    def evaluate(group: Group, address: Array) -> Array | tuple[Array, ...]:
        rows = load_rows(group, space, address, size * count, strong).view(dtype)
        values = [group.spread(np.ascontiguousarray(rows[:, index]), dtype) for index in range(count)]
        return values[0] if count == 1 else tuple(values)

    return Semantics(tuple((target, kind) for target in targets), ((source, "address"),), evaluate, lanewise=False)


def load_rows(group: Group, space: str, address: Array, width: int, strong: bool) -> Array:
    """`width` bytes per active lane, (lanes, width) uint8; one row where all lanes surely read the same."""
    if space in ("global", "const"):
        lanes = group.lanes()
        return access.load(group, address if address.size == 1 else group.pick(address), width, lanes, strong)
    address, lanes = group.pick(address), group.lanes()
    if space == "shared":
        group.counters.shared_access(group, address, width, lanes)
        return group.shared.load(group, address, width, lanes)
    if space == "local":
        return group.local[lanes[:, None], _local(group, address, width, lanes)]
    result = np.empty((lanes.size, width), np.uint8)
    for real, chosen in _windows(group, address):
        with _narrowed(group, chosen):
            there = group.spread(_windowless(real, address[chosen]), address.dtype)
            result[chosen] = load_rows(group, real, there, width, strong)
    return result


def store_rows(group: Group, space: str, address: Array, rows: Array) -> None:
    """Store `rows`, (active lanes, width) uint8."""
    lanes, width = group.lanes(), rows.shape[1]
    if space == "global":
        access.store(group, address, rows, lanes)
    elif space == "shared":
        group.counters.shared_access(group, address, width, lanes)
        group.shared.store(group, address, rows, lanes)
    elif space == "local":
        group.local[lanes[:, None], _local(group, address, width, lanes)] = rows
    else:
        for real, chosen in _windows(group, address):
            with _narrowed(group, chosen):
                store_rows(group, real, _windowless(real, address[chosen]), rows[chosen])


def _local(group: Group, address: Array, width: int, lanes: Array) -> Array:
    """The bytes of each lane's local memory, (lanes, width)."""
    offset = address - LOCAL_BASE
    wrong = (offset < 0) | (offset > group.local.shape[1] - width) | (address & (width - 1) != 0)
    if wrong.any():
        lane = int(np.flatnonzero(wrong)[0])
        raise AccessError(
            group.blame(int(lanes[lane]), f"local address {int(address[lane]):#x} is misaligned or outside")
        )
    return offset[:, None] + np.arange(width)


def _windows(group: Group, address: Array) -> list[tuple[str, Array]]:
    """Which elements of generic addresses lie in which state space."""
    space = np.where(address >= LOCAL_WINDOW, 2, np.where(address >= SHARED_WINDOW, 1, 0))
    return [
        (name, np.flatnonzero(space == index))
        for index, name in enumerate(("global", "shared", "local"))
        if (space == index).any()
    ]


def _windowless(space: str, address: Array) -> Array:
    return address - {"global": np.int64(0), "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}[space]


class _narrowed:
    """Make only some of the active lanes (by their place among them) active for a while."""

    def __init__(self, group: Group, chosen: Array) -> None:
        self.group, self.before = group, group.mask
        if chosen.size < group.lanes().size:
            mask = np.zeros(group.count, bool)
            mask[group.lanes()[chosen]] = True
            group.mask = mask

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.group.mask = self.before


def store(instruction: Instruction) -> Semantics:
    """st."""
    (kind,), (space, vector) = read_modifiers(hint_free(instruction), SPACES, VECTORS)
    expect_operands(instruction, 2)
    target, values = instruction.operands[0], parts(instruction.operands[1])
    if len(values) != int(vector[1:] or 1) or space in ("param", "const"):
        raise UnsupportedError(f"{instruction}: this form of st is not known")

    def evaluate(group: Group, address: Array, *content: Array) -> None:
        chosen = [group.pick(each) for each in content]
        columns = np.ascontiguousarray(chosen[0]) if len(chosen) == 1 else np.stack(chosen, axis=1)
        store_rows(group, space, group.pick(address), columns.view(np.uint8).reshape(len(columns), -1))

    return Semantics((), ((target, "address"), *((each, kind) for each in values)), evaluate, lanewise=False)


def move(instruction: Instruction) -> Semantics:
    """mov, packing `d, {a, b}` and unpacking `{a, b}, d` included."""
    (kind,), _ = read_modifiers(instruction)
    expect_operands(instruction, 2)
    target, source = instruction.operands
    if not isinstance(target, Vector) and not isinstance(source, Vector):
        return Semantics(((target, kind),), ((source, kind),), lambda value: value)
    pieces = parts(source if isinstance(source, Vector) else target)
    bits = BITS[kind] // len(pieces)
    if bits not in (8, 16, 32) or isinstance(target, Vector) == isinstance(source, Vector):
        raise UnsupportedError(f"{instruction}: this form of mov is not known")
    dtype, small = dtype_of(f"b{BITS[kind]}"), dtype_of(f"b{bits}")
    if isinstance(source, Vector):
        return Semantics(
            ((target, f"b{BITS[kind]}"),),
            tuple((each, f"b{bits}") for each in pieces),
            lambda *values: np.stack(np.broadcast_arrays(*values), axis=1).view(dtype).reshape(-1),
        )

    def unpack(value: Array) -> tuple[Array, ...]:
        return tuple(np.ascontiguousarray(np.ascontiguousarray(value).view(small).reshape(len(value), -1).T))

    return Semantics(tuple((each, f"b{bits}") for each in pieces), ((source, f"b{BITS[kind]}"),), unpack)


def to_generic(instruction: Instruction) -> Semantics:
    """cvta.space (to generic) and cvta.to.space (from generic)."""
    (kind,), (back, space) = read_modifiers(hint_free(instruction), {"to"}, {"global", "shared", "local", "const"})
    expect_operands(instruction, 2)
    if kind != "u64" or not space:
        raise UnsupportedError(f"{instruction}: only 64-bit cvta with a space is known")
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, np.int64(0))
    shift = -window if back else window
    target, source = instruction.operands
    if isinstance(source, Immediate):
        raise UnsupportedError(f"{instruction}: a literal address")
    return Semantics(
        ((target, "b64"),), ((source, "b64"),), (lambda value: value + shift) if shift else (lambda value: value)
    )


def fence(instruction: Instruction) -> Semantics:
    """membar and fence: nothing to do, because no barrier is implied and races are found by barriers alone."""
    known = SCOPES | {"gl", "sc", "acq_rel", "acquire", "release", "proxy", "async", "sync"}
    if set(instruction.modifiers) - known:
        raise UnsupportedError(f"{instruction}: this fence is not known")
    return Semantics((), (), lambda group: None, lanewise=False)


def trap(instruction: Instruction) -> Semantics:
    """trap ends the launch with an error."""

    def evaluate(group: Group) -> None:
        raise EmulationError(group.blame(int(group.lanes()[0]), "the kernel ran into trap"))

    return Semantics((), (), evaluate, lanewise=False)
