"""Products whose b is not packed beforehand and meets few rows of a: b is packed as it is multiplied.

    b  │ unit │ unit │ …       a unit: columns of a block of the product, all of k
          │ pack.py
          ▼
       room of a thread, in its cache  ── gemm.py, the unit's blocks ──► result

All of b packed would go through memory: written once and read once, into pages that the system has to clear before.
Both steps are calls that are kept (kept.py). What they take for the panels' address lies so far before the room that
the unit's own panels are in it: a number, which is never a place that is read.

Arrays come as their ids, as they do to `run_again`. The room of a thread is MOST_ROOM bytes at most (blocking.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.cpu.atomics import load, store
from gpuq.cpu.compile import jit
from gpuq.cpu.kept import address_of, copy_held, put_address
from gpuq.cpu.pool import call
from gpuq.cpu.spread import FUNCTION, NO_WORKSPACE, runner
from gpuq.cpu.tiles import LINE
from gpuq.cpu.workspace import first_line, keep


@jit
def _pack_and_multiply(arguments: Any, first: int, last: int) -> None:
    """Units first … last: `panels` each, of so many bytes; `down` blocks of the product, one below the other."""
    (b, sums, a, result), (pack, multiply), (panels, panel_bytes, down) = arguments
    panel_sums = address_of(sums)
    room = np.empty(panels * panel_bytes + LINE, np.uint8)
    failed = 0
    for unit in range(first, last):
        before = first_line(room) - unit * panels * panel_bytes
        held = copy_held(pack)
        put_address(held, pack, 0, address_of(b))
        put_address(held, pack, 1, before)
        put_address(held, pack, 2, panel_sums)
        store(held, panels)  # units of a piece, the first word: the piece with this unit's number is its panels
        failed |= call(load(pack + FUNCTION), held, unit)
        held = copy_held(multiply)
        put_address(held, multiply, 0, address_of(a))
        put_address(held, multiply, 1, before)
        put_address(held, multiply, 2, panel_sums)
        put_address(held, multiply, 3, address_of(result))
        store(held, 1)  # a piece is a block
        for block in range(unit * down, (unit + 1) * down):
            failed |= call(load(multiply + FUNCTION), held, block)
    keep(room)
    if failed:
        raise MemoryError(NO_WORKSPACE)


pack_and_multiply = runner(_pack_and_multiply)  # of so many units
