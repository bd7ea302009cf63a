"""Planted faults: each kernel is right as written and wrong after one edit, and the emulator must find every edit."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import (
    AccessError,
    AsyncCopyError,
    BarrierError,
    EmulationError,
    LaunchError,
    Memory,
    RaceError,
    StepLimitError,
    UninitializedError,
    launch,
    parse,
)
from ptx_emulator.texts import HEAD, kernel

SEEDS = range(3)

REVERSE = """
.reg .b32 t, n, s, a, v; .reg .b64 x, y, at; .reg .pred p, q;
mov.u32 t, %tid.x; mov.u32 n, %ntid.x; mov.u32 s, tile;
ld.param.u64 x, [x_pointer]; ld.param.u64 y, [y_pointer];
mov.u32 a, %ctaid.x; mad.lo.u32 a, a, n, t; mad.wide.u32 at, a, 4, x;
ld.global.b32 v, [at];
mad.lo.u32 a, t, 4, s;
st.shared.b32 [a], v;
bar.sync 0;
sub.s32 t, n, t; add.s32 t, t, -1;
mad.lo.u32 a, t, 4, s;
ld.shared.b32 v, [a];
mov.u32 a, %ctaid.x; mov.u32 t, %tid.x; mad.lo.u32 a, a, n, t; mad.wide.u32 at, a, 4, y;
st.global.b32 [at], v;
"""


def reverse(edit: tuple[str, str] | None = None, seed: int = 0, threads: int = 128) -> None:
    """Reverse every block's part of x into y, through shared memory."""
    body = REVERSE
    if edit is not None:
        assert body.count(edit[0]) >= 1
        body = body.replace(*edit)
    module = kernel(body, "u64 x_pointer, u64 y_pointer", ".shared .align 4 .b8 tile[512];")
    values = np.arange(4 * threads, dtype=np.int32)
    memory = Memory()
    y = memory.empty(values.size, np.int32, "y")
    launch(module, "test", 4, threads, [memory.upload(values, "x").buffer, y.buffer], seed=seed)
    assert (y.numpy().reshape(4, -1) == values.reshape(4, -1)[:, ::-1]).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_as_written(seed: int) -> None:
    reverse(seed=seed)
    reverse(seed=seed, threads=100)


EDITS: dict[str, tuple[tuple[str, str], type[EmulationError], str]] = {
    "missing barrier": (("bar.sync 0;", ""), EmulationError, "shared address"),
    "barrier of a warp only": (("bar.sync 0;", "bar.warp.sync -1;"), EmulationError, "shared address"),
    "read past the input": (
        ("ld.global.b32 v, [at];", "ld.global.b32 v, [at+4];"),
        AccessError,
        "byte 2048 of buffer x",
    ),
    "write before the output": (
        ("st.global.b32 [at], v;", "st.global.b32 [at+-4], v;"),
        AccessError,
        "byte -4 of buffer y",
    ),
    "misaligned read": (("ld.global.b32 v, [at];", "ld.global.b32 v, [at+2];"), AccessError, "not aligned to 4"),
    "misaligned vector": (
        ("ld.global.b32 v, [at];", "ld.global.v2.b32 {v, a}, [at];"),
        AccessError,
        "not aligned to 8",
    ),
    "write to the input": (("mad.wide.u32 at, a, 4, y;", "mad.wide.u32 at, a, 4, x;"), AccessError, "x.*read-only"),
    "shared offset": (("ld.shared.b32 v, [a];", "ld.shared.b32 v, [a+16];"), EmulationError, "shared address"),
    "shared misaligned": (("ld.shared.b32 v, [a];", "ld.shared.b32 v, [a+1];"), AccessError, "not aligned"),
    "two threads on one shared word": (
        ("mad.lo.u32 a, t, 4, s;\nst", "mad.lo.u32 a, 0, 4, s;\nst"),
        RaceError,
        "two threads",
    ),
    "partly shared bytes": (
        ("st.shared.b32 [a], v;", "add.u32 a, a, s; sub.u32 a, a, s; st.shared.b16 [a], v;"),
        EmulationError,
        "never|nobody|Nobody",
    ),
    "divergent barrier": (("bar.sync 0;", "setp.lt.u32 p, t, 16; @!p bra OVER; bar.sync 0; OVER:"), EmulationError, ""),
    "barrier of some warps": (
        ("bar.sync 0;", "setp.lt.u32 p, t, 64; @!p bra OVER; bar.sync 0; OVER:"),
        EmulationError,
        "",
    ),
    "early return": (("bar.sync 0;", "setp.gt.u32 p, t, 120; @p ret; bar.sync 0;"), BarrierError, "bar.sync"),
    "two barriers": (
        ("bar.sync 0;", "setp.lt.u32 p, t, 64; @p bra ONE; bar.sync 0; bra.uni OVER; ONE: bar.sync 0; OVER:"),
        BarrierError,
        "other warps",
    ),
    "two blocks on one byte": (
        ("mad.wide.u32 at, a, 4, y;", "mov.b32 a, t; mad.wide.u32 at, a, 4, y;"),
        RaceError,
        "block",
    ),
    "null pointer": (("ld.param.u64 x, [x_pointer];", "mov.b64 x, 0;"), AccessError, "belongs to no buffer"),
    "address cut to 32 bits": (
        ("ld.global.b32 v, [at];", "cvt.u32.u64 a, at; cvt.u64.u32 at, a; ld.global.b32 v, [at];"),
        AccessError,
        "belongs to no buffer",
    ),
    "endless loop": (("bar.sync 0;", "LOOP: bra LOOP;"), StepLimitError, "basic blocks"),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", list(EDITS))
def test_edit_is_caught(name: str, seed: int) -> None:
    edit, error, message = EDITS[name]
    with pytest.raises(error, match=f"(?s).*{message}"):
        reverse(edit, seed)


def test_the_message_names_instruction_thread_and_address() -> None:
    with pytest.raises(AccessError) as caught:
        reverse(EDITS["read past the input"][0])
    text = str(caught.value)
    assert "ld.global.b32 v, [at+4];" in text
    assert "line 12" in text
    assert "thread (127, 0, 0)" in text
    assert "block 3" in text
    assert f"{(2 << 36) + 256 + 2048:#x}" in text


def test_unwritten_output_is_an_error() -> None:
    with pytest.raises(UninitializedError, match="y: 4 of 2048 bytes never written, the first at 28"):
        reverse(("st.global.b32 [at], v;", "setp.ne.u32 p, a, 7; @p st.global.b32 [at], v;"))


def test_reading_the_output_before_writing_is_an_error() -> None:
    with pytest.raises(UninitializedError, match="nobody has written"):
        reverse(("st.global.b32 [at], v;", "ld.global.b32 v, [at]; st.global.b32 [at], v;"))


def test_shared_memory_never_written() -> None:
    with pytest.raises(UninitializedError, match="nobody has written"):
        reverse(("st.shared.b32 [a], v;", "setp.ne.u32 p, t, 3; @p st.shared.b32 [a], v;"))


def test_a_write_while_another_warp_still_reads() -> None:
    """The second barrier of a loop over tiles is missing: caught whatever the order of the warps."""
    again = "ld.shared.b32 v, [a];\nmov.u32 t, %tid.x; mad.lo.u32 a, t, 4, s; st.shared.b32 [a], v;"
    for seed in SEEDS:
        with pytest.raises(RaceError, match="read by another thread|written by another thread"):
            reverse(("ld.shared.b32 v, [a];", again), seed)
        reverse(("ld.shared.b32 v, [a];", again.replace("st.shared", "bar.sync 0; st.shared")), seed)


WARP_EXCHANGE = """
.reg .b32 t, s, a, v; mov.u32 t, %tid.x; mov.u32 s, tile; mad.lo.u32 a, t, 4, s; st.shared.b32 [a], t;
bar.warp.sync -1;
xor.b32 a, a, 4; ld.shared.b32 v, [a];
"""


def test_warp_barrier_orders_its_warp_only() -> None:
    before = ".shared .align 128 .b8 tile[512];"
    aligned = WARP_EXCHANGE.replace("mad.lo.u32 a, t, 4, s;", "mad.lo.u32 a, t, 4, s;")
    launch(kernel(aligned, "", before), "test", 1, 128, [])
    with pytest.raises(RaceError):
        launch(kernel(aligned.replace("bar.warp.sync -1;", ""), "", before), "test", 1, 128, [])
    with pytest.raises(EmulationError, match="shared address"):
        launch(kernel(aligned.replace("xor.b32 a, a, 4;", "xor.b32 a, a, 128;"), "", before), "test", 1, 128, [])


COPY = """
.reg .b32 t, s, a, b, v, w; .reg .b64 x, y, at; .reg .pred p;
mov.u32 t, %tid.x; mov.u32 s, tile; ld.param.u64 x, [x_pointer]; ld.param.u64 y, [y_pointer];
mad.wide.u32 at, t, 16, x; mad.lo.u32 a, t, 16, s; setp.eq.u32 p, t, 5;
cp.async.cg.shared.global.L2::128B [a], [at], 16;
cp.async.commit_group;
add.u64 at, at, 2048;
cp.async.ca.shared.global [a+2048], [at], 16, p;
cp.async.commit_group;
cp.async.wait_group 1;
bar.sync 0;
xor.b32 b, a, 64; ld.shared.b32 v, [b];
cp.async.wait_group 0;
bar.sync 0;
ld.shared.b32 w, [b+2048]; add.s32 v, v, w;
mad.wide.u32 at, t, 4, y; st.global.b32 [at], v;
"""


def copy(edit: tuple[str, str] | None = None, seed: int = 0) -> None:
    """Two stages of cp.async, the second one ignored by thread 5."""
    body = COPY
    if edit is not None:
        assert body.count(edit[0]) == 1
        body = body.replace(*edit)
    module = kernel(body, "u64 x_pointer, u64 y_pointer", ".shared .align 128 .b8 tile[4096];", target=80)
    values = np.random.default_rng(0).integers(-1000, 1000, 1024).astype(np.int32)
    memory = Memory()
    y = memory.empty(128, np.int32)
    launch(module, "test", 1, 128, [memory.upload(values).buffer, y.buffer], seed=seed)
    rows = values.reshape(2, 128, 4)[:, :, 0]
    rows[1, 5] = 0
    assert (y.numpy() == (rows[0] + rows[1])[np.arange(128) ^ 4]).all()


COPY_EDITS: dict[str, tuple[tuple[str, str], type[EmulationError]]] = {
    "wait missing": (("cp.async.wait_group 1;", ""), AsyncCopyError),
    "wait too weak": (("cp.async.wait_group 1;", "cp.async.wait_group 2;"), AsyncCopyError),
    "second wait missing": (("cp.async.wait_group 0;", ""), AsyncCopyError),
    "commit missing": (("16, p;\ncp.async.commit_group;", "16, p;"), AsyncCopyError),
    "barrier after the wait missing": (
        ("cp.async.wait_group 1;\nbar.sync 0;", "cp.async.wait_group 1;"),
        EmulationError,
    ),
    "source misaligned": (("add.u64 at, at, 2048;", "add.u64 at, at, 2052;"), AccessError),
    "source outside": (("add.u64 at, at, 2048;", "add.u64 at, at, 2064;"), AccessError),
    "two copies to one place": (("mad.lo.u32 a, t, 16, s;", "and.b32 a, t, 63; mad.lo.u32 a, a, 16, s;"), RaceError),
    "onto a stage still read": (
        (
            "cp.async.wait_group 0;",
            "xor.b32 b, b, 64; cp.async.ca.shared.global [b], [x], 16;cp.async.wait_all; xor.b32 b, b, 64;",
        ),
        RaceError,
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_asynchronous_copies(seed: int) -> None:
    copy(seed=seed)
    copy(("cp.async.wait_group 0;", "cp.async.wait_all;"), seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", list(COPY_EDITS))
def test_copy_edit_is_caught(name: str, seed: int) -> None:
    edit, error = COPY_EDITS[name]
    with pytest.raises(error):
        copy(edit, seed)


def test_source_size_fills_with_zeros() -> None:
    body = """.reg .b32 t, s, a, n, v; .reg .b64 x, y, at; mov.u32 t, %tid.x; mov.u32 s, tile; and.b32 n, t, 15;
    ld.param.u64 x, [x_pointer]; ld.param.u64 y, [y_pointer]; mad.wide.u32 at, t, 16, x; mad.lo.u32 a, t, 16, s;
    cp.async.cg.shared.global [a], [at], 16, n; cp.async.wait_all;
    .reg .b32 v<4>; ld.shared.v4.b32 {v0, v1, v2, v3}, [a]; mad.wide.u32 at, t, 16, y;
    st.global.v4.b32 [at], {v0, v1, v2, v3};"""
    module = kernel(body, "u64 x_pointer, u64 y_pointer", ".shared .align 16 .b8 tile[512];", target=80)
    values = np.random.default_rng(0).integers(1, 256, (32, 16), np.uint8)
    memory = Memory()
    y = memory.empty((32, 16), np.uint8)
    launch(module, "test", 1, 32, [memory.upload(values).buffer, y.buffer])
    keep = np.arange(16) < (np.arange(32) & 15)[:, None]
    assert (y.numpy() == np.where(keep, values, 0)).all()


def test_blocks_that_read_what_others_write() -> None:
    """In place, shifted by one block: reading first or writing first, it is a race between blocks."""
    body = """.reg .b32 t, b, v; .reg .b64 x, at; mov.u32 t, %tid.x; mov.u32 b, %ctaid.x; mad.lo.u32 t, b, 32, t;
    ld.param.u64 x, [x_pointer]; mad.wide.u32 at, t, 4, x; ld.global.b32 v, [at+128]; st.global.b32 [at], v;"""
    memory = Memory()
    x = memory.upload(np.zeros(4 * 32, np.int32), "x", read_only=False)
    with pytest.raises(RaceError, match="another block"):
        launch(kernel(body, "u64 x_pointer"), "test", 3, 32, [x.buffer])


def test_threads_of_a_block_on_global_memory() -> None:
    """What one thread writes another thread of the block may read or write behind a barrier only."""
    body = """.reg .b32 t, v; .reg .b64 x, at, to; mov.u32 t, %tid.x; ld.param.u64 x, [x_pointer];
    mad.wide.u32 at, t, 4, x;
    xor.b32 v, t, 32; mad.wide.u32 to, v, 4, x; st.global.b32 [at], t; bar.sync 0;
    {} bar.sync 0; st.global.b32 [to], v; bar.sync 0; ld.global.b32 v, [at];"""
    for seed in SEEDS:
        right = body.format("ld.global.b32 v, [to];")
        for index in range(4):
            parts = right.split("bar.sync 0;")
            if index:
                parts[index - 1 : index + 1] = [parts[index - 1] + parts[index]]
            memory = Memory()
            x = memory.empty(64, np.int32, "x")
            module = kernel("bar.sync 0;".join(parts), "u64 x_pointer")
            if index in (0, 2):  # all barriers, or without the second: each thread writes what it alone has read
                launch(module, "test", 1, 64, [x.buffer], seed=seed)
                continue
            with pytest.raises(EmulationError, match="another thread|nobody has written"):
                launch(module, "test", 1, 64, [x.buffer], seed=seed)


def test_freed_buffers_and_other_devices() -> None:
    module = kernel(".reg .b64 x; .reg .b32 v; ld.param.u64 x, [p]; ld.global.b32 v, [x];", "u64 p, u64 q")
    memory, other = Memory(), Memory()
    x, y = memory.upload(np.zeros(4, np.int32)), other.upload(np.zeros(4, np.int32))
    with pytest.raises(LaunchError, match="different devices"):
        launch(module, "test", 1, 32, [x.buffer, y.buffer])
    launch(module, "test", 1, 32, [x.buffer, 0])
    memory.free(x.buffer)
    with pytest.raises(AccessError, match="belongs to no buffer"):
        launch(module, "test", 1, 32, [x.buffer, 0])
    for use in (x.numpy, lambda: x.buffer.write(0, np.zeros(1)), lambda: memory.free(x.buffer)):
        with pytest.raises(LaunchError):
            use()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([1], "takes 2 parameters"),
        ([2**64, 1.0], "does not fit"),
        ([1, "x"], "does not fit"),
        ([1.5, 1.0], "does not fit"),
    ],
)
def test_arguments_are_checked(arguments: list[object], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        launch(kernel("", "u64 a, f32 b"), "test", 1, 32, arguments)


def test_launch_shapes_and_limits() -> None:
    module = kernel("", "", ".extern .shared .align 16 .b8 tile[];")
    for grid, block, size in ((0, 32, 0), (1, 2048, 0), (1, (64, 32), 0), ((1, 70000), 32, 0), (1, 32, 164 * 1024)):
        with pytest.raises(LaunchError):
            launch(module, "test", grid, block, [], dynamic_shared=size)
    launch(module, "test", 1, 32, [], dynamic_shared=160 * 1024)
    bounded = parse(HEAD + '.entry test() .maxntid 64, 1, 1 .minnctapersm 2 { .pragma "nounroll"; ret; }')
    launch(bounded, "test", 1, 64, [])
    with pytest.raises(LaunchError, match="more than 64 threads"):
        launch(bounded, "test", 1, 65, [])
    with pytest.raises(LaunchError, match="no kernel"):
        launch(module, "other", 1, 32, [])
    with pytest.raises(LaunchError, match="compute capability 9.0"):
        launch(kernel("", target=90), "test", 1, 32, [], capability=(8, 0))
