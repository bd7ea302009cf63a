"""The instruction sets that tests of the CPU's GEMM run on: those of this machine, and others.

The dot instructions of other machines are emulated by plain LLVM multiplications and additions, so that their tiles,
storage and groups go through packing, strips, tails and epilogues here too, AMX's tiles likewise; what is left to those
machines is the one instruction. Odd tiles, of sizes no register has, see to it that no number of a tile is taken for
granted.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import emulated_tiles
import numpy as np
import pytest
from llvmlite import ir

from gpuq.cpu import amx, vectors
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import INSTRUCTION_SETS, InstructionSet, available
from gpuq.cpu.microkernel import make_strip_product
from gpuq.cpu.strips import make_fill


def _emulate(unsigned: bool) -> Any:
    """total + Σ column·codes in each lane, for codes of any width; `unsigned` says what those of the column are."""

    def emit(builder: Any, total: Any, column: Any, codes: Any) -> Any:
        group = column.type.count // total.type.count
        wide = ir.VectorType(vectors.I32, column.type.count)
        left = builder.zext(column, wide) if unsigned else builder.sext(column, wide)
        products = builder.mul(left, builder.sext(builder.bitcast(codes, column.type), wide))
        for i in range(group):
            part = vectors.shuffle(builder, products, products, range(i, column.type.count, group))
            total = builder.add(total, part)
        return total

    return emit


vectors.DOTS["emulated, b signed"] = _emulate(False)
vectors.DOTS["emulated, b unsigned"] = _emulate(True)
amx.INSTRUCTIONS["emulated, b unsigned"] = emulated_tiles.emit


def emulated(isa: InstructionSet) -> InstructionSet:
    """The same set without its instruction."""
    dot = f"emulated, b {'unsigned' if isa.b_unsigned else 'signed'}"
    other = f"{isa.without_tiles}, emulated" if isa.without_tiles else ""
    return dataclasses.replace(isa, name=f"{isa.name}, emulated", features=(), dot=dot, without_tiles=other)


def register(monkeypatch: pytest.MonkeyPatch, isa: InstructionSet) -> None:
    """Let a set be found by its name, and the one that takes its panels."""
    monkeypatch.setitem(INSTRUCTION_SETS, isa.name, isa)
    if isa.without_tiles not in INSTRUCTION_SETS and isa.without_tiles:
        other = emulated(INSTRUCTION_SETS[isa.without_tiles.removesuffix(", emulated")])
        monkeypatch.setitem(INSTRUCTION_SETS, other.name, other)


REAL_SETS = [INSTRUCTION_SETS[name] for name in available()]
# AMX's tiles everywhere: machines that have them would not notice that their emulation is wrong
EMULATED_SETS = [
    emulated(isa) for isa in INSTRUCTION_SETS.values() if isa.dot and (isa not in REAL_SETS or isa.without_tiles)
]
ODD_SETS = [
    InstructionSet("3 x 5", (), "emulated, b unsigned", 3, 1, 5, 4, True, 1),
    InstructionSet("4 x 8", (), "emulated, b signed", 4, 2, 4, 2, False, 2),
    InstructionSet("portable, other storage", (), "", 6, 4, 1, 0, True, 2),
]
ALL_SETS = REAL_SETS + EMULATED_SETS + ODD_SETS


@functools.cache
def fill_kernel(isa: InstructionSet) -> Callable[..., Any]:
    """The filling of a strip by itself (strips.py)."""
    fill = make_fill(isa)

    @jit
    def run(a: Any, start: int, stop: int, padded: int, flip: Any, strip: Any, sums: Any) -> None:
        fill(a, start, stop, padded, flip, strip, sums)

    return run


@functools.cache
def product_kernel(isa: InstructionSet) -> Callable[..., Any]:
    """The product of a strip and panels by itself (microkernel.py)."""
    multiply = make_strip_product(isa)

    @jit
    def run(rows: int, strip: Any, b: Any, first: int, last: int, sums: Any, add: bool) -> None:
        unused = np.zeros((2, sums.shape[1]), np.int32)
        multiply(rows, strip, b, first, last, sums, add, (False, unused, unused), 0, 0)

    return run
