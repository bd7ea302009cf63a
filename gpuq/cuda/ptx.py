"""Instructions and memory accesses as functions for kernels, one each, named after what they are; no logic.

    load[kind](address)          one element                                         ld.global, ld.shared
    load4[kind](address)         four consecutive numbers                            ld.global.v4, ld.global.v2.b64
    load16(address, words, i)    words[i : i + 4] ← 16 bytes                         ld.global.v4.u32
    store16(address, words, i)   16 bytes ← words[i : i + 4]                         st.global.v4.u32
    load_words[n], store_words[n]    the same for n words: 1, 2 or 4

Addresses of global memory are int64, those of shared memory int32. A vector access must be aligned to its own size.
`words` is a local array of uint32, which NVVM keeps in registers where every index is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

WORD = ir.IntType(32)
GLOBAL, SHARED = 1, 3  # address spaces
ADDRESSES = {GLOBAL: types.int64, SHARED: types.int32}
VECTOR_BYTES = 16
LLVM_TYPES = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    **{kind: ir.IntType(kind.bitwidth) for kind in (types.int8, types.uint8, types.int16, types.uint16)},
    **{kind: ir.IntType(kind.bitwidth) for kind in (types.int32, types.uint32, types.int64)},
}


def _pointer(builder: Any, address: Any, kind: Any, space: int = GLOBAL) -> Any:
    return builder.inttoptr(address, ir.PointerType(kind, addrspace=space))


def _make_load(kind: Any, space: int) -> Callable[..., Any]:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        """The element at an address."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(builder, arguments[0], LLVM_TYPES[kind], space)
            return builder.load(pointer, align=kind.bitwidth // 8)

        return kind(ADDRESSES[space]), generate

    return load


def _make_store(kind: Any, space: int) -> Callable[..., Any]:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        """Put an element at an address."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(builder, arguments[0], LLVM_TYPES[kind], space)
            builder.store(arguments[1], pointer, align=kind.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(ADDRESSES[space], kind), generate

    return store


load = {kind: _make_load(kind, GLOBAL) for kind in LLVM_TYPES}
store = {kind: _make_store(kind, GLOBAL) for kind in LLVM_TYPES}
IN_SHARED = (types.uint8, types.uint16, types.uint32, types.int32, types.float32)
load_shared = {kind: _make_load(kind, SHARED) for kind in IN_SHARED}
store_shared = {kind: _make_store(kind, SHARED) for kind in IN_SHARED}


def _make_load4(kind: Any) -> Callable[..., Any]:
    count = min(4, VECTOR_BYTES * 8 // kind.bitwidth)  # numbers of one access: two of 8 bytes

    @intrinsic
    def load4(typing_context: Any, address: Any) -> Any:
        """Four consecutive numbers."""
        result = types.UniTuple(kind, 4)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.VectorType(LLVM_TYPES[kind], count)
            base = _pointer(builder, arguments[0], vector)
            parts = [builder.load(builder.gep(base, [WORD(i)]), align=VECTOR_BYTES) for i in range(4 // count)]
            numbers = [builder.extract_element(part, WORD(i)) for part in parts for i in range(count)]
            return context.make_tuple(builder, result, numbers)

        return result(types.int64), generate

    return load4


load4 = {kind: _make_load4(kind) for kind in (types.float32, types.float64, types.int32, types.int64)}


def word_at(context: Any, builder: Any, kind: Any, words: Any, index: Any, step: int) -> Any:
    """The pointer to words[index + step]."""
    data = context.make_array(kind)(context, builder, words).data
    return builder.gep(data, [builder.add(index, index.type(step))])


def _make_load_words(count: int, space: int) -> Callable[..., Any]:
    kind = ir.VectorType(WORD, count)

    @intrinsic
    def load_words(typing_context: Any, address: Any, words: Any, index: Any) -> Any:
        """words[index : index + count] ← 4 · count bytes."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = builder.load(_pointer(builder, arguments[0], kind, space), align=4 * count)
            for i in range(count):
                place = word_at(context, builder, signature.args[1], arguments[1], arguments[2], i)
                builder.store(builder.extract_element(vector, WORD(i)), place)
            return context.get_dummy_value()

        return types.void(ADDRESSES[space], words, types.int32), generate

    return load_words


def _make_store_words(count: int, space: int) -> Callable[..., Any]:
    kind = ir.VectorType(WORD, count)

    @intrinsic
    def store_words(typing_context: Any, address: Any, words: Any, index: Any) -> Any:
        """4 · count bytes ← words[index : index + count]."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.Constant(kind, ir.Undefined)
            for i in range(count):
                place = word_at(context, builder, signature.args[1], arguments[1], arguments[2], i)
                vector = builder.insert_element(vector, builder.load(place), WORD(i))
            builder.store(vector, _pointer(builder, arguments[0], kind, space), align=4 * count)
            return context.get_dummy_value()

        return types.void(ADDRESSES[space], words, types.int32), generate

    return store_words


load_words = {count: _make_load_words(count, GLOBAL) for count in (1, 2, 4)}
store_words = {count: _make_store_words(count, GLOBAL) for count in (1, 2, 4)}
load16, load16_shared = load_words[4], _make_load_words(4, SHARED)
load8_shared = _make_load_words(2, SHARED)
store16, store16_shared = store_words[4], _make_store_words(4, SHARED)


def _make_store8(space: int) -> Callable[..., Any]:
    @intrinsic
    def store8(typing_context: Any, address: Any, first: Any, second: Any) -> Any:
        """8 bytes ← two words."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(WORD, 2)
            vector = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[1], WORD(0))
            vector = builder.insert_element(vector, arguments[2], WORD(1))
            builder.store(vector, _pointer(builder, arguments[0], kind, space), align=8)
            return context.get_dummy_value()

        return types.void(ADDRESSES[space], types.uint32, types.uint32), generate

    return store8


store8, store8_shared = _make_store8(GLOBAL), _make_store8(SHARED)


@intrinsic
def shared_address(typing_context: Any, array: Any) -> Any:
    """The address of a shared array's first byte in shared memory."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(builder.addrspacecast(data, ir.PointerType(data.type.pointee, addrspace=SHARED)), WORD)

    return types.int32(array), generate


@intrinsic
def float64_of(typing_context: Any, low: Any, high: Any) -> Any:
    """The float64 whose bits are two words."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pair = ir.Constant(ir.VectorType(WORD, 2), ir.Undefined)
        for i, argument in enumerate(arguments):
            pair = builder.insert_element(pair, argument, WORD(i))
        return builder.bitcast(pair, ir.DoubleType())

    return types.float64(types.uint32, types.uint32), generate


@intrinsic
def words_of(typing_context: Any, value: Any) -> Any:
    """The two words of a float64's bits."""
    result = types.UniTuple(types.uint32, 2)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pair = builder.bitcast(arguments[0], ir.VectorType(WORD, 2))
        return context.make_tuple(builder, result, [builder.extract_element(pair, WORD(i)) for i in range(2)])

    return result(types.float64), generate


@intrinsic
def float32_of_half(typing_context: Any, bits: Any) -> Any:
    """cvt.f32.f16: the float32 that a float16 of these bits is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def half_of_float32(typing_context: Any, value: Any) -> Any:
    """cvt.rn.f16.f32: the bits of the float16 nearest to a float32, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


def _assembly(builder: Any, text: str, constraints: str, result: Any, arguments: Any, warp_wide: bool = False) -> Any:
    """One PTX instruction; a warp-wide one must not be moved into a branch."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    assembly = ir.InlineAsm(kind, text, constraints, side_effect=warp_wide)
    return builder.call(assembly, arguments, attrs=("convergent", "nounwind") if warp_wide else ("nounwind",))


@intrinsic
def swap_with_neighbour(typing_context: Any, word: Any) -> Any:
    """shfl.sync.bfly 1: what the other lane of the pair gives."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        text = "shfl.sync.bfly.b32 $0, $1, 1, 0x1f, 0xffffffff;"
        return _assembly(builder, text, "=r,r", WORD, arguments, warp_wide=True)

    return types.uint32(types.uint32), generate


@intrinsic
def permute_bytes(typing_context: Any, a: Any, b: Any, picked: Any) -> Any:
    """prmt.b32: four of the eight bytes of a and b, the lowest first, by the nibbles of `picked`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _assembly(builder, "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", WORD, arguments)

    return types.uint32(types.uint32, types.uint32, types.uint32), generate


def _make_either(name: str) -> Callable[..., Any]:
    @intrinsic
    def either(typing_context: Any, a: Any, b: Any) -> Any:
        """max.f32 or min.f32: the larger or the smaller of two numbers; the other one where one is NaN."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _assembly(builder, f"{name}.f32 $0, $1, $2;", "=f,f,f", ir.FloatType(), arguments)

        return types.float32(types.float32, types.float32), generate

    return either


larger, smaller = _make_either("max"), _make_either("min")


def _make_anew(register: str) -> Callable[..., Any]:
    @intrinsic
    def anew(typing_context: Any) -> Any:
        """A number that was read before, read again: nothing computed from it needs to be kept for that long."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _assembly(builder, f"mov.u32 $0, {register};", "=r", WORD, (), warp_wide=True)

        return types.int32(), generate

    return anew


thread_anew, block_anew = _make_anew("%tid.x"), _make_anew("%ctaid.x")


@intrinsic
def dp4a(typing_context: Any, a: Any, b: Any, total: Any) -> Any:
    """dp4a.s32.s32: total + Σ a·b of four signed codes each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _assembly(builder, "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", WORD, arguments)

    return types.int32(types.uint32, types.uint32, types.int32), generate


def _make_atomic(operation: str, kind: Any) -> Callable[..., Any]:
    @intrinsic
    def atomic(typing_context: Any, address: Any, value: Any) -> Any:
        """atom.global, or red where nobody asks: the number at an address ← min, max or sum of it and a value; what it
        was before.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(builder, arguments[0], LLVM_TYPES[kind])
            return builder.atomic_rmw(operation, pointer, arguments[1], "monotonic")

        return kind(types.int64, kind), generate

    return atomic


atomic_min, atomic_max = _make_atomic("min", types.int32), _make_atomic("max", types.int32)
atomic_add, atomic_add_int32 = _make_atomic("add", types.int64), _make_atomic("add", types.int32)
