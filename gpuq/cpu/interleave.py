"""Packing in registers: the intrinsics by which pack.py brings codes of b into the order of panels.

rows of b     a b c d │ …  ─┐                      columns of b   a₀ a₁ a₂ a₃ │ a₄ a₅ …
a b c d │ …   ├─► a a a a b b b b …                    └────┬────┘
group of rows a b c d │ …   │   one step of a panel      words of a group, each to its step: panel[step][column]
a b c d │ …  ─┘
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.vectors import I8, I64, as_operand, constant, dot, load, offset, ones, shuffle, splat, store, sums_type


def make_interleave(isa: InstructionSet, panels: int) -> Callable[..., Any]:
    """The intrinsic that packs whole steps of panels side by side and puts the sums of their columns (int32) to memory.

    Addresses and strides in bytes: source, from row to row, steps, target, from panel to panel, flip, sums.
    """

    @intrinsic
    def interleave(
        typing_context: Any, source: Any, row: Any, steps: Any, target: Any, panel: Any, flip: Any, sums: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit_interleave(builder, isa, panels, *arguments)
            return context.get_dummy_value()

        kinds = (types.uintp, types.intp, types.intp, types.uintp, types.intp, types.uint8, types.uintp)
        return types.void(*kinds), generate

    return interleave


def _emit_interleave(
    builder: Any, isa: InstructionSet, panels: int, source: Any, row: Any, steps: Any, target: Any, panel: Any,
    flip: Any, sums: Any
) -> None:  # fmt: skip
    """`steps` is at least 1."""
    bytes_type, vector_codes = ir.VectorType(I8, isa.columns), isa.lanes * isa.group
    flips, zero = splat(builder, flip, bytes_type), constant(sums_type(isa), 0)
    places = [(p, v) for p in range(panels) for v in range(isa.vectors)]
    entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, from_, to = (builder.phi(I64) for _ in range(3))
    totals, added = {place: builder.phi(zero.type) for place in places}, {}
    for p in range(panels):
        own = offset(builder, from_, p * isa.columns)
        rows = [
            builder.xor(load(builder, bytes_type, builder.add(own, builder.mul(row, I64(i)))), flips)
            for i in range(isa.group)
        ]
        codes = _interleave(builder, rows)
        store(builder, codes, builder.add(to, builder.mul(panel, I64(p))))
        for v in range(isa.vectors):
            part = shuffle(builder, codes, codes, range(v * vector_codes, (v + 1) * vector_codes))
            added[p, v] = dot(builder, isa, totals[p, v], as_operand(builder, isa, part), ones(isa))
    following = builder.sub(step, I64(1))
    for phi, start, end in (
        (step, steps, following),
        (from_, source, builder.add(from_, builder.mul(row, I64(isa.group)))),
        (to, target, offset(builder, to, isa.columns * isa.group)),
        *((totals[place], zero, added[place]) for place in places),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed(">", following, I64(0)), loop, done)
    builder.position_at_end(done)
    for p, v in places:
        store(builder, added[p, v], offset(builder, sums, (p * isa.columns + v * isa.lanes) * 4), 4)


def _interleave(builder: Any, rows: list[Any]) -> Any:
    """2, 4, … vectors as one: their first elements, their second ones, …"""
    if len(rows) == 1:
        return rows[0]
    half = len(rows) // 2
    left, right = (_interleave(builder, part) for part in (rows[:half], rows[half:]))
    length = left.type.count
    indices = [c * half + i + side * length for c in range(length // half) for side in (0, 1) for i in range(half)]
    return shuffle(builder, left, right, indices)


def make_copy_words(isa: InstructionSet) -> Callable[..., Any]:
    """The intrinsic that copies words of a group, side by side in the source, to places a distance apart.

    Source, words (at least 1), target, distance in bytes, flip.
    """
    word = ir.IntType(8 * isa.group)

    @intrinsic
    def copy_words(typing_context: Any, source: Any, words: Any, target: Any, distance: Any, flip: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, words, target, distance, flip = arguments
            flips = builder.bitcast(splat(builder, flip, ir.VectorType(I8, isa.group)), word)
            entry, loop, done = builder.block, builder.append_basic_block("word"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            index, to = builder.phi(I64), builder.phi(I64)
            codes = load(builder, word, builder.add(source, builder.mul(index, I64(isa.group))))
            store(builder, builder.xor(codes, flips), to)
            following = builder.add(index, I64(1))
            for phi, start, end in ((index, I64(0), following), (to, target, builder.add(to, distance))):
                phi.add_incoming(start, entry)
                phi.add_incoming(end, loop)
            builder.cbranch(builder.icmp_signed("<", following, words), loop, done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        kinds = (types.uintp, types.intp, types.uintp, types.intp, types.uint8)
        return types.void(*kinds), generate

    return copy_words
