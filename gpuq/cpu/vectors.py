"""What the kernels that are emitted as LLVM instructions are made of: vectors in memory and the dot instructions.

total (lanes × int32)  +=  column · codes      lane by lane, `group` products each

column: a vector of b, `group` codes of one column in each lane; codes: the same of a, usually one word everywhere
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from gpuq.cpu.isa import InstructionSet

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def sums_type(isa: InstructionSet) -> Any:
    """A vector register of int32 sums."""
    return ir.VectorType(I32, isa.lanes)


def codes_type(isa: InstructionSet) -> Any:
    """As many codes as such a register takes."""
    return ir.VectorType(I8, isa.lanes * isa.group)


def constant(vector: Any, value: float) -> Any:
    """A vector of one value."""
    return ir.Constant(vector, [value] * vector.count)


def load(builder: Any, kind: Any, address: Any, align: int = 1) -> Any:
    """A value of that type at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, address: Any, align: int = 1) -> None:
    """Put a value to an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def offset(builder: Any, address: Any, distance: int) -> Any:
    """The address so many bytes further."""
    return builder.add(address, I64(distance)) if distance else address


def splat(builder: Any, value: Any, vector: Any) -> Any:
    """A vector whose elements are all `value`."""
    undefined = ir.Constant(vector, ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, value, I32(0)), undefined, constant(ir.VectorType(I32, vector.count), 0)
    )


def shuffle(builder: Any, left: Any, right: Any, indices: Sequence[int]) -> Any:
    """The elements of left and right, numbered one after the other, at these indices."""
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(I32, len(indices)), list(indices)))


def sum_lanes(builder: Any, vector: Any) -> Any:
    """The sum of a vector's int32 elements."""
    return call(builder, f"llvm.vector.reduce.add.v{vector.type.count}i32", I32, [vector])


def as_operand(builder: Any, isa: InstructionSet, codes: Any) -> Any:
    """A vector of codes as the instruction takes it: widened to 16 bit where it multiplies those."""
    return builder.sext(codes, ir.VectorType(I16, codes.type.count)) if isa.a_bytes == 2 else codes


def ones(isa: InstructionSet) -> Any:
    """The operand of which every code is 1: by it the dot instruction adds up the codes of the other."""
    return constant(ir.VectorType(I16 if isa.a_bytes == 2 else I8, isa.lanes * isa.group), 1)


def dot(builder: Any, isa: InstructionSet, total: Any, column: Any, codes: Any) -> Any:
    """total + Σ column·codes in each lane."""
    return DOTS[isa.dot](builder, total, column, codes)


def _vpmaddwd(builder: Any, total: Any, column: Any, codes: Any) -> Any:
    products = call(builder, "llvm.x86.avx2.pmadd.wd", total.type, [column, builder.bitcast(codes, column.type)])
    return builder.add(total, products)


def _sdot(builder: Any, total: Any, column: Any, codes: Any) -> Any:
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    return call(builder, name, total.type, [total, column, builder.bitcast(codes, column.type)])


def _vpdpbusd(builder: Any, total: Any, column: Any, codes: Any) -> Any:
    # LLVM 14 takes vectors of dwords here, LLVM 22 of bytes; it rewrites the older form itself
    name = f"llvm.x86.avx512.vpdpbusd.{32 * total.type.count}"
    return call(builder, name, total.type, [total, *(builder.bitcast(x, total.type) for x in (column, codes))])


DOTS: dict[str, Callable[..., Any]] = {"vpmaddwd": _vpmaddwd, "sdot": _sdot, "vpdpbusd": _vpdpbusd}


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call one of LLVM's own functions."""
    known = builder.module.globals.get(name)
    function = known or ir.Function(builder.module, ir.FunctionType(result, [x.type for x in arguments]), name)
    return builder.call(function, arguments)
