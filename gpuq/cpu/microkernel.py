"""The micro-kernel: a tile of int32 sums held in registers over a whole block of k. One generator for every
instruction set.

    step s of the loop over k, for the tile of rows × (vectors · lanes) sums:

        b:  one vector per `vectors`, each lane `group` codes of one column      ┌────────┬────────┐
        a:  one word of `group` codes per row, broadcast to all lanes            │ b[s,0] │ b[s,1] │
                                                                           ┌─────┼────────┼────────┤
                                                                           │a[s,0]│ acc00 │ acc01  │   acc += dot(b, a)
                                                                           │a[s,1]│ acc10 │ acc11  │   in each lane
                                                                           └─────┴────────┴────────┘

Panels are packed by pack.py: a as [step][rows][group], b as [step][columns][group], without gaps. A kernel for fewer
rows than the tile has reads the same panels and skips the rest of each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int32, types
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.compile import jit
from gpuq.cpu.isa import InstructionSet

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def make_panel_product(isa: InstructionSet) -> Callable[..., Any]:
    """`multiply(rows, a, b, first, last, sums)`: sums += a · bᵀ over the steps first … last of some panels of each.

    a is (panels, steps, isa.rows, group), of which `rows` rows are wanted; sums has room for whole tiles, except that
    rows beyond `rows` are left alone.
    """
    return _portable if isa.group == 0 else _make_tiles(isa)


def _make_tiles(isa: InstructionSet) -> Callable[..., Any]:
    """The loop over tiles on raw addresses: slices of arrays would cost more than the shortest tile."""
    tile_rows, columns, a_step = isa.rows, isa.columns, isa.rows * isa.group * isa.a_bytes
    b_step = isa.columns * isa.group
    counts = [count for count in (1, 2, 4, 8) if count < tile_rows] + [tile_rows]
    multiply_tile = _make_choice([(count, make_tile(isa, count)) for count in counts])

    @jit
    def multiply(rows: int, a: Any, b: Any, first: int, last: int, sums: Any) -> None:
        a_start, b_start = a.ctypes.data + first * a_step, b.ctypes.data + first * b_step
        c_start, c_stride = sums.ctypes.data, sums.strides[0]
        for j in range(b.shape[0]):
            for i in range(a.shape[0]):
                multiply_tile(
                    rows - i * tile_rows,
                    a_start + i * a.strides[0],
                    b_start + j * b.strides[0],
                    last - first,
                    c_start + i * tile_rows * c_stride + j * columns * 4,
                    c_stride,
                )

    return multiply


def _make_choice(kernels: list[tuple[int, Callable[..., Any]]]) -> Callable[..., Any]:
    """Calls the kernel with the fewest rows that has enough, or the last one."""
    count, kernel = kernels[0]
    larger = _make_choice(kernels[1:]) if len(kernels) > 1 else _drop_rows(kernel)

    @scalar
    def choose(rows: int, a: int, b: int, steps: int, c: int, c_stride: int) -> None:
        if rows <= count:
            kernel(a, b, steps, c, c_stride)
        else:
            larger(rows, a, b, steps, c, c_stride)

    return choose


def _drop_rows(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @scalar
    def call(rows: int, a: int, b: int, steps: int, c: int, c_stride: int) -> None:
        kernel(a, b, steps, c, c_stride)

    return call


def make_tile(isa: InstructionSet, rows: int) -> Callable[..., Any]:
    """The intrinsic for a tile of `rows` rows: addresses of panels and of c, steps along k, bytes from row to row of
    c.
    """

    @intrinsic
    def tile(typing_context: Any, a: Any, b: Any, steps: Any, c: Any, c_stride: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit(builder, isa, rows, *arguments)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.intp, types.uintp, types.intp), generate

    return tile


def _emit(builder: Any, isa: InstructionSet, rows: int, a: Any, b: Any, steps: Any, c: Any, c_stride: Any) -> None:
    vector = ir.VectorType(I32, isa.lanes)
    entry, loop, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(I64)
    step.add_incoming(I64(0), entry)
    sums = [builder.phi(vector) for _ in range(rows * isa.vectors)]
    for phi in sums:
        phi.add_incoming(ir.Constant(vector, [0] * isa.lanes), entry)
    a_step = builder.add(a, builder.mul(step, I64(isa.rows * isa.group * isa.a_bytes)))
    b_step = builder.add(b, builder.mul(step, I64(isa.columns * isa.group)))
    columns = [_load_b(builder, isa, builder.add(b_step, I64(v * isa.lanes * isa.group))) for v in range(isa.vectors)]
    totals = []
    for row in range(rows):
        word = _load(builder, I32, builder.add(a_step, I64(row * isa.group * isa.a_bytes)), 4)
        codes = _splat(builder, word, vector)
        totals += [_dot(builder, isa, sums[row * isa.vectors + v], column, codes) for v, column in enumerate(columns)]
    following = builder.add(step, I64(1))
    step.add_incoming(following, builder.block)
    for phi, total in zip(sums, totals, strict=True):
        phi.add_incoming(total, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)
    for row in range(rows):
        for v in range(isa.vectors):
            address = builder.add(c, builder.add(builder.mul(c_stride, I64(row)), I64(v * isa.lanes * 4)))
            pointer = builder.inttoptr(address, vector.as_pointer())
            builder.store(builder.add(builder.load(pointer, align=4), totals[row * isa.vectors + v]), pointer, align=4)


def _load(builder: Any, kind: Any, address: Any, align: int) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _load_b(builder: Any, isa: InstructionSet, address: Any) -> Any:
    """One vector of b: as many codes as its lanes take, widened to 16 bit where a's are."""
    codes = _load(builder, ir.VectorType(I8, isa.lanes * isa.group), address, 1)
    return builder.sext(codes, ir.VectorType(I16, isa.lanes * isa.group)) if isa.a_bytes == 2 else codes


def _splat(builder: Any, word: Any, vector: Any) -> Any:
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, I32(0))
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0] * vector.count))


def _dot(builder: Any, isa: InstructionSet, total: Any, column: Any, codes: Any) -> Any:
    """total + Σ column·codes in each lane, by the instruction this set is there for."""
    vector = total.type
    if isa.name == "avx2":
        products = _call(builder, "llvm.x86.avx2.pmadd.wd", vector, [column, builder.bitcast(codes, column.type)])
        return builder.add(total, products)
    if isa.name == "neon_dotprod":
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return _call(builder, name, vector, [total, column, builder.bitcast(codes, column.type)])
    # LLVM 14 takes vectors of dwords here, LLVM 22 of bytes; it rewrites the older form itself
    name = f"llvm.x86.avx512.vpdpbusd.{32 * isa.lanes}"
    return _call(builder, name, vector, [total, builder.bitcast(column, vector), codes])


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    known = builder.module.globals.get(name)
    function = known or ir.Function(builder.module, ir.FunctionType(result, [x.type for x in arguments]), name)
    return builder.call(function, arguments)


@jit
def _portable(rows: int, a: Any, b: Any, first: int, last: int, sums: Any) -> None:
    """The same in Python, for tiles of 4 columns and groups of any length.

    `int32(...)` around every sum keeps Numba from widening it to int64: so LLVM finds the multiply-add of 16-bit pairs.
    """
    for step in range(first, last):
        for panel in range(b.shape[0]):
            b0, b1, b2, b3 = b[panel, step, 0], b[panel, step, 1], b[panel, step, 2], b[panel, step, 3]
            for i in range(rows):
                codes = a[i // a.shape[2], step, i % a.shape[2]]
                s0 = s1 = s2 = s3 = int32(0)
                for k in range(codes.shape[0]):
                    x = int32(codes[k])
                    s0, s1 = int32(s0 + int32(x * int32(b0[k]))), int32(s1 + int32(x * int32(b1[k])))
                    s2, s3 = int32(s2 + int32(x * int32(b2[k]))), int32(s3 + int32(x * int32(b3[k])))
                for j, total in enumerate((s0, s1, s2, s3)):
                    sums[i, panel * 4 + j] += total
