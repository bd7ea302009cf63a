"""Each function of ptx_tensor.py is one instruction in the PTX, and does on the emulator what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cuda import ptx  # noqa: E402
from gpuq.cuda.numba_cuda import Compiled, cuda, types  # noqa: E402
from gpuq.cuda.ptx_tensor import (  # noqa: E402
    KINDS,
    cp_async16,
    cp_async_commit,
    cp_async_wait,
    ldmatrix_x4,
    load16_or_zeros,
    mma_m8n8k16,
    mma_m16n8k32,
)
from ptx_emulator import AsyncCopyError, Memory, launch, parse  # noqa: E402

BYTES = 2048  # of shared memory, 16 for each of 128 lanes
Kernel = Callable[..., None]


def compile_ptx(function: Kernel, parameters: int, capability: tuple[int, int] = (8, 0)) -> tuple[str, str]:
    """The PTX of a kernel of addresses and numbers, and its entry."""
    compiled = Compiled(function, (types.int64,) * parameters, 32, 1)
    return compiled.ptx(capability), compiled.entry


def instructions(text: str, pattern: str) -> list[str]:
    """All instructions that match, without predicate and operands."""
    return re.findall(rf"(?m)^\s*(?:@!?%?\w+ )?.*?\b({pattern}[\w.:]*)", text)


def run(text: str, entry: str, *arguments: Any) -> None:
    launch(parse(text), entry, 1, 32, list(arguments))


# ---- copies ----


def make_copy(pending: int) -> Kernel:
    wait = cp_async_wait[pending]

    def copy(source: int, result: int, ignored: int) -> None:
        lane = types.int64(cuda.threadIdx.x)
        tile = ptx.shared_address(cuda.shared.array(BYTES, types.uint8, alignment=128))
        own = types.int32(tile + lane * 16)
        cp_async16(own, source + lane * 16, types.int32(ignored == 1 and lane % 2 == 1))
        cp_async_commit()
        wait()
        words = cuda.local.array(4, types.uint32)
        ptx.load16_shared(own, words, 0)
        ptx.store16(result + lane * 16, words, 0)

    return copy


def test_asynchronous_copies() -> None:
    text, entry = compile_ptx(make_copy(0), 3)
    assert instructions(text, r"cp\.async") == [
        "cp.async.cg.shared.global.L2::128B", "cp.async.commit_group", "cp.async.wait_group"
    ]  # fmt: skip
    source = np.random.default_rng(0).integers(0, 1 << 32, (32, 4), np.uint32)
    for ignored in (0, 1):
        memory = Memory()
        result = memory.empty((32, 4), np.uint32)
        run(text, entry, memory.upload(source).buffer, result.buffer, ignored)
        expected = source.copy()
        expected[1::2] *= 1 - ignored
        assert (result.numpy() == expected).all()


def test_what_is_ignored_is_not_read() -> None:
    """The lanes that ignore their source may point beyond the array."""
    text, entry = compile_ptx(make_copy(0), 3)
    source = np.arange(31 * 4, dtype=np.uint32)
    memory = Memory()
    result = memory.empty((32, 4), np.uint32)
    run(text, entry, memory.upload(source).buffer, result.buffer, 1)
    assert (result.numpy()[:31:2].reshape(-1, 4) == source.reshape(31, 4)[::2]).all()
    assert not result.numpy()[31].any()


def test_a_weaker_wait_is_seen() -> None:
    text, entry = compile_ptx(make_copy(1), 3)
    assert "cp.async.wait_group 1;" in text
    memory = Memory()
    result = memory.empty((32, 4), np.uint32)
    with pytest.raises(AsyncCopyError):
        run(text, entry, memory.upload(np.zeros(128, np.uint32)).buffer, result.buffer, 0)


def load(source: int, result: int, zeros: int) -> None:
    lane = types.int64(cuda.threadIdx.x)
    words = cuda.local.array(4, types.uint32)
    load16_or_zeros(source + lane * 16, types.int32(zeros == 1 and lane % 2 == 1), words, 0)
    ptx.store16(result + lane * 16, words, 0)


def test_loads_or_zeros() -> None:
    text, entry = compile_ptx(load, 3, (7, 5))
    assert instructions(text, r"ld\.global") == ["ld.global.v4.b32"]
    source = np.random.default_rng(1).integers(0, 1 << 32, (31, 4), np.uint32)
    memory = Memory()
    result = memory.empty((32, 4), np.uint32)
    run(text, entry, memory.upload(source).buffer, result.buffer, 1)
    assert (result.numpy()[:31:2] == source[::2]).all()
    assert not result.numpy()[1::2].any()


# ---- matrices ----


def matrices(source: int, result: int) -> None:
    lane = types.int64(cuda.threadIdx.x)
    tile = ptx.shared_address(cuda.shared.array(BYTES, types.uint8, alignment=128))
    words = cuda.local.array(8, types.uint32)
    ptx.load16(source + lane * 16, words, 0)
    ptx.store16_shared(types.int32(tile + lane * 16), words, 0)
    cuda.syncwarp()
    ldmatrix_x4(types.int32(tile + lane * 16), words, 4)
    ptx.store16(result + lane * 16, words, 4)


def test_four_matrices() -> None:
    text, entry = compile_ptx(matrices, 2)
    assert instructions(text, "ldmatrix") == ["ldmatrix.sync.aligned.m8n8.x4.shared.b16"]
    rows = np.random.default_rng(2).integers(0, 1 << 32, (4, 8, 4), np.uint32)
    memory = Memory()
    result = memory.empty((32, 4), np.uint32)
    run(text, entry, memory.upload(rows).buffer, result.buffer)
    assert (result.numpy() == rows.reshape(4, 32).T).all()


def make_product(kinds: tuple[str, str], large: bool) -> Kernel:
    multiply = mma_m16n8k32[kinds] if large else mma_m8n8k16[kinds]
    c_count, a_count, b_count = (4, 4, 2) if large else (2, 1, 1)
    load_word, load_sum, store_sum = ptx.load[types.uint32], ptx.load[types.int32], ptx.store[types.int32]

    def product(a_source: int, b_source: int, c: int, result: int) -> None:
        lane = types.int64(cuda.threadIdx.x)
        a, b = cuda.local.array(8, types.uint32), cuda.local.array(8, types.uint32)
        sums = cuda.local.array(8, types.int32)
        for i in range(a_count):
            a[i + 1] = load_word(a_source + (lane * a_count + i) * 4)
        for i in range(b_count):
            b[i + 2] = load_word(b_source + (lane * b_count + i) * 4)
        for i in range(c_count):
            sums[i + 3] = load_sum(c + (lane * c_count + i) * 4)
        multiply(sums, 3, a, 1, b, 2)
        for i in range(c_count):
            store_sum(result + (lane * c_count + i) * 4, sums[i + 3])

    return product


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_products(kinds: tuple[str, str], large: bool) -> None:
    """All elements of a and b are alike, so every sum is k · a · b whichever lane has it; test_ptx_emulator_tensor.py
    has the layouts.
    """
    text, entry = compile_ptx(make_product(kinds, large), 4, (8, 0) if large else (7, 5))
    shape, k = ("m16n8k32", 32) if large else ("m8n8k16", 16)
    assert instructions(text, "mma") == [f"mma.sync.aligned.{shape}.row.col.s32.{kinds[0]}.{kinds[1]}.s32"]
    a, b = (np.full(512, 0xFE, np.uint8) for _ in range(2))
    memory = Memory()
    c = np.arange(32 * (4 if large else 2), dtype=np.int32)
    d = memory.empty(c.shape, np.int32)
    run(text, entry, memory.upload(a).buffer, memory.upload(b).buffer, memory.upload(c).buffer, d.buffer)
    left, right = (-2 if kind == "s8" else 254 for kind in kinds)
    assert (d.numpy() == c + k * left * right).all()
