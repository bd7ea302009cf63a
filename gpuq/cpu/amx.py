"""The micro-kernel of AMX, whose registers are tiles: 16 rows of 64 bytes, of codes or of 16 sums.

    panels of b, [step][32 columns][4]:     16 steps = 64 codes along k      ┌────────┬────────┐
    each tile takes one half of the columns                                  │   b6   │   b7   │
                                                                       ┌─────┼────────┼────────┤
    strip of a: 64 codes of 16 rows as they lie, a fixed distance      │ a4  │ sums 0 │ sums 1 │   sums += a·b,
    apart                                                              ├─────┼────────┼────────┤   16 × 64 by 64 × 16
                                                                       │ a5  │ sums 2 │ sums 3 │   codes at once
                                                                       └─────┴────────┴────────┘

Strips and panels are those of microkernel.py, steps filled up with zeros to whole tiles. Sums can only leave the tiles
through memory: after the last pass they go to a scratch in L1, from which they are corrected, row by row. A strip of at
most 16 rows takes the upper half. Every call configures tiles and releases them: between calls a thread has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from gpuq.cpu.correction import ROW_BYTES, emit_correction, load_columns
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import LINE, strip_bytes
from gpuq.cpu.vectors import I8, I32, I64, call, load, offset, store, sums_type

ROWS = 16  # of a tile
WIDTH = 64  # bytes of a row of it
AHEAD = 2  # tiles of b that come to the nearest cache early: loads of tiles do not wake the processor's own prefetching
OWN_A, OWN_B = 4, 6  # the first tiles of codes; those of sums begin at 0
CONFIGURATION = bytes([1, 0] + 14 * [0] + 8 * [WIDTH, 0] + 16 * [0] + 8 * [ROWS] + 8 * [0])  # palette 1, all whole


def emit_tiles(isa: InstructionSet, builder: Any, count: int, rows: Any, words: Sequence[Any]) -> None:
    """A strip of at most `count` rows times every panel; `words` as microkernel.py has them."""
    panels, b_stride, a, b, steps, sums, sums_stride, add, is_last, own_rows, *columns, target_stride = words
    places = [(row, v) for row in range(count // ROWS) for v in range(isa.vectors)]
    scratch_stride = isa.columns * 4
    scratch = _address(builder, _room(builder, count * scratch_stride))
    _emit_configuration(builder, isa)
    with cgutils.for_range(builder, panels) as loop:
        own_b, at = builder.add(b, builder.mul(loop.index, b_stride)), builder.mul(loop.index, I64(isa.columns * 4))
        own_sums = builder.add(sums, at)
        with builder.if_else(add) as (then, otherwise):
            with then:
                _emit_move("tileloadd64", builder, isa, places, own_sums, sums_stride)
            with otherwise:
                for number in range(len(places)):
                    _emit(builder, isa, "tilezero", I8(number))
        _emit_loop(builder, isa, count // ROWS, a, own_b, steps)
        with builder.if_else(is_last) as (then, otherwise):
            with then:
                _emit_move("tilestored64", builder, isa, places, scratch, I64(scratch_stride))
                numbers = own_rows, [builder.add(address, at) for address in columns[:2]]
                target = builder.add(columns[2], at), target_stride
                _emit_correction(builder, isa, rows, (scratch, scratch_stride), numbers, target)
            with otherwise:
                _emit_move("tilestored64", builder, isa, places, own_sums, sums_stride)
    _emit(builder, isa, "tilerelease")


def emit_peak(isa: InstructionSet, builder: Any, steps: Any) -> Any:
    """So many steps of the four products of a tile, and nothing else; a sum that they come to."""
    room, size = _room(builder, ROWS * WIDTH), I64(WIDTH)
    start = _address(builder, room)
    builder.store(ir.Constant(room.type.pointee, bytearray([1] * ROWS * WIDTH)), room)
    _emit_configuration(builder, isa)
    for number in range(OWN_A):
        _emit(builder, isa, "tilezero", I8(number))
    for number in range(OWN_A, OWN_A + 4):
        _emit(builder, isa, "tileloadd64", I8(number), _pointer(builder, start), size)
    with cgutils.for_range(builder, steps):
        for number in range(OWN_A):
            _emit(builder, isa, "tdpbsud", I8(number), I8(OWN_A + number // 2), I8(OWN_B + number % 2))
    _emit(builder, isa, "tilestored64", I8(0), _pointer(builder, start), size)
    _emit(builder, isa, "tilerelease")
    return builder.sext(load(builder, I32, start, 4), I64)


def _emit_move(name: str, builder: Any, isa: InstructionSet, places: list[Any], start: Any, stride: Any) -> None:
    """Load or store the tiles of sums, from an address on."""
    for number, (row, v) in enumerate(places):
        place = offset(builder, builder.add(start, builder.mul(stride, I64(row * ROWS))), v * isa.lanes * 4)
        _emit(builder, isa, name, I8(number), _pointer(builder, place), stride)


def _emit_loop(builder: Any, isa: InstructionSet, down: int, a: Any, b: Any, steps: Any) -> None:
    """Add the products of all steps to the tiles of sums, as many as a tile of b holds at once."""
    b_stride, a_stride = isa.columns * isa.group, strip_bytes(isa)
    with cgutils.for_range(builder, builder.udiv(steps, I64(isa.steps))) as loop:
        own_a = builder.add(a, builder.mul(loop.index, I64(isa.steps * isa.group)))
        own_b = builder.add(b, builder.mul(loop.index, I64(isa.steps * b_stride)))
        for line in range(0, isa.steps * b_stride, LINE):
            place = _pointer(builder, offset(builder, own_b, AHEAD * isa.steps * b_stride + line))
            call(builder, "llvm.prefetch", ir.VoidType(), [place, I32(0), I32(3), I32(1)])  # to read, nearest, data
        for v in range(isa.vectors):
            place = _pointer(builder, offset(builder, own_b, v * WIDTH))
            _emit(builder, isa, "tileloadd64", I8(OWN_B + v), place, I64(b_stride))
        for row in range(down):
            place = _pointer(builder, offset(builder, own_a, row * ROWS * a_stride))
            _emit(builder, isa, "tileloadd64", I8(OWN_A + row), place, I64(a_stride))
            for v in range(isa.vectors):
                _emit(builder, isa, "tdpbsud", I8(row * isa.vectors + v), I8(OWN_A + row), I8(OWN_B + v))


def _emit_correction(
    builder: Any, isa: InstructionSet, rows: Any, scratch: tuple[Any, int], numbers: Any, target: tuple[Any, Any]
) -> None:
    """Equation (3) for the rows that there are, from the scratch to the target."""
    own_rows, column_numbers = numbers
    columns = load_columns(builder, isa, *column_numbers)
    with cgutils.for_range(builder, rows) as loop:
        source = builder.add(scratch[0], builder.mul(loop.index, I64(scratch[1])))
        places = {(0, v): offset(builder, source, v * isa.lanes * 4) for v in range(isa.vectors)}
        totals = {place: load(builder, sums_type(isa), address, 4) for place, address in places.items()}
        row = builder.add(own_rows, builder.mul(loop.index, I64(ROW_BYTES)))
        place = builder.add(target[0], builder.mul(loop.index, target[1]))
        for (_, v), total in emit_correction(builder, isa, totals, row, columns).items():
            store(builder, total, offset(builder, place, v * isa.lanes * 4), 4)


def _room(builder: Any, size: int) -> Any:
    """Memory of this function's own, from a cache line on."""
    with builder.goto_entry_block():
        room = builder.alloca(ir.ArrayType(I8, size))
    room.align = LINE
    return room


def _emit_configuration(builder: Any, isa: InstructionSet) -> None:
    value = ir.Constant(ir.ArrayType(I8, len(CONFIGURATION)), bytearray(CONFIGURATION))
    variable = ir.GlobalVariable(builder.module, value.type, builder.module.get_unique_name("tiles"))
    variable.linkage, variable.global_constant, variable.initializer, variable.align = "internal", True, value, LINE
    _emit(builder, isa, "ldtilecfg", _pointer(builder, _address(builder, variable)))


def _address(builder: Any, variable: Any) -> Any:
    return builder.ptrtoint(variable, I64)


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I8.as_pointer())


def _emit(builder: Any, isa: InstructionSet, name: str, *arguments: Any) -> None:
    INSTRUCTIONS[isa.dot](builder, name, *arguments)


def _emit_instruction(builder: Any, name: str, *arguments: Any) -> None:
    call(builder, f"llvm.x86.{name}", ir.VoidType(), list(arguments))


INSTRUCTIONS: dict[str, Callable[..., None]] = {"vpdpbusd": _emit_instruction}  # by the set's other instruction
