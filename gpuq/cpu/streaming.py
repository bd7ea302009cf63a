"""Results too many for the caches go around them: with an ordinary store, a line is read before it is written.

    results of a run:   ├ lead ┤├── chunk ──┤├── chunk ──┤ … ┤ tail ┤     chunks are whole cache lines of the target:
                         plain   computed in the nearest cache, then stored non-temporally

Dequantizing 2^24 codes moves 80 MB so, and 144 MB with ordinary stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.tiles import CHUNK, LINE

VECTOR = 32  # bytes of one access
WORDS = ir.VectorType(ir.IntType(64), VECTOR // 8)


def pointer_to(builder: Any, address: Any, index: int = 0) -> Any:
    """The vector of that index behind an address."""
    offset = ir.IntType(64)(index * VECTOR)
    return builder.inttoptr(builder.add(address, offset), WORDS.as_pointer())


def emit_store_around(builder: Any, value: Any, pointer: Any) -> None:
    """Store a vector at a multiple of its size, around the caches."""
    stored = builder.store(value, pointer, align=VECTOR)
    stored.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


@intrinsic
def _copy_line(typing_context: Any, source: Any, target: Any) -> Any:
    """A cache line from anywhere to an address that is a multiple of a line."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for index in range(LINE // VECTOR):
            value = builder.load(pointer_to(builder, arguments[0], index), align=1)
            emit_store_around(builder, value, pointer_to(builder, arguments[1], index))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@intrinsic
def fence(typing_context: Any) -> Any:
    """Order what was stored around the caches before all that follows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@scalar
def make_chunk(target: Any, streamed: bool) -> Any:
    """Memory for a chunk of results; none where they are stored plainly."""
    return np.empty(CHUNK // target.itemsize, target.dtype) if streamed else target[:0]


def make_run(element: Callable[..., Any]) -> Callable[..., Any]:
    """`run(source, target, own, settings, storage, chunk)`: target[i] = element(source[i], own, settings, storage), for
    contiguous arrays; around the caches if there is a chunk. `fence` is then to follow, before anybody reads them.
    """

    @scalar
    def run(source: Any, target: Any, own: Any, settings: Any, storage: Any, chunk: Any) -> None:
        count, whole = target.shape[0], chunk.shape[0]
        lead = -np.int64(target.ctypes.data) % LINE // target.itemsize if whole else count
        position = 0
        while position < count:
            length = lead if position == 0 and lead > 0 else min(whole, count - position)
            length = min(length, count - position)
            part = chunk if length == whole else target[position : position + length]
            stored = source[position : position + length]
            for i in range(length):
                part[i] = element(stored[i], own, settings, storage)
            if length == whole:
                first, second = chunk.ctypes.data, target.ctypes.data + position * target.itemsize
                for line in range(0, CHUNK, LINE):
                    _copy_line(first + line, second + line)
            position += length

    return run
