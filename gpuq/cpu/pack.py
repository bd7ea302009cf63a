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
from numba import int32

from gpuq.arithmetic import scalar
from gpuq.cpu.compile import jit
from gpuq.cpu.interleave import make_copy_words, make_interleave
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.kept import Kept, run_again
from gpuq.cpu.spread import find_crew, runner
from gpuq.cpu.tiles import LINE, PACKED_CODES, PACKED_STEPS, SUM_DEPTH, group_length, packed_at_once, steps_along
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
        self._shape = count, -(-n // isa.columns), steps_along(isa, k), isa.columns, group
        self._size, self._sums_shape = math.prod(self._shape), (count, self._shape[1] * isa.columns)
        self._storage = np.dtype(np.uint8 if isa.b_unsigned else np.int8)
        self._along = abs(codes.strides[-2]) < abs(codes.strides[-1]) if n > 1 else True
        self._smallest = -(-PACKED_CODES // max(1, count * isa.columns * k))
        self._kernel, self._flip = pack_kernel(isa, self._along), np.uint8(shift)
        self._kept: Kept | None = None
        self.columns, self.panel_bytes = isa.columns, math.prod(self._shape[2:])

    def __call__(self, codes: Array) -> tuple[Array, Array]:
        """Panels, flat, and sums of such matrices."""
        source, panels, sums = self.source(codes), self.room(), self.no_sums()
        kept = self.kept(source, panels, sums)
        run_again(kept.address, *find_crew(kept.units, self._smallest), id(source), id(panels), id(sums))
        return panels, sums

    def source(self, codes: Array) -> Array:
        """Such matrices, without gaps and with the axis last along which they are packed; later ones of a batch may lie
        otherwise than the first ones did.
        """
        return np.ascontiguousarray(np.swapaxes(codes, -2, -1) if self._along else codes)

    def room(self) -> Array:
        """Memory for the panels: NumPy's begins anywhere in a cache line, and every vector would lie in two."""
        return aligned_bytes(self._size, LINE)

    def no_sums(self) -> Array:
        """Sums, to which packing adds."""
        return np.zeros(self._sums_shape, np.int64)

    def shaped(self, panels: Array) -> Array:
        """Flat panels as (count, panels, steps, columns, group)."""
        return panels.view(self._storage).reshape(self._shape)

    def kept(self, source: Array, panels: Array, sums: Array) -> Kept:
        """The call that packs such matrices."""
        if self._kept is not None:
            return self._kept
        lying = source.reshape(self._shape[0], *source.shape[-2:]).view(np.uint8)
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
    """Rows of b are contiguous: whole steps are interleaved in registers, for several panels; a few of them for some
    panels after another, since each row may lie in a page of its own.
    """
    columns, group, several = isa.columns, isa.group, packed_at_once(isa)
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
