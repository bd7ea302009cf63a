"""Control flow of the emulator on hand-written PTX: branches, loops, barriers, grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ptx_emulator import BarrierError, Memory, launch
from ptx_emulator.texts import apply, kernel

Array = npt.NDArray[Any]

LANES = 192


INDEX = np.arange(LANES, dtype=np.int32)


def on_lanes(line: str, values: Array = INDEX) -> list[int]:
    """d for every lane, a being the lane's value."""
    return apply(line, "s32", a=("s32", values)).tolist()


def test_branches_meet_again() -> None:
    line = """and.b32 r, a, 1; setp.eq.s32 p, r, 0; @p bra EVEN; mul.lo.s32 d, a, 3; bra.uni BOTH;
    EVEN: and.b32 r, a, 2; setp.eq.s32 q, r, 0; @!q bra TWO; mov.b32 d, 7; bra BOTH; TWO: mov.b32 d, 9;
    BOTH: add.s32 d, d, a; activemask.b32 r; popc.b32 r, r; mad.lo.s32 d, r, 1000, d;"""
    assert on_lanes(line) == [32000 + i + (3 * i if i % 2 else 9 if i & 2 else 7) for i in range(LANES)]


def test_loops_with_a_trip_count_per_lane() -> None:
    """Collatz steps: every lane leaves the loop at another time, and half of the loop's body is skipped at times."""
    line = """.reg .b32 x; mov.b32 x, a; add.s32 x, x, 1; mov.b32 d, 0;
    LOOP: setp.eq.s32 p, x, 1; @p bra DONE; and.b32 r, x, 1; setp.eq.s32 q, r, 1; @q bra ODD;
    shr.s32 x, x, 1; bra NEXT; ODD: mad.lo.s32 x, x, 3, 1; NEXT: add.s32 d, d, 1; bra LOOP; DONE:"""

    def steps(x: int) -> int:
        count = 0
        while x != 1:
            x, count = (3 * x + 1 if x % 2 else x // 2), count + 1
        return count

    assert on_lanes(line) == [steps(i + 1) for i in range(LANES)]


def test_nested_loops_and_early_return() -> None:
    body = """.reg .b32 t, i, j, d; .reg .b64 y, at; .reg .pred p;
    mov.u32 t, %tid.x; ld.param.u64 y, [out]; mad.wide.u32 at, t, 4, y; mov.b32 d, -1; st.global.b32 [at], d;
    setp.gt.u32 p, t, 40; @p ret; mov.b32 d, 0; mov.b32 i, 0;
    OUTER: setp.ge.u32 p, i, t; @p bra END; mov.b32 j, 0;
    INNER: setp.ge.u32 p, j, i; @p bra LAST; add.u32 d, d, 1; add.u32 j, j, 1; bra INNER;
    LAST: add.u32 i, i, 1; bra OUTER; END: st.global.b32 [at], d;"""
    memory = Memory()
    out = memory.empty(64, np.int32)
    launch(kernel(body, "u64 out"), "test", 1, 64, [out.buffer])
    assert out.numpy().tolist() == [t * (t - 1) // 2 if t <= 40 else -1 for t in range(64)]


def test_predicated_instructions() -> None:
    line = """mov.b32 d, 1; setp.lt.s32 p, a, 50; @p add.s32 d, d, a; @!p mul.lo.s32 d, a, a;
    setp.lt.s32 p, a, 0; @p mov.b32 d, 5;"""
    assert on_lanes(line) == [1 + i if i < 50 else i * i for i in range(LANES)]


BARRIER = """.reg .b32 t, b; .reg .pred p; mov.u32 t, %tid.x; mov.u32 b, %ctaid.x; {} bar.sync 0; OVER: bar.sync 1;"""


def test_barriers_of_whole_blocks() -> None:
    """Blocks may take different paths, warps of one block may not; nor may a warp be split or threads have returned."""
    right = "setp.lt.u32 p, b, 2; @p bra OVER;"
    for seed in range(3):
        counters = launch(kernel(BARRIER.format(right)), "test", 5, 96, [], seed=seed)
        assert counters.opcodes["bar.sync"] == 3 * (2 + 2 * 3)
        for wrong in (
            "setp.lt.u32 p, t, 16; @p bra OVER;",
            "setp.lt.u32 p, t, 32; @p bra OVER;",
            "setp.lt.u32 p, t, 32; @p ret;",
            "setp.eq.u32 p, t, 95; @p ret;",
        ):
            with pytest.raises(BarrierError, match="bar.sync"):
                launch(kernel(BARRIER.format(wrong)), "test", 5, 96, [], seed=seed)


def test_divergence_of_warps_around_a_loop_of_barriers() -> None:
    """Each block loops its own number of times over a barrier; a group of lanes of many blocks must come apart."""
    body = """.reg .b32 t, b, i, s, v, w; .reg .b64 y, at; .reg .pred p; mov.u32 t, %tid.x; mov.u32 b, %ctaid.x;
    mov.b32 i, 0;
    mov.u32 s, cell; shl.b32 w, t, 2; add.u32 s, s, w; mov.b32 v, t; st.shared.b32 [s], v;
    LOOP: bar.sync 0; xor.b32 w, s, 128; ld.shared.b32 v, [w]; add.u32 v, v, 1; bar.sync 0; st.shared.b32 [s], v;
    add.u32 i, i, 1; setp.le.u32 p, i, b; @p bra LOOP;
    mad.lo.u32 t, b, 64, t; ld.param.u64 y, [out]; mad.wide.u32 at, t, 4, y; st.global.b32 [at], v;"""
    module = kernel(body, "u64 out", ".shared .align 128 .b8 pad[128]; .shared .align 256 .b8 cell[256];")
    for seed in range(3):
        memory = Memory()
        out = memory.empty((7, 64), np.int32)
        launch(module, "test", 7, 64, [out.buffer], seed=seed)
        tid = np.arange(64)
        assert (out.numpy() == [[(t if b % 2 else t ^ 32) + b + 1 for t in tid] for b in range(7)]).all()


def test_grids_and_blocks_of_three_dimensions() -> None:
    names = [
        "tid.x",
        "tid.y",
        "tid.z",
        "ntid.x",
        "ntid.y",
        "ntid.z",
        "ctaid.x",
        "ctaid.y",
        "ctaid.z",
        "nctaid.x",
        "nctaid.y",
        "nctaid.z",
    ]
    body = """.reg .b32 v, i, n; .reg .b64 y, at; ld.param.u64 y, [out];
    mov.u32 i, %ctaid.z; mov.u32 n, %nctaid.y; mov.u32 v, %ctaid.y; mad.lo.u32 i, i, n, v; mov.u32 n, %nctaid.x;
    mov.u32 v, %ctaid.x;
    mad.lo.u32 i, i, n, v; mov.u32 n, %ntid.z; mov.u32 v, %tid.z; mad.lo.u32 i, i, n, v; mov.u32 n, %ntid.y;
    mov.u32 v, %tid.y;
    mad.lo.u32 i, i, n, v; mov.u32 n, %ntid.x; mov.u32 v, %tid.x; mad.lo.u32 i, i, n, v; mad.wide.u32 at, i, 48, y;"""
    body += "".join(f"mov.u32 v, %{name}; st.global.b32 [at+{4 * i}], v;" for i, name in enumerate(names))
    memory = Memory()
    out = memory.empty((4, 3, 2, 5, 3, 7, 12), np.int32)
    launch(kernel(body, "u64 out"), "test", (2, 3, 4), (7, 3, 5), [out.buffer])
    cz, cy, cx, tz, ty, tx = np.indices((4, 3, 2, 5, 3, 7))
    one = np.ones_like(tx)
    wanted = [tx, ty, tz, 7 * one, 3 * one, 5 * one, cx, cy, cz, 2 * one, 3 * one, 4 * one]
    assert (out.numpy() == np.stack(wanted, axis=-1)).all()
