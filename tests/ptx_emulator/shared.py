"""Shared memory of a batch of blocks, with a shadow that finds races whatever order the warps ran in.

Every byte remembers its last write and its last read as a stamp: the time of the access, and who did it. An access
conflicts with an earlier one of another thread, one of them a write, if no barrier of the block (or, in one warp, no
bar.warp.sync) lies between the two. Time is a counter of accesses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import AccessError, AsyncCopyError, EmulationError, RaceError, UninitializedError
from .group import WARP, Group

Array = npt.NDArray[Any]
WINDOW = 1024  # shared addresses start here, so that address 0 is no variable
CODE_BITS = 12  # a stamp is time << 12 | code; codes below 1024 are threads
ONE_WARP, ATOMIC, SEVERAL = 1024, 2046, 2047  # ONE_WARP + w: several threads of warp w
ROW = 128  # blocks' memories are padded to this many bytes


class Accessors:
    """Who accesses now: codes, warps and the barriers behind them, (lanes, 1) each."""

    def __init__(self, shared: SharedMemory, group: Group, lanes: Array, atomic: bool = False) -> None:
        block, thread = group.block[lanes], group.thread[lanes].astype(np.int64)
        self.lanes = lanes
        self.time = shared.tick()
        self.barrier = shared.barrier[block][:, None]
        self.warp = (thread // WARP)[:, None]
        self.warp_barrier = shared.warp_barrier[block, thread // WARP][:, None]
        self.code = np.full((len(lanes), 1), ATOMIC, np.int64) if atomic else thread[:, None]
        self.stamp = self.time << CODE_BITS | self.code


class SharedMemory:
    """`size` bytes for each of `blocks` blocks, whose warps number `warps`."""

    def __init__(self, blocks: int, size: int, warps: int) -> None:
        self.size = size
        self.stride = -(-max(size, 1) // ROW) * ROW
        total = blocks * self.stride
        self.data = np.zeros(total, np.uint8)
        self.initialized = np.zeros(total, bool)
        self.flying = np.zeros(total, bool)
        self.copies = 0  # cp.async copies that have not landed
        self.written = np.zeros(total, np.int64)
        self.read = np.zeros(total, np.int64)
        self.clock = 1
        self.barrier = np.zeros(blocks, np.int64)  # the time of each block's last barrier
        self.epoch = np.zeros(blocks, np.int64)  # the number of barriers that each block has passed
        self.warp_barrier = np.zeros((blocks, warps), np.int64)

    def tick(self) -> int:
        """The time of the next access."""
        self.clock += 1
        return self.clock

    def synchronize(self, blocks: Array) -> None:
        """A barrier of whole blocks: what came before is ordered before what follows."""
        self.barrier[blocks] = self.clock
        self.epoch[blocks] += 1

    def synchronize_warps(self, group: Group, lanes: Array) -> None:
        """bar.warp.sync of the lanes' warps."""
        self.warp_barrier[group.block[lanes], group.thread[lanes] // WARP] = self.clock

    def place(self, group: Group, address: Array, width: int, lanes: Array) -> Array:
        """The row of each lane's access in arrays seen as (-1, width). Raises AccessError."""
        offset = address - WINDOW
        wrong = (offset < 0) | (offset > self.size - width) | ((address & (width - 1)) != 0)
        if wrong.any():
            lane = int(np.flatnonzero(wrong)[0])
            reason = "is not aligned" if address[lane] & (width - 1) else f"lies outside the block's {self.size} bytes"
            raise AccessError(
                group.blame(int(lanes[lane]), f"shared address {int(address[lane]):#x} {reason} ({width} bytes)")
            )
        return (group.block[lanes] * np.int64(self.stride) + offset) // width

    def load(self, group: Group, address: Array, width: int, lanes: Array) -> Array:
        """`width` bytes per lane, (lanes, width) uint8."""
        rows = self.place(group, address, width, lanes)
        self._check_flying(group, rows, width, lanes)
        known = self.initialized.reshape(-1, width)[rows]
        if not known.all():
            self._fail(UninitializedError, group, ~known, rows, lanes, "read, but nobody has written it")
        who = Accessors(self, group, lanes)
        self._check(group, self.written, rows, width, who, "written by another thread")
        self._note_read(rows, width, who)
        return self.data.reshape(-1, width)[rows]

    def store(self, group: Group, address: Array, content: Array, lanes: Array, atomic: bool = False) -> None:
        """Store `content`, (lanes, width) uint8; atomic stores do not conflict with one another."""
        width = content.shape[1]
        rows = self.place(group, address, width, lanes)
        who = self.claim(group, rows, width, lanes, atomic)
        self.land(group, rows, content, who)
        if not atomic:
            lost = self.written.reshape(-1, width)[rows] != who.stamp
            if lost.any():
                self._fail(RaceError, group, lost, rows, lanes, "written by two threads at once")

    def claim(self, group: Group, rows: Array, width: int, lanes: Array, atomic: bool = False) -> Accessors:
        """Check that the lanes may write these rows now."""
        self._check_flying(group, rows, width, lanes)
        who = Accessors(self, group, lanes, atomic)
        self._check(group, self.written, rows, width, who, "written by another thread")
        self._check(group, self.read, rows, width, who, "read by another thread")
        return who

    def land(self, group: Group, rows: Array, content: Array, who: Accessors) -> None:
        """Put bytes in place and stamp them."""
        width = content.shape[1]
        self.data.reshape(-1, width)[rows] = content
        self.initialized.reshape(-1, width)[rows] = True
        self.written.reshape(-1, width)[rows] = who.stamp

    def _check_flying(self, group: Group, rows: Array, width: int, lanes: Array) -> None:
        if self.copies:
            flying = self.flying.reshape(-1, width)[rows]
            if flying.any():
                self._fail(
                    AsyncCopyError, group, flying, rows, lanes, "touched while a cp.async copy to it is in flight"
                )

    def _check(self, group: Group, stamps: Array, rows: Array, width: int, who: Accessors, text: str) -> None:
        """Raise RaceError where `stamps` hold another thread's access that no barrier separates from this one."""
        before = stamps.reshape(-1, width)[rows]
        bad = before >> CODE_BITS > who.barrier
        if not bad.any():
            return
        code = before & (1 << CODE_BITS) - 1
        same_warp = np.where(code < ONE_WARP, code // WARP, code - ONE_WARP) == who.warp
        bad &= (code != who.code) & ~(same_warp & (before >> CODE_BITS <= who.warp_barrier))
        if bad.any():
            self._fail(RaceError, group, bad, rows, who.lanes, text + " with no barrier in between")

    def _note_read(self, rows: Array, width: int, who: Accessors) -> None:
        """Stamp a read; readers since the last barrier are merged to "several of one warp" or "several"."""
        stamps = self.read.reshape(-1, width)
        before = stamps[rows]
        code = before & (1 << CODE_BITS) - 1
        merge = (before >> CODE_BITS > who.barrier) & (code != who.code)
        stamp = who.stamp
        if merge.any():
            warp = np.where(code < ONE_WARP, code // WARP, code - ONE_WARP)
            merged = np.where(warp == who.warp, ONE_WARP + who.warp, SEVERAL)
            stamp = np.where(merge, who.time << CODE_BITS | merged, who.stamp)
        stamps[rows] = stamp
        self._merge_broadcast(stamps, rows, np.broadcast_to(stamp, before.shape), who)

    def _merge_broadcast(self, stamps: Array, rows: Array, stamp: Array, who: Accessors) -> None:
        """Lanes of one instruction that read the same byte are merged, too."""
        found = stamps[rows]
        lost = found != stamp
        if not lost.any():
            return
        code = found & (1 << CODE_BITS) - 1
        warp = np.where(code < ONE_WARP, code // WARP, code - ONE_WARP)
        merged = who.time << CODE_BITS | np.where(warp == who.warp, ONE_WARP + who.warp, SEVERAL)
        chosen = np.flatnonzero(lost.any(axis=1))
        stamps[rows[chosen]] = np.where(lost, merged, found)[chosen]
        again = stamps[rows[chosen]] != merged[chosen]
        if (again & lost[chosen]).any():
            last = chosen[(again & lost[chosen]).any(axis=1)]
            stamps[rows[last]] = who.time << CODE_BITS | SEVERAL

    def _fail(
        self, error: type[EmulationError], group: Group, bad: Array, rows: Array, lanes: Array, text: str
    ) -> None:
        row, byte = np.argwhere(bad)[0]
        address = int(rows[row]) * bad.shape[1] % self.stride + int(byte) + WINDOW
        raise error(group.blame(int(lanes[row]), f"shared address {address:#x}: {text}"))
