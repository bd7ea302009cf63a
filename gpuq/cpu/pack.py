"""Packing for the CPU's GEMM: columns of b become panels in the order the micro-kernel reads them, with sums.

    b (k × n, any layout)          panels[panel, step, column, group]
         n ──►
    k  │ a b c d …│               step 0:  a₀ a₁ a₂ a₃  b₀ b₁ b₂ b₃  …     a step of a panel is contiguous, `group`
    │  │ a b c d …│ group  ──►    step 1:  a₄ a₅ a₆ a₇  b₄ b₅ b₆ b₇  …     codes of a column side by side
    ▼  │ a b c d …│               sums[column] = Σ of the column's stored codes

Codes are stored signed or unsigned, as the instruction set wants them (isa.py): the other kind has its sign bit
flipped, which moves its codes, and so its zero points, by 128. Missing columns and codes are stored as 0 and add
nothing to products or to the sums of columns that exist; those of missing columns nobody reads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import int32, types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.kept import Kept, run_again
from gpuq.cpu.spread import find_crew, runner
from gpuq.cpu.tiles import LINE, PACKED_CODES, PACKED_STEPS, SUM_DEPTH, group_length
from gpuq.cpu.vectors import I8, I64, as_operand, constant, dot, load, offset, ones, shuffle, splat, store, sums_type
from gpuq.layout import aligned_bytes, read_only

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Packed:
    """Packed matrices of one instruction set.

    panels (count, panels, steps, columns, group); sums (count, columns) int64 of stored codes; stored code =
    code − shift.
    """

    panels: Array
    sums: Array
    shift: int
    isa: str

    @property
    def nbytes(self) -> int:
        """Bytes of the panels and sums."""
        return int(self.panels.nbytes + self.sums.nbytes)


def stored_shift(dtype: np.dtype[Any], isa: InstructionSet) -> int:
    """What is taken from codes of b as they are stored."""
    signed = dtype == np.int8
    return (-128 if signed else 128) if signed == isa.b_unsigned else 0


def pack_b(codes: Array, isa: InstructionSet) -> Packed:
    """Pack matrices b of shape (…, k, n)."""
    packing = Packing(codes, isa)
    panels, sums = packing(codes)
    return Packed(packing.shaped(panels), sums, stored_shift(codes.dtype, isa), isa.name)


class Packing:
    """How matrices b of one shape (…, k, n), type and memory order are packed."""

    def __init__(self, codes: Array, isa: InstructionSet) -> None:
        count, (k, n) = math.prod(codes.shape[:-2]), codes.shape[-2:]
        group, shift = group_length(isa, k), abs(stored_shift(codes.dtype, isa))
        self._shape = count, -(-n // isa.columns), -(-k // group), isa.columns, group
        self._size, self._sums_shape = math.prod(self._shape), (count, self._shape[1] * isa.columns)
        self._storage = np.dtype(np.uint8 if isa.b_unsigned else np.int8)
        self._along = abs(codes.strides[-2]) < abs(codes.strides[-1]) if n > 1 else True
        self._copied = not self._in_order(codes).flags.c_contiguous
        self._smallest = -(-PACKED_CODES // max(1, count * isa.columns * k))
        self._kernel, self._flip = pack_kernel(isa, self._along), np.uint8(shift)
        self._kept: Kept | None = None

    def __call__(self, codes: Array) -> tuple[Array, Array]:
        """Panels, flat, and sums of such matrices."""
        source = np.ascontiguousarray(self._in_order(codes)) if self._copied else codes
        # NumPy's memory begins anywhere in a cache line, and every vector of a panel would lie in two
        panels, sums = aligned_bytes(self._size, LINE), np.zeros(self._sums_shape, np.int64)
        kept = self._kept or self._keep(source, panels, sums)
        run_again(kept.address, *find_crew(kept.units, self._smallest), source, panels, sums)
        return panels, sums

    def shaped(self, panels: Array) -> Array:
        """Flat panels as (count, panels, steps, columns, group)."""
        return panels.view(self._storage).reshape(self._shape)

    def _in_order(self, codes: Array) -> Array:
        return np.swapaxes(codes, -2, -1) if self._along else codes

    def _keep(self, source: Array, panels: Array, sums: Array) -> Kept:
        whole = source if self._copied else self._in_order(source)
        lying = whole.reshape(self._shape[0], *whole.shape[-2:]).view(np.uint8)
        arguments = (read_only(lying), self.shaped(panels), sums), self._flip
        self._kept = kept = Kept(self._kernel, arguments, self._shape[1], self._smallest)
        return kept


@functools.cache
def pack_kernel(isa: InstructionSet, along: bool) -> Callable[..., Any]:
    """The packing of all matrices, spread over threads by their panels (spread.py), from codes (count, k, n), or, where
    the neighbours along k lie side by side (`along`), (count, n, k).
    """
    if not isa.dot:
        return runner(_pack_columns_code_by_code if along else _pack_rows_code_by_code)
    return runner(_make_pack_columns(isa) if along else _make_pack_rows(isa))


@jit
def _pack_rows_code_by_code(arguments: Any, first: int, last: int) -> None:
    (codes, panels, sums), flip = arguments
    for t in range(codes.shape[0]):
        for panel in range(first, last):
            _pack_steps(codes[t], panels[t, panel], panel, 0, sums[t], flip)


@jit
def _pack_columns_code_by_code(arguments: Any, first: int, last: int) -> None:
    (codes, panels, sums), flip = arguments
    for t in range(codes.shape[0]):
        for panel in range(first, last):
            _pack_steps(codes[t].T, panels[t, panel], panel, 0, sums[t], flip)


@scalar
def _pack_steps(codes: Any, target: Any, panel: int, first: int, sums: Any, flip: Any) -> None:
    """The steps of a panel from `first` on, one code after the other, with all padding; their sums are added."""
    (k, n), (steps, columns, group), storage = codes.shape, target.shape, target.dtype.type
    start = panel * columns
    here = min(columns, n - start)
    for step in range(first, steps):
        if here < columns or (step + 1) * group > k:
            target[step] = 0
        for i in range(min(group, k - step * group)):
            for column in range(here):
                code = storage(np.int8(codes[step * group + i, start + column] ^ flip))
                target[step, column, i] = code
                sums[start + column] += code


def _make_pack_rows(isa: InstructionSet) -> Callable[..., Any]:
    """Rows of b are contiguous: whole steps are interleaved in registers, for all panels that share a cache line; a
    few of them for one panel after another, since each row may lie in a page of its own.
    """
    columns, group = isa.columns, isa.group
    several = max(1, LINE // columns)
    interleave_several, interleave_one = make_interleave(isa, several), make_interleave(isa, 1)

    @scalar
    def pack_some(
        codes: Any, panels: Any, sums: Any, flip: Any, panel: int, own: int, begin: int, more: int, totals: Any
    ) -> None:
        """So many whole steps, from `begin` on, of panels whose columns are all there."""
        n, start, result = codes.shape[1], panel * columns, totals.ctypes.data
        source = codes.ctypes.data + begin * group * n + start
        target = panels[panel].ctypes.data + begin * columns * group
        if own == several:
            interleave_several(source, n, more, target, panels.strides[0], flip, result)
        else:
            interleave_one(source, n, more, target, panels.strides[0], flip, result)
        for column in range(own * columns):
            sums[start + column] += totals[column]

    @jit
    def pack(arguments: Any, first: int, last: int) -> None:
        (codes, panels, sums), flip = arguments
        (count, k, n), totals = codes.shape, np.empty(several * columns, np.int32)
        whole, full = k // group, min(last, n // columns)  # steps, and the end of the panels, without padding
        for t in range(count):
            for begin in range(0, whole, PACKED_STEPS):
                panel, more = first, min(PACKED_STEPS, whole - begin)
                while panel < full:
                    own = several if panel + several <= full else 1
                    pack_some(codes[t], panels[t], sums[t], flip, panel, own, begin, more, totals)
                    panel += own
            for panel in range(first, last):
                _pack_steps(codes[t], panels[t, panel], panel, whole if panel < full else 0, sums[t], flip)

    return pack


def _make_pack_columns(isa: InstructionSet) -> Callable[..., Any]:
    """Columns of b are contiguous: words of a group are put to their places, a cache line of each column at a time."""
    columns, group, line = isa.columns, isa.group, max(1, LINE // isa.group)
    copy_words = make_copy_words(isa)

    @jit
    def pack(arguments: Any, first: int, last: int) -> None:
        (codes, panels, sums), flip = arguments
        (count, n, k), storage = codes.shape, panels.dtype.type
        whole, step_bytes = k // group, columns * group
        for t in range(count):
            for panel in range(first, last):
                target, start = panels[t, panel], panel * columns
                here = min(columns, n - start)
                if here < columns:
                    target[:] = 0
                for step in range(0, whole, line):
                    for column in range(here):
                        source = codes.ctypes.data + (t * n + start + column) * k + step * group
                        place = target.ctypes.data + step * step_bytes + column * group
                        copy_words(source, min(line, whole - step), place, step_bytes, flip)
                for column in range(here):
                    for depth in range(0, whole * group, SUM_DEPTH):
                        part = codes[t, start + column, depth : min(depth + SUM_DEPTH, whole * group)]
                        sums[t, start + column] += _sum(part, flip, storage)
                _pack_steps(codes[t].T, target, panel, whole, sums[t], flip)

    return pack


@scalar
def _sum(codes: Any, flip: Any, storage: Any) -> int:
    """Σ of at most SUM_DEPTH stored codes, as int32."""
    total = int32(0)
    for i in range(codes.shape[0]):
        total = int32(total + int32(storage(np.int8(codes[i] ^ flip))))
    return total


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
