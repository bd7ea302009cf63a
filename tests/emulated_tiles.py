"""AMX's instructions as plain LLVM code on memory, for machines without them: each function has its own eight tiles."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from gpuq.cpu.amx import ROWS, WIDTH
from gpuq.cpu.vectors import DOTS, I8, I32, I64, load, splat, store

LINE = ir.VectorType(I8, WIDTH)
SUMS = ir.VectorType(I32, ROWS)
UNSIGNED = "emulated, b unsigned"


def emit(builder: Any, name: str, *arguments: Any) -> None:
    """What gpuq.cpu.amx.INSTRUCTIONS asks for."""
    if name in EMITTED:
        EMITTED[name](builder, *(each.constant if each.type == I8 else each for each in arguments))


def _tile(builder: Any, number: int) -> Any:
    """The address of a tile, made when a function first names it."""
    tiles = vars(builder.function).setdefault("emulated_tiles", {})
    if number not in tiles:
        with builder.goto_entry_block():
            tiles[number] = builder.ptrtoint(builder.alloca(ir.ArrayType(I8, ROWS * WIDTH)), I64)
    return tiles[number]


def _emit_copy(builder: Any, source: Any, step: Any, target: Any, other_step: Any) -> None:
    with cgutils.for_range(builder, I64(ROWS)) as loop:
        codes = load(builder, LINE, builder.add(source, builder.mul(loop.index, step)))
        store(builder, codes, builder.add(target, builder.mul(loop.index, other_step)))


def _emit_load(builder: Any, number: int, pointer: Any, step: Any) -> None:
    _emit_copy(builder, builder.ptrtoint(pointer, I64), step, _tile(builder, number), I64(WIDTH))


def _emit_store(builder: Any, number: int, pointer: Any, step: Any) -> None:
    _emit_copy(builder, _tile(builder, number), I64(WIDTH), builder.ptrtoint(pointer, I64), step)


def _emit_zero(builder: Any, number: int) -> None:
    zeros = ir.Constant(LINE, None)
    with cgutils.for_range(builder, I64(ROWS)) as loop:
        store(builder, zeros, builder.add(_tile(builder, number), builder.mul(loop.index, I64(WIDTH))))


def _emit_product(builder: Any, number: int, a: int, b: int) -> None:
    """A word of a and a line of b after the other."""
    starts = [_tile(builder, each) for each in (number, a, b)]
    with cgutils.for_range(builder, I64(ROWS)) as down, cgutils.for_range(builder, I64(ROWS)) as along:
        row, step = builder.mul(down.index, I64(WIDTH)), builder.mul(along.index, I64(WIDTH))
        place = builder.add(starts[0], row)
        word = load(builder, I32, builder.add(builder.add(starts[1], row), builder.mul(along.index, I64(4))))
        line = load(builder, LINE, builder.add(starts[2], step))
        total = DOTS[UNSIGNED](builder, load(builder, SUMS, place), line, splat(builder, word, SUMS))
        store(builder, total, place)


EMITTED = {"tileloadd64": _emit_load, "tilestored64": _emit_store, "tilezero": _emit_zero, "tdpbsud": _emit_product}
