"""Instructions of tensor cores and of copies to shared memory as functions for kernels, one each, named after what
they are; no logic. Those that all lanes of a warp make together must be made by all of them.

    cp_async16(to, source, ignored)        shared ← 16 bytes of global memory, or zeros       cp.async.cg
    cp_async4(to, source, ignored)         the same of 4 bytes                                cp.async.ca
    cp_async_commit(), cp_async_wait[n]()  the copies so far as a group; until at most n groups fly
    load16_or_zeros(source, zeros, w, i)   w[i : i + 4] ← 16 bytes, or zeros                  @p ld.global.v4
    ldmatrix_x4(address, w, i)             w[i : i + 4] ← four matrices of 8 × 16 bytes       ldmatrix
    mma_m16n8k32[kinds](c, i, a, j, b, k)  c[i : i + 4] += a[j : j + 4] · b[k : k + 2]        mma.sync, from 8.0 on
    mma_m8n8k16[kinds](c, i, a, j, b, k)   c[i : i + 2] += a[j] · b[k]                        mma.sync
    mma_m16n8k32_to[kinds](d, h, c, i, a, j, b, k)   d[h : h + 4] = c[i : i + 4] + a[j : j + 4] · b[k : k + 2]

`kinds` are the types of the codes of a and b: "s8" or "u8". Which lane holds which element is in the PTX manual under
"Matrix Fragments"; gemm_mma.py draws it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from gpuq.cuda.ptx import WORD, word_at

KINDS = tuple((a, b) for a in ("s8", "u8") for b in ("s8", "u8"))
MEMORY = ",~{memory}"


def _assembly(builder: Any, text: str, constraints: str, results: int, arguments: Any) -> Any:
    """PTX that must stay where it is, with that many words as results."""
    result = ir.LiteralStructType([WORD] * results) if results else ir.VoidType()
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    assembly = ir.InlineAsm(kind, text, constraints, side_effect=True)
    return builder.call(assembly, arguments, attrs=("convergent", "nounwind"))


# ---- to shared memory ----


def _make_cp_async(form: str, size: int) -> Callable[..., Any]:
    @intrinsic
    def cp_async(typing_context: Any, to: Any, source: Any, ignored: Any) -> Any:
        """cp.async: `size` bytes from global to shared memory; zeros where `ignored`, and then nothing is read."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            copy = f"cp.async.{form} [$0], [$1], {size}, ignored;"
            text = f"{{ .reg .pred ignored; setp.ne.b32 ignored, $2, 0; {copy} }}"
            _assembly(builder, text, "r,l,r" + MEMORY, 0, arguments)
            return context.get_dummy_value()

        return types.void(types.int32, types.int64, types.int32), generate

    return cp_async


cp_async16, cp_async4 = _make_cp_async("cg.shared.global.L2::128B", 16), _make_cp_async("ca.shared.global", 4)


@intrinsic
def cp_async_commit(typing_context: Any) -> Any:
    """cp.async.commit_group: the thread's copies since the last one become a group."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assembly(builder, "cp.async.commit_group;", "~{memory}", 0, arguments)
        return context.get_dummy_value()

    return types.void(), generate


def _make_wait(pending: int) -> Callable[..., Any]:
    @intrinsic
    def cp_async_wait(typing_context: Any) -> Any:
        """cp.async.wait_group: until all of the thread's groups but the newest have landed."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _assembly(builder, f"cp.async.wait_group {pending};", "~{memory}", 0, arguments)
            return context.get_dummy_value()

        return types.void(), generate

    return cp_async_wait


cp_async_wait = {pending: _make_wait(pending) for pending in range(5)}


@intrinsic
def load16_or_zeros(typing_context: Any, source: Any, zeros: Any, words: Any, index: Any) -> Any:
    """words[index : index + 4] ← 16 bytes of global memory; zeros where `zeros`, and then nothing is read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        clear = " ".join(f"mov.b32 ${i}, 0;" for i in range(4))
        load = "setp.eq.b32 there, $5, 0; @there ld.global.v4.b32 {$0, $1, $2, $3}, [$4];"
        text = f"{{ .reg .pred there; {clear} {load} }}"
        loaded = _assembly(builder, text, "=&r,=&r,=&r,=&r,l,r" + MEMORY, 4, arguments[:2])
        _put(context, builder, signature.args[2], arguments[2], arguments[3], loaded, 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int32, words, types.int32), generate


# ---- warp-wide ----


def _put(context: Any, builder: Any, kind: Any, words: Any, index: Any, results: Any, count: int) -> None:
    """words[index : index + count] ← results."""
    for i in range(count):
        builder.store(builder.extract_value(results, i), word_at(context, builder, kind, words, index, i))


@intrinsic
def ldmatrix_x4(typing_context: Any, address: Any, words: Any, index: Any) -> Any:
    """words[index : index + 4] ← four matrices of 8 rows of 16 bytes; lane 8·i + r gives the address of row r of
    matrix i, and has bytes 4·(l % 4) … of row l / 4 of each afterwards.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"
        loaded = _assembly(builder, text, "=r,=r,=r,=r,r" + MEMORY, 4, arguments[:1])
        _put(context, builder, signature.args[1], arguments[1], arguments[2], loaded, 4)
        return context.get_dummy_value()

    return types.void(types.int32, words, types.int32), generate


def _make_mma(shape: str, kinds: tuple[str, str], counts: tuple[int, int, int]) -> Callable[..., Any]:
    """`counts`: the words of c, a and b that a lane has."""
    c_count, a_count, b_count = counts
    numbers = iter(range(c_count + a_count + b_count))
    d, a, b = ("{" + ", ".join(f"${next(numbers)}" for _ in range(count)) + "}" for count in counts)
    text = f"mma.sync.aligned.{shape}.row.col.s32.{kinds[0]}.{kinds[1]}.s32 {d}, {a}, {b}, {d};"
    constraints = ["=r"] * c_count + ["r"] * (a_count + b_count) + [str(i) for i in range(c_count)]

    @intrinsic
    def mma(typing_context: Any, sums: Any, i: Any, a: Any, j: Any, b: Any, k: Any) -> Any:
        """mma.sync: the product of a warp's fragments of a and b, added to its sums."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given = zip(signature.args[::2], arguments[::2], arguments[1::2], counts, strict=True)
            places = [
                [word_at(context, builder, kind, words, index, step) for step in range(count)]
                for kind, words, index, count in given
            ]
            values = [builder.load(place) for own in (*places[1:], places[0]) for place in own]
            product = _assembly(builder, text, ",".join(constraints), c_count, values)
            _put(context, builder, signature.args[0], arguments[0], arguments[1], product, c_count)
            return context.get_dummy_value()

        return types.void(sums, types.int32, a, types.int32, b, types.int32), generate

    return mma


def _make_mma_to(kinds: tuple[str, str]) -> Callable[..., Any]:
    shape, constraints = "m16n8k32", ",".join(["=r"] * 4 + ["r"] * 10)
    operands = "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13}"
    text = f"mma.sync.aligned.{shape}.row.col.s32.{kinds[0]}.{kinds[1]}.s32 {operands};"

    @intrinsic
    def mma_to(
        typing_context: Any, result: Any, h: Any, sums: Any, i: Any, a: Any, j: Any, b: Any, k: Any
    ) -> Any:  # fmt: skip
        """mma.sync: the product of a warp's fragments of a and b plus sums, which stay as they are."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            values = [
                builder.load(
                    word_at(context, builder, signature.args[place], arguments[place], arguments[place + 1], step)
                )
                for place, count in ((4, 4), (6, 2), (2, 4))
                for step in range(count)
            ]
            product = _assembly(builder, text, constraints, 4, values)
            _put(context, builder, signature.args[0], arguments[0], arguments[1], product, 4)
            return context.get_dummy_value()

        return types.void(result, types.int32, sums, types.int32, a, types.int32, b, types.int32), generate

    return mma_to


mma_m16n8k32_to = {kinds: _make_mma_to(kinds) for kinds in (("s8", "s8"), ("s8", "u8"))}
mma_m16n8k32 = {kinds: _make_mma("m16n8k32", kinds, (4, 4, 2)) for kinds in KINDS}
mma_m8n8k16 = {kinds: _make_mma("m8n8k16", kinds, (2, 1, 1)) for kinds in KINDS}
