"""State spaces, vectors, alignments and atomics of the emulator, on hand-written PTX."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ptx_emulator import AccessError, LaunchError, Memory, RaceError, launch
from ptx_emulator.texts import apply, kernel

Array = npt.NDArray[Any]

LANES = 192


INDEX = np.arange(LANES, dtype=np.int32)


def on_lanes(line: str, values: Array = INDEX) -> list[int]:
    """d for every lane, a being the lane's value."""
    return apply(line, "s32", a=("s32", values)).tolist()


def test_local_memory_and_generic_addresses() -> None:
    body = """.local .align 8 .b8 depot[16]; .reg .b64 sp, spl, at, y, sh; .reg .b32 t, v, w; .reg .pred p;
    mov.u64 spl, depot; cvta.local.u64 sp, spl; mov.u32 t, %tid.x; st.local.u32 [spl+4], t; mul.lo.u32 v, t, 3;
    st.u32 [sp+8], v;
    mov.u64 sh, word; cvta.shared.u64 sh, sh; mad.wide.u32 sh, t, 4, sh; st.b32 [sh], t;
    ld.param.u64 y, [out]; cvta.to.global.u64 y, y; mad.wide.u32 at, t, 4, y; st.b32 [at], v;
    add.u64 sp, sp, 8; setp.lt.u32 p, t, 20; selp.b64 at, at, sp, p; setp.lt.u32 p, t, 40; selp.b64 at, at, sh, p;
    ld.u32 v, [at+0]; ld.local.u32 w, [spl+8]; add.u32 v, v, w; mad.wide.u32 at, t, 4, y; st.global.b32 [at], v;"""
    module = kernel(body, "u64 out", ".shared .align 8 .b8 word[256];")
    memory = Memory()
    out = memory.empty(64, np.int32)
    launch(module, "test", 1, 64, [out.buffer])
    tid = np.arange(64)
    assert (out.numpy() == np.where(tid < 40, 6 * tid, 4 * tid)).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ld.local.b32 d, [depot+16];", "outside"),
        ("ld.local.b32 d, [depot+2];", "misaligned"),
        ("st.local.v2.b32 [depot+4], {a, a};", "misaligned"),
    ],
)
def test_local_memory_is_checked(line: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        on_lanes(".local .align 8 .b8 depot[16]; mov.b32 d, 0;" + line)


def test_declared_alignment_is_all_there_is() -> None:
    """Shared memory declared with alignment 4 must not pass as aligned to 16."""
    body = ".reg .b32 s, v; mov.u32 s, tile; mov.b32 v, 0; st.shared.v4.b32 [s], {v, v, v, v};"
    launch(kernel(body, "", ".shared .align 16 .b8 tile[64];"), "test", 1, 1, [])
    launch(kernel(body, "", ".extern .shared .align 16 .b8 tile[];"), "test", 1, 1, [], dynamic_shared=64)
    for before, size in ((".shared .align 4 .b8 tile[64];", 0), (".extern .shared .align 1 .b8 tile[];", 64)):
        with pytest.raises(Exception, match="not aligned to 16|is not aligned"):
            launch(kernel(body, "", before), "test", 1, 1, [], dynamic_shared=size)


def test_constants_and_module_variables() -> None:
    before = """.const .align 4 .u32 table[4] = {10, 20, -1, 0xFF}; .global .align 8 .f64 number = 0d3FF8000000000000;
    .global .align 4 .u32 cell;"""
    body = """.reg .b64 at, y; .reg .b32 t, v; .reg .f64 f; mov.u32 t, %tid.x; and.b32 v, t, 3; mov.u64 at, table;
    mad.wide.u32 at, v, 4, at; ld.const.u32 v, [at]; ld.global.f64 f, [number]; cvt.rni.s32.f64 t, f; add.s32 v, v, t;
    mov.u32 t, %tid.x; ld.param.u64 y, [out]; mad.wide.u32 at, t, 4, y; st.global.u32 [at], v;
    ld.global.u32 v, [cell];"""
    memory = Memory()
    out = memory.empty(32, np.int32)
    launch(kernel(body, "u64 out", before), "test", 1, 32, [out.buffer])
    assert out.numpy().tolist() == [12, 22, 1, 257] * 8


def test_vectors_and_narrow_types() -> None:
    body = """.reg .b64 x, y, at; .reg .b16 h<4>; .reg .b32 t, v<4>; mov.u32 t, %tid.x; ld.param.u64 x, [in];
    ld.param.u64 y, [out];
    mad.wide.u32 at, t, 8, x; ld.global.v4.s8 {v0, v1, v2, v3}, [at];
    ld.global.nc.L1::no_allocate.v2.u16 {h0, h1}, [at+4];
    mad.wide.u32 at, t, 24, y; st.global.v2.b32 [at], {v0, v1}; st.global.v2.b32 [at+8], {v2, v3};
    cvt.u32.u16 v0, h0; cvt.s32.s16 v1, h1; st.global.wt.v2.b32 [at+16], {v0, v1};"""
    memory = Memory()
    values = np.random.default_rng(0).integers(0, 256, (32, 8), np.uint8)
    out = memory.empty((32, 6), np.int32)
    launch(kernel(body, "u64 in, u64 out"), "test", 1, 32, [memory.upload(values).buffer, out.buffer])
    wanted = np.concatenate(
        [values[:, :4].view(np.int8), values[:, 4:6].copy().view(np.uint16), values[:, 6:].copy().view(np.int16)],
        axis=1,
        dtype=np.int32,
    )
    assert (out.numpy() == wanted).all()


ATOMIC = """.reg .b64 x, y, at; .reg .b32 t, b, v, c; .reg .f32 f; mov.u32 t, %tid.x; mov.u32 b, %ctaid.x;
    mad.lo.u32 t, b, 64, t;
and.b32 v, t, 3; ld.param.u64 x, [cells]; mad.wide.u32 x, v, 4, x; ld.param.u64 y, [out]; mad.wide.u32 at, t, 4, y;
    add.s32 v, t, -50;
{} st.global.b32 [at], v;"""


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("add", "s32", np.add),
        ("min", "s32", np.minimum),
        ("max", "s32", np.maximum),
        ("max", "u32", np.maximum),
        ("and", "b32", np.bitwise_and),
        ("or", "b32", np.bitwise_or),
        ("xor", "b32", np.bitwise_xor),
    ],
)
def test_atomics(name: str, kind: str, function: Any) -> None:
    values = np.arange(256, dtype=np.int32) - 50
    seen = values.view(np.uint32) if kind == "u32" else values
    start = np.array([5, -7, 3, 1], np.int32)
    for form in (f"atom.global.{name}.{kind} v, [x], v;", f"red.relaxed.gpu.global.{name}.{kind} [x], v;"):
        memory = Memory()
        cells, out = memory.upload(start, read_only=False), memory.empty(256, np.int32)
        launch(kernel(ATOMIC.format(form), "u64 cells, u64 out"), "test", 4, 64, [cells.buffer, out.buffer])
        wanted = [function.reduce(np.r_[start.view(seen.dtype)[i], seen[i::4]], dtype=seen.dtype) for i in range(4)]
        assert (cells.numpy().view(seen.dtype) == wanted).all()


def test_atomic_results_are_one_order() -> None:
    """exch and inc hand out every value once; cas takes one winner per cell; the order depends on the seed alone."""
    orders = []
    for seed in (0, 0, 1):
        memory = Memory()
        cells, out = memory.upload(np.zeros(4, np.int32), read_only=False), memory.empty(256, np.int32)
        launch(
            kernel(ATOMIC.format("atom.global.inc.u32 v, [x], 1000;"), "u64 cells, u64 out"),
            "test",
            4,
            64,
            [cells.buffer, out.buffer],
            seed=seed,
        )
        orders.append(out.numpy())
        assert all(sorted(out.numpy()[i::4]) == list(range(64)) for i in range(4))
    assert (orders[0] == orders[1]).all()
    assert (orders[0] != orders[2]).any()
    memory = Memory()
    cells, out = memory.upload(np.full(4, -1, np.int32), read_only=False), memory.empty(256, np.int32)
    launch(
        kernel(ATOMIC.format("atom.cas.b32 v, [x], -1, t;"), "u64 cells, u64 out"),
        "test",
        4,
        64,
        [cells.buffer, out.buffer],
    )
    assert [(out.numpy()[i::4] == -1).sum() for i in range(4)] == [1] * 4
    assert all(out.numpy()[cells.numpy()[i]] == -1 for i in range(4))


def test_atomics_and_plain_accesses_conflict() -> None:
    body = """.reg .b32 s, t, v; .reg .pred p; mov.u32 s, cell; mov.u32 t, %tid.x; setp.eq.u32 p, t, 0; mov.b32 v, 0;
    @p st.shared.b32 [s], v; {} atom.shared.add.u32 v, [s], 1; {} ld.shared.b32 v, [s];"""
    before = ".shared .align 4 .b32 cell;"
    launch(kernel(body.format("bar.sync 0;", "bar.sync 0;"), "", before), "test", 1, 64, [])
    for first, second in (("bar.sync 0;", ""), ("", "bar.sync 0;")):
        with pytest.raises(Exception, match="shared"):
            launch(kernel(body.format(first, second), "", before), "test", 1, 64, [])
    memory = Memory()
    cells, out = memory.upload(np.zeros(4, np.int32), read_only=False), memory.empty(256, np.int32)
    strong = "red.global.add.u32 [x], 1; ld.volatile.global.b32 v, [x];"
    launch(kernel(ATOMIC.format(strong), "u64 cells, u64 out"), "test", 4, 64, [cells.buffer, out.buffer])
    assert out.numpy().max() == 64
    plain = "red.global.add.u32 [x], 1; ld.global.b32 v, [x];"
    with pytest.raises(RaceError, match="another block"):
        launch(kernel(ATOMIC.format(plain), "u64 cells, u64 out"), "test", 4, 64, [cells.buffer, out.buffer])


def test_huge_offsets() -> None:
    """Byte offsets beyond 2^31: right in 64 bits, and an error in 32 (the buffer's pages are never touched)."""
    size = (1 << 31) + 4096
    try:
        np.zeros(size, np.int64)
    except MemoryError:
        pytest.skip("needs 16 GiB of address space for one array")
    memory = Memory()
    buffer = memory.allocate(size, "large")
    body = """.reg .b64 x, at; .reg .b32 t; mov.u32 t, %tid.x; ld.param.u64 x, [p];
    mad.wide.u32 at, t, {}, x; st.global.b32 [at], t;"""
    launch(kernel(body.format((1 << 26) + 64), "u64 p"), "test", 1, 32, [buffer])
    assert buffer.read(31 * ((1 << 26) + 64), 4).view(np.int32)[0] == 31
    narrow = body.replace("mad.wide.u32 at, t, {}, x;", "mul.lo.u32 t, t, {}; cvt.s64.s32 at, t; add.s64 at, at, x;")
    with pytest.raises(AccessError, match="belongs to no buffer"):
        launch(kernel(narrow.format((1 << 26) + (1 << 20)), "u64 p"), "test", 1, 33, [buffer])


def test_device_arrays_expand_like_numba() -> None:
    memory = Memory()
    array = memory.upload(np.zeros((3, 5), np.int16))
    assert array.parameters() == (0, 0, 15, 2, array.buffer.address, 3, 5, 10, 2)
    with pytest.raises(LaunchError, match="copy"):
        array.buffer.write(20, np.zeros(6, np.int16))
