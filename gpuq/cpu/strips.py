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
from llvmlite import ir
from numba import int32, types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.vectors import (
    I8,
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
        count = stop - start
        if count < length:
            _fill_row_by_row(codes, start, stop, padded, flip, strip, sums)
            return
        source, target = codes.ctypes.data + start, strip.ctypes.data  # slices would cost as much as a short row
        for row in range(codes.shape[0]):
            sums[row] += copy_codes(source + row * codes.strides[0], target + row * strip.strides[0], count, flip)
        if count < padded:
            strip[: codes.shape[0], count:padded] = 0

    return fill


@scalar
def _fill_row_by_row(codes: Any, start: int, stop: int, padded: int, flip: Any, strip: Any, sums: Any) -> None:
    for row in range(codes.shape[0]):
        source, target, total = codes[row, start:stop], strip[row], int32(0)
        for i in range(source.shape[0]):
            code = np.int8(source[i] ^ flip)
            target[i] = code
            total = int32(total + int32(code))
        target[source.shape[0] : padded] = 0
        sums[row] += total


def make_copy(isa: InstructionSet) -> Callable[..., Any]:
    """The intrinsic that copies codes with their bit flipped and gives their sum: addresses, how many (a vector at
    least), flip.
    """

    @intrinsic
    def copy_codes(typing_context: Any, source: Any, target: Any, count: Any, flip: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _emit_copy(builder, isa, *arguments)

        return types.int32(types.uintp, types.uintp, types.intp, types.uint8), generate

    return copy_codes


def _emit_copy(builder: Any, isa: InstructionSet, source: Any, target: Any, count: Any, flip: Any) -> Any:
    """A vector after the other; the last one ends where the codes end, and adds to the sum what is new in it."""
    zero, length = constant(sums_type(isa), 0), isa.lanes * isa.group
    flips = splat(builder, flip, codes_type(isa))
    last = builder.sub(count, I64(length))
    entry, loop, done = builder.block, builder.append_basic_block("copy"), builder.append_basic_block("copied")
    builder.cbranch(builder.icmp_signed(">", last, I64(0)), loop, done)
    builder.position_at_end(loop)
    place, total = builder.phi(I64), builder.phi(zero.type)
    following = builder.add(place, I64(length))
    added = dot(builder, isa, total, ones(isa), _copy_vector(builder, isa, source, target, place, flips))
    for phi, start, end in ((place, I64(0), following), (total, zero, added)):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed("<", following, last), loop, done)
    builder.position_at_end(done)
    copied, result = builder.phi(I64), builder.phi(zero.type)
    for phi, start, end in ((copied, I64(0), following), (result, zero, added)):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    operand = _copy_vector(builder, isa, source, target, last, flips)
    known = splat(builder, builder.trunc(builder.sub(copied, last), I8), codes_type(isa))
    new = builder.icmp_unsigned(">=", ir.Constant(codes_type(isa), list(range(length))), known)
    operand = builder.select(new, operand, ir.Constant(operand.type, None))
    return sum_lanes(builder, dot(builder, isa, result, ones(isa), operand))


def _copy_vector(builder: Any, isa: InstructionSet, source: Any, target: Any, place: Any, flips: Any) -> Any:
    """A vector of codes, flipped, as the instruction takes it."""
    codes = load(builder, codes_type(isa), builder.add(source, place))
    operand = as_operand(builder, isa, builder.xor(codes, flips))
    store(builder, operand, builder.add(target, builder.mul(place, I64(isa.a_bytes))))
    return operand
