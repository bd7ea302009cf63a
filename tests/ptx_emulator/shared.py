"""Shared memory of a batch of blocks, with a shadow that finds races whatever order the warps ran in.

Every grain, which is a byte or, where a kernel makes no smaller accesses, several bytes, remembers its last write and
its last read as a stamp: the time of the access, and who did it. An access conflicts with an earlier one of another
thread, one of them a write, if no barrier of the block (or, in one warp, no bar.warp.sync) lies between the two. Time
is a counter of accesses.
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
        block, thread = group.places(lanes)
        self.lanes = lanes
        self.time = shared.tick()
        self.block = block
        self.warp = thread // WARP
        self.barriers, self.warp_barriers = shared.barrier, shared.warp_barrier
        self.code = np.full((len(lanes), 1), ATOMIC, np.int64) if atomic else thread
        self.stamp = self.time << CODE_BITS | self.code

    @property
    def barrier(self) -> Array:
        """The time of the last barrier of each lane's block."""
        return self.barriers[self.block][:, None]

    @property
    def warp_barrier(self) -> Array:
        """The time of the last bar.warp.sync of each lane's warp."""
        return self.warp_barriers[self.block, self.warp[:, 0]][:, None]


class SharedMemory:
    """`size` bytes for each of `blocks` blocks, whose warps number `warps`; no access is smaller than `grain` bytes."""

    def __init__(self, blocks: int, size: int, warps: int, grain: int = 1) -> None:
        self.size, self.grain = size, grain
        self.stride = -(-max(size, 1) // ROW) * ROW
        self.data = np.zeros(blocks * self.stride, np.uint8)
        total = blocks * self.stride // grain
        self.initialized = np.zeros(total, bool)
        self.flying = np.zeros(total, bool)
        self.copies = 0  # cp.async copies that have not landed
        self.written = np.zeros(total, np.int64)
        self.read = np.zeros(total, np.int64)
        self.clock = 1
        self.barrier = np.zeros(blocks, np.int64)  # the time of each block's last barrier
        self.oldest = 0  # the first of these times
        self.epoch = np.zeros(blocks, np.int64)  # the number of barriers that each block has passed
        self.warp_barrier = np.zeros((blocks, warps), np.int64)

    def grains(self, shadow: Array, width: int) -> Array:
        """A shadow array by accesses of `width` bytes, as `place` counts them."""
        return shadow.reshape(-1, width // self.grain)

    def tick(self) -> int:
        """The time of the next access."""
        self.clock += 1
        return self.clock

    def synchronize(self, blocks: Array) -> None:
        """A barrier of whole blocks: what came before is ordered before what follows."""
        self.barrier[blocks] = self.clock
        self.oldest = int(self.barrier.min())
        self.epoch[blocks] += 1

    def synchronize_warps(self, group: Group, lanes: Array) -> None:
        """bar.warp.sync of the lanes' warps."""
        self.warp_barrier[group.block[lanes], group.thread[lanes] // WARP] = self.clock

    def place(self, group: Group, address: Array, width: int, lanes: Array) -> Array:
        """The row of each lane's access in arrays seen as (-1, width). Raises AccessError."""
        offset = address - WINDOW
        if offset.min() < 0 or offset.max() > self.size - width or np.bitwise_or.reduce(offset) & (width - 1):
            self._refuse(group, address, width, lanes)
        return (group.block[lanes] * np.int64(self.stride) + offset) // width

    def _refuse(self, group: Group, address: Array, width: int, lanes: Array) -> None:
        offset, bits = address - WINDOW, address & (width - 1)
        lane = int(np.flatnonzero((offset < 0) | (offset > self.size - width) | (bits != 0))[0])
        reason = "is not aligned" if bits[lane] else f"lies outside the block's {self.size} bytes"
        text = f"shared address {int(address[lane]):#x} {reason} ({width} bytes)"
        raise AccessError(group.blame(int(lanes[lane]), text))

    def load(self, group: Group, address: Array, width: int, lanes: Array) -> Array:
        """`width` bytes per lane, (lanes, width) uint8."""
        rows = self.place(group, address, width, lanes)
        self._check_flying(group, rows, width, lanes)
        known = self.grains(self.initialized, width)[rows]
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
            lost = self.grains(self.written, width)[rows] != who.stamp
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
        self.grains(self.initialized, width)[rows] = True
        self.grains(self.written, width)[rows] = who.stamp

    def _check_flying(self, group: Group, rows: Array, width: int, lanes: Array) -> None:
        if self.copies:
            flying = self.grains(self.flying, width)[rows]
            if flying.any():
                self._fail(
                    AsyncCopyError, group, flying, rows, lanes, "touched while a cp.async copy to it is in flight"
                )

    def _check(self, group: Group, stamps: Array, rows: Array, width: int, who: Accessors, text: str) -> None:
        """Raise RaceError where `stamps` hold another thread's access that no barrier separates from this one."""
        before = self.grains(stamps, width)[rows]
        if int(before.max()) >> CODE_BITS <= self.oldest:
            return
        bad = before >> CODE_BITS > who.barrier
        code = before & (1 << CODE_BITS) - 1
        same_warp = np.where(code < ONE_WARP, code // WARP, code - ONE_WARP) == who.warp
        bad &= (code != who.code) & ~(same_warp & (before >> CODE_BITS <= who.warp_barrier))
        if bad.any():
            self._fail(RaceError, group, bad, rows, who.lanes, text + " with no barrier in between")

    def _note_read(self, rows: Array, width: int, who: Accessors) -> None:
        """Stamp a read; readers since the last barrier are merged to "several of one warp" or "several"."""
        stamps = self.grains(self.read, width)
        before = stamps[rows]
        if int(before.max()) >> CODE_BITS > self.oldest:
            code = before & (1 << CODE_BITS) - 1
            merge = (before >> CODE_BITS > who.barrier) & (code != who.code)
            if merge.any():
                stamp = np.where(merge, who.time << CODE_BITS | _merged(code, who.warp), who.stamp)
                stamps[rows] = stamp
                for grain in range(stamp.shape[1]):
                    _merge_broadcast(stamps[:, grain : grain + 1], rows, stamp[:, grain], who)
                return
        stamps[rows] = who.stamp
        _merge_broadcast(stamps, rows, who.stamp[:, 0], who)

    def _fail(
        self, error: type[EmulationError], group: Group, bad: Array, rows: Array, lanes: Array, text: str
    ) -> None:
        row, grain = np.argwhere(bad)[0]
        address = (int(rows[row]) * bad.shape[1] + int(grain)) * self.grain % self.stride + WINDOW
        raise error(group.blame(int(lanes[row]), f"shared address {address:#x}: {text}"))


def _merged(code: Array, warp: Array) -> Array:
    """The code of two readers, one of them of `warp`."""
    other = np.where(code < ONE_WARP, code // WARP, code - ONE_WARP)
    return np.where(other == warp, ONE_WARP + warp, SEVERAL)


def _merge_broadcast(stamps: Array, rows: Array, stamp: Array, who: Accessors) -> None:
    """Lanes of one instruction that read the same bytes are merged, too; all grains of a row have its first one's
    stamp.
    """
    first = stamps[:, 0]
    found = first[rows]
    lost = found != stamp
    if not lost.any():
        return
    rows = rows[lost]
    merged = who.time << CODE_BITS | _merged(found[lost] & (1 << CODE_BITS) - 1, who.warp[lost, 0])
    stamps[rows] = merged[:, None]
    again = first[rows] != merged
    if again.any():
        stamps[rows[again]] = who.time << CODE_BITS | SEVERAL
