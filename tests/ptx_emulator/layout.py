"""Where a launch's variables lie: addresses in shared, local and global memory, and the bytes of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import LaunchError
from .instructions.transfer import LOCAL_BASE
from .memory import Buffer, Memory
from .operands import literal
from .ptxtypes import dtype_of
from .shared import WINDOW
from .syntax import Function, Module, Variable

Array = npt.NDArray[Any]
SHARED_LIMIT = {
    75: 64,
    80: 163,
    86: 99,
    87: 163,
    89: 99,
    90: 227,
    100: 227,
    103: 227,
    120: 99,
    121: 99,
}  # KiB per block


@dataclass(frozen=True)
class Layout:
    """Addresses of all variables by their unique names, and the sizes of a block's shared and a thread's local
    memory."""

    addresses: dict[str, int]
    shared_size: int
    local_size: int


def lay_out(module: Module, variables: dict[str, Variable], memory: Memory, dynamic: int, capability: int) -> Layout:
    """Place `variables`, the module's and the kernel's. Raises LaunchError for more shared memory than a block can
    have."""
    spaces = {
        space: {name: each for name, each in variables.items() if each.space == space} for space in ("shared", "local")
    }
    static = {name: each for name, each in spaces["shared"].items() if each.size is not None}
    addresses, end = _in_a_row(static, WINDOW)
    limit = SHARED_LIMIT.get(capability, 48) * 1024
    if end - WINDOW + dynamic > limit:
        raise LaunchError(f"{end - WINDOW} + {dynamic} bytes of shared memory on a device with {limit} per block")
    start = max((_place(end, each.alignment) for each in spaces["shared"].values() if each.size is None), default=end)
    addresses.update({name: start for name in spaces["shared"] if name not in static})
    local, local_end = _in_a_row(spaces["local"], LOCAL_BASE)
    addresses.update(local)
    for name, variable in variables.items():
        if variable.space in ("global", "const"):
            addresses[name] = _module_variable(module, variable, memory).address
    return Layout(addresses, start - WINDOW + dynamic, local_end - LOCAL_BASE)


def _place(end: int, alignment: int) -> int:
    """The next address with this alignment and no larger one, so that code which needs more of it fails."""
    start = -(-end // alignment) * alignment
    return start if start % (2 * alignment) else start + alignment


def _in_a_row(variables: dict[str, Variable], base: int) -> tuple[dict[str, int], int]:
    """Addresses of variables one after another from `base` on, and the end of the last."""
    addresses, end = {}, base
    for name, variable in variables.items():
        addresses[name] = _place(end, variable.alignment)
        end = addresses[name] + (variable.size or 0)
    return addresses, end


def _module_variable(module: Module, variable: Variable, memory: Memory) -> Buffer:
    """The buffer of a .global or (read-only) .const variable, which lives as long as the module is loaded."""
    known = memory.variables.setdefault(module, {})
    if variable.name not in known:
        buffer = memory.allocate(variable.size or 0, variable.name, variable.space == "const")
        content = np.zeros(buffer.size, np.uint8)
        if variable.values:
            values = np.concatenate([literal(each, variable.type) for each in variable.values]).view(np.uint8)
            content[: values.size] = values
        buffer.write(0, content)
        known[variable.name] = buffer
    return known[variable.name]


def parameter_values(function: Function, arguments: Sequence[int | float | np.generic]) -> dict[str, Array]:
    """Every parameter's bytes, from one number each. Raises LaunchError for a wrong count or a number that does not
    fit."""
    if len(arguments) != len(function.parameters):
        raise LaunchError(f"kernel {function.name} takes {len(function.parameters)} parameters, not {len(arguments)}")
    found = {}
    for variable, value in zip(function.parameters, arguments, strict=True):
        dtype = dtype_of(variable.type)
        bits = dtype.itemsize * 8
        if isinstance(value, (int, np.integer)) and dtype.kind in "iu" and -(1 << bits - 1) <= int(value) < 1 << bits:
            content = np.array([int(value) % (1 << bits)], f"u{dtype.itemsize}")
        elif dtype.kind == "f" and isinstance(value, (float, int, np.floating)):
            content = np.array([value], dtype)
        else:
            raise LaunchError(f"parameter {variable.name} of type .{variable.type}: {value!r} does not fit")
        found[variable.name] = content.view(np.uint8)
    return found


def parameter(content: Array, offset: int, kind: str) -> Array:
    """What ld.param of type `kind` finds at `offset` of a parameter's bytes, shape (1,)."""
    dtype = dtype_of(kind)
    if offset < 0 or offset + dtype.itemsize > content.size:
        raise LaunchError(f"ld.param.{kind} at offset {offset} of a parameter of {content.size} bytes")
    return content[offset : offset + dtype.itemsize].copy().view(dtype)
