"""Strips: the rows of a that one tile takes, as the micro-kernel reads them, with their sums.

    codes of a (C order)                     strip[row, code]
    r0 │ 0 1 2 3 4 5 6 7 …│       ──►        r0: 0 1 2 3 …  0      `STRIP` codes from row to row, in L1; signed, and
    r1 │ 0 1 2 3 4 5 6 7 …│                  r1: 0 1 2 3 …  0      widened to 16 bit where the instruction takes that;
         └ a pass along k ┘                                        zeros up to a whole group

A strip is filled anew for each block of columns and each pass along k: it costs a sixteenth of a tile and less, needs
no memory but L1, and takes every type and row length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int32, types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.vectors import (
    I64,
    as_operand,
    codes_type,
    constant,
    dot,
    load,
    ones,
    splat,
    store,
    sum_lanes,
    sums_type,
)


def make_fill(isa: InstructionSet) -> Callable[..., Any]:
    """`fill(codes, start, stop, padded, flip, strip, sums)`: rows of codes (rows, k), from start to stop along k, to a
    strip; sums of rows += their sums.

    `padded` codes of each row are written; `flip` is the bit that turns them into signed ones.
    """
    return _fill_row_by_row if not isa.dot else _make_vector_fill(isa)


def _make_vector_fill(isa: InstructionSet) -> Callable[..., Any]:
    copy_codes, length = make_copy(isa), isa.lanes * isa.group

    @scalar
    def fill(codes: Any, start: int, stop: int, padded: int, flip: Any, strip: Any, sums: Any) -> None:
        vectors = (stop - start) // length
        for row in range(codes.shape[0]):
            source, target = codes[row, start:stop], strip[row]
            total = copy_codes(source.ctypes.data, target.ctypes.data, vectors, flip)
            if vectors * length < padded:
                total += _fill_rest(source, target, vectors * length, padded, flip)
            sums[row] += total

    return fill


@scalar
def _fill_row_by_row(codes: Any, start: int, stop: int, padded: int, flip: Any, strip: Any, sums: Any) -> None:
    for row in range(codes.shape[0]):
        sums[row] += _fill_rest(codes[row, start:stop], strip[row], 0, padded, flip)


@scalar
def _fill_rest(source: Any, target: Any, first: int, padded: int, flip: Any) -> int:
    """The codes from `first` on, and the padding."""
    total = int32(0)
    for i in range(first, source.shape[0]):
        code = np.int8(source[i] ^ flip)
        target[i] = code
        total = int32(total + int32(code))
    target[source.shape[0] : padded] = 0
    return total


def make_copy(isa: InstructionSet) -> Callable[..., Any]:
    """The intrinsic that copies whole vectors of codes with their bit flipped and gives their sum: addresses, vectors,
    flip.
    """

    @intrinsic
    def copy_codes(typing_context: Any, source: Any, target: Any, vectors: Any, flip: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _emit_copy(builder, isa, *arguments)

        return types.int32(types.uintp, types.uintp, types.intp, types.uint8), generate

    return copy_codes


def _emit_copy(builder: Any, isa: InstructionSet, source: Any, target: Any, vectors: Any, flip: Any) -> Any:
    zero, length = constant(sums_type(isa), 0), isa.lanes * isa.group
    flips = splat(builder, flip, codes_type(isa))
    entry, loop, done = builder.block, builder.append_basic_block("copy"), builder.append_basic_block("copied")
    builder.cbranch(builder.icmp_signed(">", vectors, I64(0)), loop, done)
    builder.position_at_end(loop)
    index, total = builder.phi(I64), builder.phi(zero.type)
    codes = load(builder, codes_type(isa), builder.add(source, builder.mul(index, I64(length))))
    operand = as_operand(builder, isa, builder.xor(codes, flips))
    store(builder, operand, builder.add(target, builder.mul(index, I64(length * isa.a_bytes))))
    following, added = builder.add(index, I64(1)), dot(builder, isa, total, ones(isa), operand)
    for phi, start, end in ((index, I64(0), following), (total, zero, added)):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed("<", following, vectors), loop, done)
    builder.position_at_end(done)
    result = builder.phi(zero.type)
    result.add_incoming(zero, entry)
    result.add_incoming(added, loop)
    return sum_lanes(builder, result)
