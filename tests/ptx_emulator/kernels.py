"""Kernels written in Numba for the emulator's tests, each with a check of its compiled PTX against NumPy.

They meet what real kernels are made of: bounds, shared memory and barriers, shuffles, local arrays, dp4a, and a
pipeline of cp.async, ldmatrix and mma.sync. Needs the package numba-cuda, but no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import cuda
from numba.cuda import float32, int8, int32, int64, types
from numba.cuda.extending import intrinsic

from .counters import Counters
from .launch import launch
from .memory import Memory
from .parser import parse

Array = npt.NDArray[Any]
WORD = ir.IntType(32)
STAGE = 1536  # bytes of one stage: 32 rows of A and 16 rows of B, 32 bytes each
HALF = 1024


def quantize(x: Any, y: Any, inverse: Any, zero_point: Any) -> None:
    i = cuda.grid(1)
    if i < x.size:
        y[i] = int8(max(-128, min(127, int32(round(x[i] * inverse)) + zero_point)))


def block_sums(x: Any, y: Any) -> None:
    """One sum per block: a tree in shared memory, then one warp by shuffles."""
    tile = cuda.shared.array(256, int32)
    t = cuda.threadIdx.x
    tile[t] = x[cuda.blockIdx.x, t]
    cuda.syncthreads()
    half = 128
    while half >= 32:
        if t < half:
            tile[t] += tile[t + half]
        cuda.syncthreads()
        half //= 2
    if t < 32:
        value = tile[t]
        step = 16
        while step > 0:
            value = int32(value + cuda.shfl_down_sync(0xFFFFFFFF, value, step))
            step //= 2
        if t == 0:
            y[cuda.blockIdx.x] = value


def polynomial(x: Any, y: Any) -> None:
    """Local array indexed at run time, float32 and float64 arithmetic, integer division, a loop per thread."""
    i = cuda.grid(1)
    table = cuda.local.array(8, float32)
    for j in range(8):
        table[j] = x[i] * (j + 1)
    total = 0.0
    for j in range(i % 7 + 1):
        total += table[(i * 3 + j) % 8] / (j + 2)
    y[i] = math.sqrt(abs(total)) + i // 5


@intrinsic
def dp4a(context: Any, a: Any, b: Any, c: Any) -> Any:
    """dp4a.s32.s32."""

    def generate(_: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(32)
        function = ir.FunctionType(word, [word] * 3)
        return builder.call(ir.InlineAsm(function, "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r"), values)

    return types.int32(types.int32, types.int32, types.int32), generate


def dot_rows(a: Any, b: Any, c: Any) -> None:
    """c[m, n] = Σ a[m, k] b[n, k] by dp4a, 16 × 16 threads, tiles of 16 words in shared memory."""
    left = cuda.shared.array((16, 17), int32)
    right = cuda.shared.array((16, 17), int32)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    m, n = cuda.blockIdx.y * 16 + y, cuda.blockIdx.x * 16 + x
    total = int32(0)
    for start in range(0, a.shape[1], 16):
        left[y, x] = a[m, start + x]
        right[y, x] = b[cuda.blockIdx.x * 16 + y, start + x]
        cuda.syncthreads()
        for k in range(16):
            total = dp4a(left[y, k], right[x, k], total)
        cuda.syncthreads()
    c[m, n] = total


def emit(builder: Any, values: Any, text: str, constraints: str, results: int) -> Any:
    """An inline PTX statement with `results` 32-bit results."""
    kind = ir.LiteralStructType([WORD] * results) if results else ir.VoidType()
    function = ir.FunctionType(kind, [value.type for value in values])
    return builder.call(
        ir.InlineAsm(function, text, constraints + ",~{memory}", side_effect=True),
        values,
        attrs=("convergent", "nounwind"),
    )


def element(context: Any, builder: Any, kind: Any, array: Any, index: int) -> Any:
    """The pointer to an element of a local array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [WORD(index)])


@intrinsic
def shared_address(typing: Any, array: Any) -> Any:
    """The 32-bit address of a shared array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(builder.addrspacecast(data, ir.PointerType(data.type.pointee, addrspace=3)), WORD)

    return types.int32(array), generate


@intrinsic
def global_address(typing: Any, array: Any) -> Any:
    """The 64-bit address of a global array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(
            builder.addrspacecast(data, ir.PointerType(data.type.pointee, addrspace=1)), ir.IntType(64)
        )

    return types.int64(array), generate


@intrinsic
def copy16(typing: Any, to: Any, source: Any) -> Any:
    """cp.async of 16 bytes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit(builder, values, "cp.async.cg.shared.global [$0], [$1], 16;", "r,l", 0)
        return context.get_dummy_value()

    return types.void(types.int32, types.int64), generate


def plain(text: str) -> Any:
    """A device function for a PTX statement without operands."""

    @intrinsic
    def run(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(ir.InlineAsm(function, text, "~{memory}", side_effect=True), [])
            return context.get_dummy_value()

        return types.void(), generate

    return run


commit, wait_all_but_one, wait_all = (
    plain("cp.async.commit_group;"),
    plain("cp.async.wait_group 1;"),
    plain("cp.async.wait_group 0;"),
)


@intrinsic
def multiply(typing: Any, sums: Any, a: Any, b: Any) -> Any:
    """sums[0:4] += fragments loaded by ldmatrix from shared row addresses a (16 × 32 bytes) and b (8 × 32 bytes)."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = [element(context, builder, signature.args[0], values[0], i) for i in range(4)]
        left = emit(
            builder, [values[1]], "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];", "=r,=r,=r,=r,r", 4
        )
        right = emit(builder, [values[2]], "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {$0,$1}, [$2];", "=r,=r,r", 2)
        words = [builder.extract_value(left, i) for i in range(4)] + [builder.extract_value(right, i) for i in range(2)]
        words += [builder.load(pointer) for pointer in pointers]
        text = (
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        )
        found = emit(builder, words, text, "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r", 4)
        for i, pointer in enumerate(pointers):
            builder.store(builder.extract_value(found, i), pointer)
        return context.get_dummy_value()

    return types.void(sums, types.int32, types.int32), generate


def gemm(a: Any, b: Any, c: Any, depth: Any) -> None:
    """A block of 4 warps computes 32 × 16 of c = a · bᵀ; slabs of 32 along k, two stages; rows of 32 bytes,
    swizzled."""
    t = int32(cuda.threadIdx.x)
    lane, warp = int32(t & 31), int32(t >> 5)
    m, n = cuda.blockIdx.y * 32, cuda.blockIdx.x * 16
    base = shared_address(cuda.shared.array(0, int8, alignment=128))
    row, chunk = int32(t >> 1), int32(t & 1)
    source = global_address(a) + int64(m + row) * depth + chunk * 16
    if row >= 32:
        source = global_address(b) + int64(n + row - 32) * depth + chunk * 16
    to = int32(base + row * 32 + ((chunk ^ ((row >> 2) & 1)) << 4))
    r = int32((warp & 1) * 16 + (lane & 15))
    a_row = int32(base + r * 32 + (((lane >> 4) ^ ((r >> 2) & 1)) << 4))
    r = int32((warp >> 1) * 8 + (lane & 7))
    b_row = int32(base + HALF + r * 32 + ((((lane >> 3) & 1) ^ ((r >> 2) & 1)) << 4))
    sums = cuda.local.array(4, int32)
    for i in range(4):
        sums[i] = 0
    if t < 96:
        copy16(to, source)
    commit()
    k, stage = int32(32), int32(0)
    while k <= depth:
        if t < 96 and k < depth:
            copy16(int32(to + STAGE - stage), source + k)
        commit()
        wait_all_but_one()
        cuda.syncthreads()
        multiply(sums, int32(a_row + stage), int32(b_row + stage))
        cuda.syncthreads()
        stage = int32(STAGE - stage)
        k = int32(k + 32)
    wait_all()
    for i in range(4):
        c[m + (warp & 1) * 16 + (lane >> 2) + (i >> 1) * 8, n + (warp >> 1) * 8 + (lane & 3) * 2 + (i & 1)] = sums[i]


@dataclass(frozen=True)
class Case:
    """A kernel, the signature that it is compiled for, and `check`: runs PTX of it and asserts that its result is
    right."""

    kernel: Callable[..., None]
    signature: tuple[Any, ...]
    check: Callable[..., Counters]

    def compile(self, capability: tuple[int, int] = (8, 0)) -> str:
        """The kernel's PTX."""
        text, _ = cuda.compile_ptx(self.kernel, self.signature, cc=capability)
        return str(text)


def run(text: str, grid: Any, block: Any, arguments: list[Any], **options: Any) -> Counters:
    """Launch the only kernel of a PTX text; one that takes 2000 basic blocks is stuck."""
    module = parse(text)
    (name,) = (each.name for each in module.functions.values() if each.entry)
    return launch(module, name, grid, block, arguments, step_limit=2000, **options)


def check_quantize(text: str, seed: int = 0, count: int = 1003, **options: Any) -> Counters:
    """Against NumPy, on a length that fills no block."""
    values = np.random.default_rng(seed).normal(0, 60, count).astype(np.float32)
    memory = Memory()
    y = memory.empty(count, np.int8)
    arguments = [memory.upload(values), y, np.float32(0.7), 3]
    counters = run(text, math.ceil(count / 256), 256, arguments, seed=seed, **options)
    assert (y.numpy() == np.clip(np.rint(values * np.float32(0.7)) + 3, -128, 127)).all()
    return counters


def check_sums(text: str, seed: int = 0, blocks: int = 3) -> Counters:
    """Against the sums of the rows."""
    values = np.random.default_rng(seed).integers(-(10**6), 10**6, (blocks, 256)).astype(np.int32)
    memory = Memory()
    y = memory.empty(blocks, np.int32)
    counters = run(text, blocks, 256, [memory.upload(values), y], seed=seed)
    assert (y.numpy() == values.sum(axis=1)).all()
    return counters


def check_dot(text: str, seed: int = 0) -> Counters:
    """Against the exact product."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((48, 128), (32, 128)))
    memory = Memory()
    c = memory.empty((48, 32), np.int32)
    arguments = [memory.upload(a.view(np.int32)), memory.upload(b.view(np.int32)), c]
    counters = run(text, (2, 3), (16, 16), arguments, seed=seed)
    assert (c.numpy() == a.astype(np.int32) @ b.T.astype(np.int32)).all()
    return counters


def check_gemm(text: str, seed: int = 0, m: int = 64, n: int = 32, k: int = 96) -> Counters:
    """Against the exact product."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-128, 128, (rows, k)).astype(np.int8) for rows in (m, n))
    memory = Memory()
    c = memory.empty((m, n), np.int32, "c")
    arguments = [memory.upload(a, "a"), memory.upload(b, "b"), c, k]
    counters = run(text, (n // 16, m // 32), 128, arguments, dynamic_shared=2 * STAGE, seed=seed)
    assert (c.numpy() == a.astype(np.int32) @ b.T.astype(np.int32)).all()
    return counters


WORDS, BYTES = types.int32[:, ::1], types.int8[:, ::1]
CASES = {
    "quantize": Case(quantize, (types.float32[::1], types.int8[::1], types.float32, types.int32), check_quantize),
    "sums": Case(block_sums, (WORDS, types.int32[::1]), check_sums),
    "dot": Case(dot_rows, (WORDS, WORDS, WORDS), check_dot),
    "gemm": Case(gemm, (BYTES, BYTES, WORDS, types.int32), check_gemm),
}
