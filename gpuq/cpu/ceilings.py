"""What this machine can do at most, measured: the dot instruction alone, and memory alone: `gpuq bench` asks.

    dot_peak      registers:  total ← dot(total, total, codes)   as many at once as registers hold; no memory is touched
    stream        memory:     reads ──or──► writes               the bytes of an operator, in its proportions, with
                                                                 nothing computed; with ordinary or non-temporal stores

All are spread over threads in pieces (spread.py). Kernels are only ever compiled in gpuq/ and gpuq/cpu/, whose sources
are part of the name of cached code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.cpu import amx, vectors
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet
from gpuq.cpu.spread import runner
from gpuq.cpu.streaming import VECTOR, emit_store_around, fence, pointer_to

I64 = ir.IntType(64)
# sums that hide the instruction's latency: a loop of 24, in 32 registers, has been seen to reach 0.82 of one of 12
AT_ONCE = {"amx_int8": 4, "avx512_vnni": 12, "avx_vnni": 12, "avx2": 12, "neon_dotprod": 16}


def operations_per_step(isa: InstructionSet) -> int:
    """Multiplications and additions of one step of `dot_peak`."""
    rows = amx.ROWS if isa.without_tiles else 1
    return 2 * AT_ONCE[isa.name] * rows * isa.lanes * isa.group * isa.steps


@functools.cache
def dot_peak(isa_name: str) -> Callable[..., Any] | None:
    """`run(crew, (steps, found), pieces, 1)`: in each piece that many steps of AT_ONCE independent dot instructions;
    None where the set has no instruction. `found` gets a number of each piece.
    """
    if isa_name not in AT_ONCE:
        return None
    steps_of = _make_steps(INSTRUCTION_SETS[isa_name])

    @jit
    def loop(arguments: Any, first: int, last: int) -> None:
        steps, found = arguments
        for piece in range(first, last):
            found[piece] = steps_of(steps)

    return runner(loop)


def _make_steps(isa: InstructionSet) -> Callable[..., Any]:
    @intrinsic
    def steps_of(typing_context: Any, steps: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return (amx.emit_peak if isa.without_tiles else _emit_steps)(isa, builder, arguments[0])

        return types.int64(types.int64), generate

    return steps_of


def _emit_steps(isa: InstructionSet, builder: Any, steps: Any) -> Any:
    """Sums are their own operands: so no product is the same in two steps, which LLVM would compute once."""
    vector = ir.VectorType(ir.IntType(32), isa.lanes)
    operand = ir.VectorType(ir.IntType(8 * isa.a_bytes), isa.lanes * isa.group)
    entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(I64)
    step.add_incoming(I64(0), entry)
    sums = [builder.phi(vector) for _ in range(AT_ONCE[isa.name])]
    codes = vectors.splat(builder, builder.trunc(steps, vector.element), vector)
    following = builder.add(step, I64(1))
    step.add_incoming(following, loop)
    for number, total in enumerate(sums):
        total.add_incoming(ir.Constant(vector, [number + 1] * isa.lanes), entry)
        total.add_incoming(vectors.dot(builder, isa, total, builder.bitcast(total, operand), codes), loop)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)
    result = functools.reduce(builder.add, sums)
    return builder.sext(builder.extract_element(result, ir.IntType(32)(0)), I64)


@functools.cache
def stream(reads: int, writes: int, non_temporal: bool) -> Callable[..., Any]:
    """`run(crew, (source, target), steps, …)`: a step ors `reads` vectors and stores the result `writes` times.

    Both are contiguous uint8 arrays, `target` of whole steps and, for non-temporal stores, at a multiple of VECTOR.
    """
    take_step = _make_stream_step(reads, writes, non_temporal)

    @jit
    def pass_over(arguments: Any, first: int, last: int) -> None:
        source, target = arguments[0].ctypes.data, arguments[1].ctypes.data
        for step in range(first, last):
            take_step(source + step * reads * VECTOR, target + step * writes * VECTOR)
        fence()

    return runner(pass_over)


def _make_stream_step(reads: int, writes: int, non_temporal: bool) -> Callable[..., Any]:
    @intrinsic
    def take_step(typing_context: Any, source: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            loaded = [builder.load(pointer_to(builder, arguments[0], i), align=1) for i in range(reads)]
            joined = functools.reduce(builder.or_, loaded)
            for i in range(writes):
                pointer = pointer_to(builder, arguments[1], i)
                if non_temporal:
                    emit_store_around(builder, joined, pointer)
                else:
                    builder.store(joined, pointer, align=1)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), generate

    return take_step


@jit
def _read(arguments: Any, first: int, last: int) -> None:
    """Read a contiguous uint64 array, in as many pieces as `found` has numbers: the bits seen in each; nothing else."""
    words, found = arguments
    for piece in range(first, last):
        begin, end = words.shape[0] * piece // found.shape[0], words.shape[0] * (piece + 1) // found.shape[0]
        part, seen = words[begin:end], np.uint64(0)  # an index that may be negative is looked at, one by one
        for i in range(part.shape[0]):
            seen |= part[i]
        found[piece] = seen


read = runner(_read)
