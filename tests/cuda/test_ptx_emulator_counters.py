"""The emulator's counters on accesses whose cost can be counted by hand: bank conflicts and sectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ptx_emulator import Memory, launch
from ptx_emulator.texts import kernel

Array = npt.NDArray[Any]

ROW = """.reg .b32 t, s, a, v<4>; .reg .b64 x, at; mov.u32 t, %tid.x; mov.u32 s, tile; mov.b32 v0, 0; mov.b32 v1, 0;
mov.b32 v2, 0; mov.b32 v3, 0; {}"""


@pytest.mark.parametrize(
    ("line", "needed", "moved"),
    [
        ("mad.lo.u32 a, t, 4, s; st.shared.b32 [a], v0;", 1, 1),
        ("mad.lo.u32 a, t, 8, s; st.shared.b32 [a], v0;", 1, 2),
        ("mad.lo.u32 a, t, 128, s; st.shared.b32 [a], v0;", 1, 32),
        ("mad.lo.u32 a, t, 132, s; st.shared.b32 [a], v0;", 1, 1),
        ("mad.lo.u32 a, t, 1, s; st.shared.b8 [a], v0;", 1, 1),
        ("mad.lo.u32 a, t, 8, s; st.shared.v2.b32 [a], {v0, v1};", 2, 2),
        ("mad.lo.u32 a, t, 16, s; st.shared.v4.b32 [a], {v0, v1, v2, v3};", 4, 4),
        ("mad.lo.u32 a, t, 64, s; st.shared.v4.b32 [a], {v0, v1, v2, v3};", 4, 16),
        ("mad.lo.u32 a, t, 4, s; st.shared.b32 [a], v0; ld.shared.b32 v1, [a];", 2, 2),
    ],
)
def test_bank_conflicts(line: str, needed: int, moved: int) -> None:
    counters = launch(kernel(ROW.format(line), "", ".shared .align 128 .b8 tile[8192];"), "test", 1, 32, [])
    assert (counters.shared.needed, counters.shared.moved) == (needed, moved)


@pytest.mark.parametrize(
    ("line", "used", "moved"),
    [
        ("mad.wide.u32 at, t, 4, x; ld.global.b32 v0, [at];", 128, 128),
        ("mad.wide.u32 at, t, 16, x; ld.global.v4.b32 {v0, v1, v2, v3}, [at];", 512, 512),
        ("mad.wide.u32 at, t, 16, x; ld.global.b32 v0, [at];", 128, 512),
        ("mad.wide.u32 at, t, 64, x; ld.global.b32 v0, [at];", 128, 1024),
        ("mad.wide.u32 at, t, 4, x; ld.global.b32 v0, [at+4];", 128, 160),
        ("ld.global.b32 v0, [x];", 4, 32),
        ("xor.b32 t, t, 5; mad.wide.u32 at, t, 4, x; ld.global.b32 v0, [at];", 128, 128),
    ],
)
def test_sectors(line: str, used: int, moved: int) -> None:
    memory = Memory()
    x = memory.upload(np.zeros(4096, np.uint8))
    module = kernel(
        ROW.format("ld.param.u64 x, [x_pointer];" + line), "u64 x_pointer", ".shared .align 128 .b8 tile[64];"
    )
    counters = launch(module, "test", 1, 32, [x.buffer])
    assert (counters.loads.needed, counters.loads.moved) == (used, moved)
    assert counters.opcodes["mov.u32"] == 2
    assert counters.stores.moved == 0
    assert counters.stores.ratio == 1
