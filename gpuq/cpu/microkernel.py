"""The micro-kernel: a tile of int32 sums held in registers over a whole pass along k. One generator for every
instruction set.

    step s of the loop over k, for the tile of rows × (vectors · lanes) sums:

        b:  one vector per `vectors`, each lane `group` codes of one column      ┌────────┬────────┐
        a:  one word of `group` codes per row, broadcast to all lanes            │ b[s,0] │ b[s,1] │
                                                                           ┌─────┼────────┼────────┤
                                                                           │a[0,s]│ acc00 │ acc01  │   acc += dot(b, a)
                                                                           │a[1,s]│ acc10 │ acc11  │   in each lane
                                                                           └─────┴────────┴────────┘

a is a strip: the rows of one tile as they lie, a fixed distance apart (strips.py), so that one register addresses all
of them. b is panels packed by pack.py as [step][columns][group], without gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import int32, types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import strip_bytes
from gpuq.cpu.vectors import I32, I64, as_operand, codes_type, constant, dot, load, offset, splat, store, sums_type


def make_strip_product(isa: InstructionSet) -> Callable[..., Any]:
    """`multiply(rows, strip, b, first, last, sums, add)`: sums (+)= strip · bᵀ over the steps first … last of panels.

    The strip begins with step `first`, and `rows` of its rows are wanted; b is (panels, steps, columns, group); sums
    has room for whole tiles, and what lies in it beyond `rows` is undefined afterwards.
    """
    return _make_tiles(isa) if isa.dot else _portable


def _make_tiles(isa: InstructionSet) -> Callable[..., Any]:
    """The loop over tiles on raw addresses: slices of arrays would cost more than the shortest tile."""
    b_step = isa.columns * isa.group
    counts = [count for count in (1, 2, 4, 8) if count < isa.rows] + [isa.rows]
    multiply_tiles = _make_choice([(count, _make_row_of_tiles(isa, count)) for count in counts])

    @scalar
    def multiply(rows: int, strip: Any, b: Any, first: int, last: int, sums: Any, add: bool) -> None:
        b_start, c_stride = b.ctypes.data + first * b_step, sums.strides[0]
        multiply_tiles(
            rows, strip.ctypes.data, b_start, b.strides[0], b.shape[0], last - first, sums.ctypes.data, c_stride, add
        )

    return multiply


def _make_choice(kernels: list[tuple[int, Callable[..., Any]]]) -> Callable[..., Any]:
    """Calls the kernel with the fewest rows that has enough."""
    (count, kernel), *others = kernels
    if not others:
        return kernel
    larger = _make_choice(others)

    @scalar
    def choose(
        rows: int, a: int, b: int, b_stride: int, panels: int, steps: int, c: int, c_stride: int, add: bool
    ) -> None:
        if rows <= count:
            kernel(rows, a, b, b_stride, panels, steps, c, c_stride, add)
        else:
            larger(rows, a, b, b_stride, panels, steps, c, c_stride, add)

    return choose


def _make_row_of_tiles(isa: InstructionSet, count: int) -> Callable[..., Any]:
    """One strip times every panel."""
    tile, c_step = make_tile(isa, count), isa.columns * 4

    @scalar
    def multiply_tiles(
        rows: int, a: int, b: int, b_stride: int, panels: int, steps: int, c: int, c_stride: int, add: bool
    ) -> None:
        for j in range(panels):
            tile(a, b + j * b_stride, steps, c + j * c_step, c_stride, add)

    return multiply_tiles


def make_tile(isa: InstructionSet, rows: int) -> Callable[..., Any]:
    """The intrinsic for a tile of `rows` rows: addresses of a strip, a panel and c, steps along k, bytes from row to
    row of c, and whether to add to what c holds.
    """

    @intrinsic
    def tile(typing_context: Any, a: Any, b: Any, steps: Any, c: Any, c_stride: Any, add: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, isa, rows, *arguments)
            return context.get_dummy_value()

        kinds = (types.uintp, types.uintp, types.intp, types.uintp, types.intp, types.boolean)
        return types.void(*kinds), generate

    return tile


def _emit(
    builder: Any, isa: InstructionSet, rows: int, a: Any, b: Any, steps: Any, c: Any, c_stride: Any, add: Any
) -> None:
    zero = constant(sums_type(isa), 0)
    places = [(row, v) for row in range(rows) for v in range(isa.vectors)]
    entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed(">", steps, I64(0)), loop, done)
    builder.position_at_end(loop)
    step, a_step, b_step = (builder.phi(I64) for _ in range(3))
    sums = {place: builder.phi(zero.type) for place in places}
    totals = _emit_step(builder, isa, rows, a_step, b_step, sums)
    following = builder.sub(step, I64(1))
    step_bytes = {a_step: isa.group * isa.a_bytes, b_step: isa.columns * isa.group}
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
    _emit_stores(builder, isa, totals, c, c_stride, add)


def _emit_step(builder: Any, isa: InstructionSet, rows: int, a: Any, b: Any, sums: dict[Any, Any]) -> dict[Any, Any]:
    """The sums after one step."""
    vector_bytes = isa.lanes * isa.group
    loaded = [load(builder, codes_type(isa), offset(builder, b, v * vector_bytes)) for v in range(isa.vectors)]
    columns = [as_operand(builder, isa, codes) for codes in loaded]
    totals = {}
    for row in range(rows):
        word = load(builder, I32, offset(builder, a, row * strip_bytes(isa)))
        codes = splat(builder, word, sums_type(isa))
        for v, column in enumerate(columns):
            totals[row, v] = dot(builder, isa, sums[row, v], column, codes)
    return totals


def _emit_stores(builder: Any, isa: InstructionSet, totals: dict[Any, Any], c: Any, c_stride: Any, add: Any) -> None:
    """c = totals, or c += totals."""
    addresses = {}
    for row, v in totals:
        row_start = builder.add(c, builder.mul(c_stride, I64(row)))
        addresses[row, v] = offset(builder, row_start, v * isa.lanes * 4)
    with builder.if_else(add) as (then, otherwise):
        with then:
            for place, total in totals.items():
                before = load(builder, total.type, addresses[place], 4)
                store(builder, builder.add(before, total), addresses[place], 4)
        with otherwise:
            for place, total in totals.items():
                store(builder, total, addresses[place], 4)


@scalar
def _portable(rows: int, strip: Any, b: Any, first: int, last: int, sums: Any, add: bool) -> None:
    """The same in Python, for tiles of 4 columns and groups of any length.

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
