"""The one way to run a kernel: `launch`. It checks the arguments, fills in what they decide and starts the machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .counters import Counters
from .errors import LaunchError
from .layout import lay_out, parameter, parameter_values
from .machine import GROUPS, Machine
from .memory import Buffer, DeviceArray, Memory
from .program import compile_kernel
from .syntax import Module

Argument = Buffer | DeviceArray | int | float | np.generic
STEP_LIMIT = 200_000
MAX_THREADS, MAX_BLOCK, MAX_GRID = 1024, (1024, 1024, 64), (2**31 - 1, 65535, 65535)


def launch(
    module: Module,
    kernel_name: str,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    arguments: Sequence[Argument],
    dynamic_shared: int = 0,
    seed: int = 0,
    capability: tuple[int, int] = (8, 0),
    step_limit: int = STEP_LIMIT,
    contraction: bool = False,
    memory: Memory | None = None,
    counters: Counters | None = None,
    groups: int = GROUPS,
) -> Counters:
    """Run kernel `kernel_name` of `module` on grid × block threads; returns what it cost.

    `arguments` are numbers, Buffers (their address) and DeviceArrays (Numba's 5 + 2·ndim parameters), all buffers of
    one Memory, which is `memory` where they are all numbers. `seed` sets every order that PTX leaves open.
    `step_limit` is the number of basic blocks that a warp may run. With `contraction`, products and sums that ptxas may
    fuse are no error but computed as written. `counters` may be NoCounters, to be quick. `groups` is how many groups
    the warps of a block are divided into where their order can matter. Raises an EmulationError for whatever PTX
    forbids.
    """
    level = capability[0] * 10 + capability[1]
    program = compile_kernel(module, kernel_name, level, contraction)
    extents, threads = _shape(grid, MAX_GRID, "grid"), _shape(block, MAX_BLOCK, "block")
    most = int(np.prod(program.function.limits.get(".maxntid", (MAX_THREADS,))))
    if int(np.prod(threads)) > most:
        raise LaunchError(f"a block of {threads} has more than {most} threads")
    memory = memory or _memory(arguments)
    values = parameter_values(program.function, [number for each in arguments for number in _numbers(each)])
    slots = program.slots
    layout = lay_out(module, slots.variables, memory, dynamic_shared, level)
    registers = list(slots.template)
    for name, slot in slots.symbols.items():
        registers[slot] = np.array([layout.addresses[name]], np.int64)
    for (name, offset, kind), slot in slots.loaded.items():
        registers[slot] = parameter(values[name], offset, kind)
    memory.forget()
    counters = counters or Counters()
    rng = np.random.default_rng(seed)
    machine = Machine(
        program, extents, threads, memory, counters, registers, layout, dynamic_shared, step_limit, rng, groups
    )
    with np.errstate(all="ignore"):
        machine.run()
    return counters


def _shape(given: int | Sequence[int], limits: tuple[int, ...], what: str) -> tuple[int, int, int]:
    """One to three extents as three."""
    extents = (given,) if isinstance(given, int) else tuple(int(each) for each in given)
    full = (*extents, 1, 1, 1)[:3]
    if not 1 <= len(extents) <= 3 or any(not 1 <= each <= limit for each, limit in zip(full, limits, strict=True)):
        raise LaunchError(f"a {what} of {extents}, at most {limits}")
    return full[0], full[1], full[2]


def _memory(arguments: Sequence[Argument]) -> Memory:
    """The one memory that all buffers among the arguments belong to."""
    found = [each.buffer for each in arguments if isinstance(each, DeviceArray)]
    found += [each for each in arguments if isinstance(each, Buffer)]
    if any(each.memory is not found[0].memory for each in found):
        raise LaunchError("the arguments belong to different devices")
    return found[0].memory if found else Memory()


def _numbers(argument: Argument) -> Iterable[int | float | np.generic]:
    """The parameters that one argument stands for."""
    if isinstance(argument, DeviceArray):
        return argument.parameters()
    return (argument.address,) if isinstance(argument, Buffer) else (argument,)
