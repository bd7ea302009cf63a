"""Words of memory that several threads read and write at once, and what a thread does while it waits for one.

A word is a signed 64-bit integer at an address. Every access is sequentially consistent: all threads see all of them
in one order, and what a thread wrote before it changed a word is there for whoever reads the change.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar

I32, I64 = ir.IntType(32), ir.IntType(64)
ORDER = "seq_cst"
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())

# Linux lets a thread sleep until a word changes: the number of that system call, and its operations for one process.
FUTEX = {"x86_64": 202, "aarch64": 98}.get(MACHINE, 0) if sys.platform == "linux" else 0
FUTEX_WAIT, FUTEX_WAKE = 128, 129

_syscall = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def load(typing_context: Any, address: Any) -> Any:
    """The word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0]), ORDER, 8)

    return types.int64(types.int64), generate


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Make `value` the word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add `value` to the word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.atomic_rmw("add", _pointer(builder, arguments[0]), arguments[1], ORDER)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def replace(typing_context: Any, address: Any, old: Any, new: Any) -> Any:
    """Make `new` the word if it is `old`, in one step; whether it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pair = builder.cmpxchg(_pointer(builder, arguments[0]), arguments[1], arguments[2], ORDER, ORDER)
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), generate


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the core that this thread only waits: it saves power, and the core's other thread goes faster."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, operands = _PAUSE.get(MACHINE, ("", []))
        if name:
            kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
            builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), operands)
        return context.get_dummy_value()

    return types.void(), generate


_PAUSE: dict[str, tuple[str, list[Any]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [I32(1)]),
}


# Chosen here and not inside the functions: a symbol that a system lacks must not be in the code at all.
if os.name == "posix":

    @scalar
    def give_way() -> None:
        """Let another thread have this core if one waits for it."""
        _sched_yield()

else:

    @scalar
    def give_way() -> None:
        """Let another thread have this core if one waits for it."""
        pause()


if FUTEX:
    _sched_getcpu = types.ExternalFunction("sched_getcpu", types.int32())
    _get_affinity, _set_affinity = (
        types.ExternalFunction(f"sched_{name}affinity", types.int32(types.int32, types.int64, types.int64))
        for name in ("get", "set")
    )

    @scalar
    def processor() -> int:
        """The number of the processor that this thread runs on; negative where nobody knows."""
        return types.int64(_sched_getcpu())

    @scalar
    def processors_of(thread: int, mask: Any) -> bool:
        """Put the processors that a thread may use into the bits of `mask`, words of 64; whether that was possible."""
        return _get_affinity(types.int32(thread), mask.shape[0] * 8, mask.ctypes.data) >= 0

    @scalar
    def allow(thread: int, mask: Any) -> None:
        """Let a thread use these processors alone."""
        _set_affinity(types.int32(thread), mask.shape[0] * 8, mask.ctypes.data)

    @scalar
    def sleep_while(address: int, value: int) -> None:
        """Sleep until somebody calls `wake`; not at all where the word's lower half is no longer that of `value`."""
        _syscall(FUTEX, address, FUTEX_WAIT, value & 0xFFFFFFFF, 0, 0, 0)

    @scalar
    def wake(address: int, count: int) -> None:
        """Wake at most that many of the threads that sleep on the word."""
        _syscall(FUTEX, address, FUTEX_WAKE, count, 0, 0, 0)

else:

    @scalar
    def processor() -> int:
        """Nobody knows."""
        return -1

    @scalar
    def processors_of(thread: int, mask: Any) -> bool:
        """Nobody knows."""
        return False

    @scalar
    def allow(thread: int, mask: Any) -> None:
        """Nothing."""

    @scalar
    def sleep_while(address: int, value: int) -> None:
        """Nothing where compiled code cannot sleep."""

    @scalar
    def wake(address: int, count: int) -> None:
        """Nothing where compiled code cannot sleep."""
