"""Packing for the CPU's GEMM: rows of a, or columns of b, become panels in the order the micro-kernel reads them,
with sums.

    codes (rows × k, any layout)            panels[panel, step, row, group]
         k ──►
    r0 │ 0 1 2 3 │ 4 5 6 7 │ …              step 0:  r0: 0 1 2 3   r1: 0 1 2 3   …   a step of a panel is contiguous,
    r1 │ 0 1 2 3 │ 4 5 6 7 │ …      ──►     step 1:  r0: 4 5 6 7   r1: 4 5 6 7   …   `group` codes of a row side by side
         └ group ┘                          sums[row] = Σ of the row's stored codes

Codes are stored signed or unsigned, as the instruction set wants them (isa.py): the other kind has its sign bit
flipped, which moves its codes, and so its zero points, by 128. Missing rows and codes are stored as 0 and add nothing
to products or to the sums of rows that exist; those of missing rows nobody reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int32

from gpuq.cpu import threads
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import LINE, PACKED_CODES, PANELS_ACROSS, SUM_DEPTH, group_length
from gpuq.layout import read_only

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Packed:
    """Packed matrices of one instruction set.

    panels (count, panels, steps, rows, group); sums (count, rows) int64 of stored codes; stored code = code − shift.
    """

    panels: Array
    sums: Array
    shift: int
    isa: str

    @property
    def nbytes(self) -> int:
        """Bytes of the panels and sums."""
        return int(self.panels.nbytes + self.sums.nbytes)


def pack_a(codes: Array, isa: InstructionSet) -> Packed:
    """Pack matrices a of shape (count, m, k)."""
    return _pack(codes, isa, isa.rows, np.dtype(f"i{isa.a_bytes}"))


def pack_b(codes: Array, isa: InstructionSet) -> Packed:
    """Pack matrices b of shape (count, k, n)."""
    return _pack(np.swapaxes(codes, 1, 2), isa, isa.columns, np.dtype("u1" if isa.b_unsigned else "i1"))


def _pack(codes: Array, isa: InstructionSet, rows: int, storage: np.dtype[Any]) -> Packed:
    count, length, k = codes.shape
    group = group_length(isa, k)
    panels = np.empty((count, -(-length // rows), -(-k // group), rows, group), storage)
    sums = np.empty((count, panels.shape[1] * rows), np.int64)
    signed = codes.dtype == np.int8
    shift = (128 if storage.kind == "i" else 0) - (128 if signed else 0)
    flip, sign = np.uint8(abs(shift)), np.uint8(128 if signed else 0)
    source = read_only(codes.view(np.uint8))
    if codes.strides[2] <= codes.strides[1] or k == 1:
        kernel = _along_kernel(rows, isa.group)
    else:
        kernel, source = _across_kernel(rows, isa.group), np.swapaxes(source, 1, 2)
    pieces = threads.cut(panels.shape[1], -(-PACKED_CODES // max(1, count * rows * k)))
    threads.run(lambda first, last: kernel(source, panels, sums, flip, sign, first, last), pieces)
    return Packed(panels, sums - k * (shift + int(sign)), shift, isa.name)


@jit
def sum_codes(codes: Any, sign: Any) -> int:
    """Σ (code ^ sign) of at most SUM_DEPTH codes, as int32."""
    total = int32(0)
    for i in range(codes.shape[0]):
        total = int32(total + int32(codes[i] ^ sign))
    return total


@functools.cache
def _along_kernel(rows: int, fixed_group: int) -> Callable[..., Any]:
    """Packs panels begin … end of codes (count, rows, k) whose neighbours along k are close together."""

    @jit
    def pack(codes: Any, panels: Any, sums: Any, flip: Any, sign: Any, begin: int, end: int) -> None:
        count, length, k = codes.shape
        group = fixed_group if fixed_group > 0 else panels.shape[4]
        storage, whole = panels.dtype.type, k // group
        line = max(1, LINE // group)  # steps that one cache line of codes makes: a line is read once, then done with
        for t in range(count):
            for panel in range(begin, end):
                target, first = panels[t, panel], panel * rows
                here = min(rows, length - first)
                sums[t, first : first + rows] = 0
                if here < rows or whole < target.shape[0]:
                    target[:] = 0
                for start in range(0, whole, line):
                    for row in range(here):
                        for step in range(start, min(start + line, whole)):
                            for i in range(group):
                                code = codes[t, first + row, step * group + i] ^ flip
                                target[step, row, i] = storage(np.int8(code))
                for row in range(here):
                    source = codes[t, first + row]
                    for i in range(k - whole * group):
                        target[whole, row, i] = storage(np.int8(source[whole * group + i] ^ flip))
                    for start in range(0, k, SUM_DEPTH):
                        sums[t, first + row] += sum_codes(source[start : start + SUM_DEPTH], sign)

    return pack


def _make_steps(rows: int, fixed_group: int) -> Callable[..., Any]:
    """Packs whole steps across; totals[panel] += Σ (code ^ sign)."""

    @jit
    def pack_steps(
        codes: Any, panels: Any, totals: Any, flip: Any, sign: Any, start: int, first: int, last: int
    ) -> None:
        group = fixed_group if fixed_group > 0 else panels.shape[3]
        storage = panels.dtype.type
        for step in range(first, last):
            for panel in range(panels.shape[0]):
                target, own_totals = panels[panel, step], totals[panel]
                here, there = (start + panel) * rows, (start + panel + 1) * rows
                for i in range(group):
                    source = codes[step * group + i, here:there]
                    for row in range(source.shape[0]):
                        target[row, i] = storage(np.int8(source[row] ^ flip))
                for i in range(group):
                    source = codes[step * group + i, here:there]
                    for row in range(source.shape[0]):
                        own_totals[row] = int32(own_totals[row] + int32(source[row] ^ sign))

    return pack_steps


@functools.cache
def _across_kernel(rows: int, fixed_group: int) -> Callable[..., Any]:
    """Packs panels begin … end of codes given as (count, k, rows), whose neighbours along the rows are close."""
    pack_steps = _make_steps(rows, fixed_group)

    @jit
    def pack(codes: Any, panels: Any, sums: Any, flip: Any, sign: Any, begin: int, end: int) -> None:
        count, k, length = codes.shape
        group = fixed_group if fixed_group > 0 else panels.shape[4]
        storage, whole, depth = panels.dtype.type, k // group, SUM_DEPTH // group
        totals = np.empty((PANELS_ACROSS, rows), np.int32)
        for t in range(count):
            sums[t, begin * rows : end * rows] = 0
            for start in range(begin, end, PANELS_ACROSS):
                stop = min(start + PANELS_ACROSS, end)
                own, target = codes[t], panels[t, start:stop]
                if stop * rows > length:
                    target[stop - start - 1] = 0
                for first in range(0, whole, depth):
                    totals[:] = 0
                    pack_steps(own, target, totals, flip, sign, start, first, min(first + depth, whole))
                    for panel in range(stop - start):
                        for row in range(rows):
                            sums[t, (start + panel) * rows + row] += totals[panel, row]
                if whole < panels.shape[2]:
                    target[:, whole] = 0
                    for i in range(k - whole * group):
                        for row in range(min(stop * rows, length) - start * rows):
                            code = own[whole * group + i, start * rows + row]
                            target[row // rows, whole, row % rows, i] = storage(np.int8(code ^ flip))
                            sums[t, start * rows + row] += code ^ sign

    return pack
