"""Instructions and memory accesses as functions for kernels, one each, named after what they are; no logic.

    load4_float32(address)      16 bytes: four consecutive elements of a lane        ld.global.v4.b32
    store4_uint8(address, …)     4 bytes: a warp's stores make one full line          st.global.b32

Addresses are int64. A vector access must be aligned to its own size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

WORD = ir.IntType(32)
GLOBAL = 1  # the address space
LLVM_TYPES = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    **{kind: ir.IntType(kind.bitwidth) for kind in (types.int8, types.uint8, types.int16, types.uint16)},
    **{kind: ir.IntType(kind.bitwidth) for kind in (types.int32, types.uint32, types.int64)},
}
LARGEST = 16  # bytes of the widest access


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType(kind, addrspace=GLOBAL))


def _make_load(kind: Any) -> Callable[..., Any]:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        """The element at an address of global memory."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            element = LLVM_TYPES[kind]
            return builder.load(_pointer(builder, arguments[0], element), align=kind.bitwidth // 8)

        return kind(types.int64), generate

    return load


def _make_store(kind: Any) -> Callable[..., Any]:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        """Put an element at an address of global memory."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.store(arguments[1], _pointer(builder, arguments[0], LLVM_TYPES[kind]), align=kind.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, kind), generate

    return store


def _make_load4(kind: Any) -> Callable[..., Any]:
    count = min(4, LARGEST * 8 // kind.bitwidth)  # elements of one access; float64 takes two

    @intrinsic
    def load4(typing_context: Any, address: Any) -> Any:
        """Four consecutive elements."""
        result = types.UniTuple(kind, 4)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.VectorType(LLVM_TYPES[kind], count)
            base = _pointer(builder, arguments[0], vector)
            elements = ir.Constant(context.get_value_type(result), ir.Undefined)
            for part in range(4 // count):
                loaded = builder.load(builder.gep(base, [WORD(part)]), align=count * kind.bitwidth // 8)
                for i in range(count):
                    element = builder.extract_element(loaded, WORD(i))
                    elements = builder.insert_value(elements, element, part * count + i)
            return elements

        return result(types.int64), generate

    return load4


def _make_store4(kind: Any) -> Callable[..., Any]:
    count = min(4, LARGEST * 8 // kind.bitwidth)

    @intrinsic
    def store4(typing_context: Any, address: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        """Put four consecutive elements."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.VectorType(LLVM_TYPES[kind], count)
            base = _pointer(builder, arguments[0], vector)
            for part in range(4 // count):
                value = ir.Constant(vector, ir.Undefined)
                for i in range(count):
                    value = builder.insert_element(value, arguments[1 + part * count + i], WORD(i))
                builder.store(value, builder.gep(base, [WORD(part)]), align=count * kind.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, kind, kind, kind, kind), generate

    return store4


load = {kind: _make_load(kind) for kind in LLVM_TYPES}
store = {kind: _make_store(kind) for kind in LLVM_TYPES}
load4 = {kind: _make_load4(kind) for kind in LLVM_TYPES}
store4 = {kind: _make_store4(kind) for kind in LLVM_TYPES}
