"""The micro-kernel: a tile of int32 sums held in registers over a whole pass along k. One generator for every
instruction set.

    step s of the loop over k, for the tile of rows × (vectors · lanes) sums:

        b:  one vector per `vectors`, each lane `group` codes of one column      ┌────────┬────────┐
        a:  one word of `group` codes per row, broadcast to all lanes            │ b[s,0] │ b[s,1] │
                                                                           ┌─────┼────────┼────────┤
                                                                           │a[0,s]│ acc00 │ acc01  │   acc += dot(b, a)
                                                                           │a[1,s]│ acc10 │ acc11  │   in each lane
                                                                           └─────┴────────┴────────┘

    after the last pass:  target = acc − za[row]·Σb[column] − zb[column]·Σ(a − za)[row],  equation (3), and so exact

a is a strip: the rows of one tile as they lie, a fixed distance apart (strips.py), so that one register addresses all
of them. b is panels packed by pack.py as [step][columns][group], without gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from numba import int32
from numba.core import cgutils

from gpuq.arithmetic import correct_in_int32, scalar
from gpuq.cpu import amx
from gpuq.cpu.choice import make_choice
from gpuq.cpu.correction import emit_correction, load_columns
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import strip_bytes
from gpuq.cpu.vectors import I32, I64, as_operand, codes_type, constant, dot, load, offset, splat, store, sums_type


def make_strip_product(isa: InstructionSet) -> Callable[..., Any]:
    """`multiply(rows, strip, b, first, last, sums, add, ends, target, target_stride)`: strip · bᵀ over the steps
    first … last of panels, (added to `sums`); `isa.steps` of them at a time.

    The strip begins with step `first`, and `rows` of its rows are wanted; b is (panels, steps, columns, group); sums
    has room for whole tiles, and what lies in it beyond `rows` is undefined afterwards. `ends` is (whether this is the
    last pass, row numbers (rows, 2): zero point and constant, column numbers (2, columns of all panels): sums of codes
    and zero points), all int32. Before the last pass the product goes to `sums`; after it, corrected, to the address
    `target`, from row to row `target_stride` bytes. The portable form knows no addresses: there it goes to `sums`.
    """
    return _make_tiles(isa) if isa.dot else _portable


def _make_tiles(isa: InstructionSet) -> Callable[..., Any]:
    """The loop over tiles on raw addresses: slices of arrays would cost more than the shortest tile."""
    b_step = isa.columns * isa.group

    def emit(builder: Any, count: int, fewest: int, rows: Any, words: Sequence[Any]) -> None:
        if isa.without_tiles and count >= amx.ROWS:
            amx.emit_tiles(isa, builder, count, rows, words)
        else:
            _emit_tiles(isa, builder, count, fewest, rows, words)

    multiply_tiles = make_choice(isa, emit)

    @scalar
    def multiply(
        rows: int, strip: Any, b: Any, first: int, last: int, sums: Any, add: bool, ends: Any, target: int,
        target_stride: int,
    ) -> None:  # fmt: skip
        panels = b.shape[0], b.strides[0], strip.ctypes.data, b.ctypes.data + first * b_step, last - first
        is_last, own_rows, own_columns = ends
        numbers = own_rows.ctypes.data, own_columns[0].ctypes.data, own_columns[1].ctypes.data
        own = panels, (sums.ctypes.data, sums.strides[0], add), is_last, numbers, target, target_stride
        multiply_tiles(rows, own)

    return multiply


def _emit_tiles(isa: InstructionSet, builder: Any, count: int, fewest: int, rows: Any, words: Sequence[Any]) -> None:
    """A strip of so many rows times every panel: panels, bytes from one to the next; addresses of the strip and the
    first panel, steps along k; address of sums, which have room for all rows of a tile, bytes from row to row of them,
    whether to add to them; whether this is the last pass, addresses of row numbers, column sums, column zero points and
    the target, which has room for the strip's rows, and bytes from row to row of that.
    """
    panels, b_stride, a, b, steps, c, c_stride, add, is_last, own_rows, *columns, target_stride = words
    with cgutils.for_range(builder, panels) as loop:
        own_b, at = builder.add(b, builder.mul(loop.index, b_stride)), builder.mul(loop.index, I64(isa.columns * 4))
        totals = emit_loop(builder, isa, 8, count, a, own_b, steps)
        sums = addresses_of(builder, isa, totals, builder.add(c, at), c_stride)
        totals = _emit_addition(builder, totals, sums, add)
        with builder.if_else(is_last) as (then, otherwise):
            with then:
                column_sums, points, target = (builder.add(address, at) for address in columns)
                own_columns = load_columns(builder, isa, column_sums, points)
                corrected = emit_correction(builder, isa, totals, own_rows, own_columns)
                places = addresses_of(builder, isa, totals, target, target_stride)
                _emit_stores(builder, corrected, places, range(fewest))
                for row in range(fewest, count):
                    with builder.if_then(builder.icmp_signed(">", rows, I64(row))):
                        _emit_stores(builder, corrected, places, (row,))
            with otherwise:
                _emit_stores(builder, totals, sums, range(count))


def a_bytes_of_step(isa: InstructionSet, bits: int) -> int:
    """Bytes of a strip's row that a step along k takes, for codes of b of so many bits."""
    return isa.group * isa.a_bytes * 8 // bits


def emit_loop(builder: Any, isa: InstructionSet, bits: int, rows: int, a: Any, b: Any, steps: Any) -> dict[Any, Any]:
    """The sums of all steps, by row and vector; b has codes of 8 bits, or of 4 as block_weight.py has them."""
    zero = constant(sums_type(isa), 0)
    places = [(row, v) for row in range(rows) for v in range(isa.vectors)]
    entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", steps, I64(0)), loop, done)
    builder.position_at_end(loop)
    step, a_step, b_step = (builder.phi(I64) for _ in range(3))
    sums = {place: builder.phi(zero.type) for place in places}
    totals = _emit_step(builder, isa, bits, rows, a_step, b_step, sums)
    following = builder.sub(step, I64(1))
    step_bytes = {a_step: a_bytes_of_step(isa, bits), b_step: isa.columns * isa.group}
    for phi, start, end in (
        (step, steps, following),
        (a_step, a, offset(builder, a_step, step_bytes[a_step])),
        (b_step, b, offset(builder, b_step, step_bytes[b_step])),
        *((sums[place], zero, totals[place]) for place in places),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    builder.cbranch(builder.icmp_signed(">", following, I64(0)), loop, done)
    builder.position_at_end(done)
    for place in places:
        total = builder.phi(zero.type)
        total.add_incoming(zero, entry)
        total.add_incoming(totals[place], loop)
        totals[place] = total
    return totals


def _emit_step(
    builder: Any, isa: InstructionSet, bits: int, rows: int, a: Any, b: Any, sums: dict[Any, Any]
) -> dict[Any, Any]:
    """The sums after one step."""
    vector_bytes = isa.lanes * isa.group
    loaded = [load(builder, codes_type(isa), offset(builder, b, v * vector_bytes)) for v in range(isa.vectors)]
    totals = dict(sums)
    for half in range(8 // bits):
        own = [_emit_half(builder, codes, half) for codes in loaded] if bits == 4 else loaded
        columns = [as_operand(builder, isa, codes) for codes in own]
        for row in range(rows):
            place = row * strip_bytes(isa) + half * isa.group * isa.a_bytes
            codes = splat(builder, load(builder, I32, offset(builder, a, place)), sums_type(isa))
            for v, column in enumerate(columns):
                totals[row, v] = dot(builder, isa, totals[row, v], column, codes)
    return totals


def _emit_half(builder: Any, codes: Any, half: int) -> Any:
    """The lower or upper half of each byte."""
    if half:
        return builder.lshr(codes, constant(codes.type, 4))
    return builder.and_(codes, constant(codes.type, 15))


def addresses_of(builder: Any, isa: InstructionSet, totals: dict[Any, Any], start: Any, stride: Any) -> dict[Any, Any]:
    """Where each vector of a tile lies."""
    rows = {row: builder.add(start, builder.mul(stride, I64(row))) for row, _ in totals}
    return {(row, v): offset(builder, rows[row], v * isa.lanes * 4) for row, v in totals}


def _emit_addition(builder: Any, totals: dict[Any, Any], addresses: dict[Any, Any], add: Any) -> dict[Any, Any]:
    """The totals, with what lies at the addresses if `add`."""
    entry = builder.block
    with builder.if_then(add):
        known = {place: load(builder, total.type, addresses[place], 4) for place, total in totals.items()}
        added = {place: builder.add(known[place], total) for place, total in totals.items()}
        within = builder.block
    results = {}
    for place, total in totals.items():
        results[place] = builder.phi(total.type)
        results[place].add_incoming(total, entry)
        results[place].add_incoming(added[place], within)
    return results


def _emit_stores(builder: Any, totals: dict[Any, Any], addresses: dict[Any, Any], rows: Iterable[int]) -> None:
    for place, total in totals.items():
        if place[0] in rows:
            store(builder, total, addresses[place], 4)


@scalar
def _portable(
    rows: int, strip: Any, b: Any, first: int, last: int, sums: Any, add: bool, ends: Any, target: int,
    target_stride: int,
) -> None:  # fmt: skip
    """The same in Python, for tiles of 4 columns and groups of any length."""
    _multiply_portably(rows, strip, b, first, last, sums, add)
    is_last, own_rows, own_columns = ends
    if is_last:
        for i in range(rows):
            own, a_point, rest = sums[i], own_rows[i, 0], own_rows[i, 1]
            for j in range(own.shape[0]):
                own[j] = correct_in_int32(own[j], own_columns[0, j], a_point, own_columns[1, j], rest)


@scalar
def _multiply_portably(rows: int, strip: Any, b: Any, first: int, last: int, sums: Any, add: bool) -> None:
    """sums (+)= strip · bᵀ.

    `int32(...)` around every sum keeps Numba from widening it to int64: so LLVM finds the multiply-add of 16-bit pairs.
    """
    if not add:
        sums[:rows] = 0
    for step in range(first, last):
        for panel in range(b.shape[0]):
            b0, b1, b2, b3 = b[panel, step, 0], b[panel, step, 1], b[panel, step, 2], b[panel, step, 3]
            start = (step - first) * b.shape[3]
            for i in range(rows):
                codes = strip[i, start : start + b.shape[3]]
                s0 = s1 = s2 = s3 = int32(0)
                for k in range(codes.shape[0]):
                    x = int32(codes[k])
                    s0, s1 = int32(s0 + int32(x * int32(b0[k]))), int32(s1 + int32(x * int32(b1[k])))
                    s2, s3 = int32(s2 + int32(x * int32(b2[k]))), int32(s3 + int32(x * int32(b3[k])))
                for j, total in enumerate((s0, s1, s2, s3)):
                    sums[i, panel * 4 + j] += total
