"""Loads and stores of global memory: which bytes the lanes of one instruction touch, and every check on them.

Reading a byte that nobody wrote is an error; so is reading or writing what another thread of the block wrote with no
barrier in between, or what another block writes or (for a write) reads in the same launch, and any address outside a
buffer or misaligned. Blocks run in no order that PTX promises, and a launch here cannot order them, fences included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import AccessError, RaceError, UninitializedError
from .group import Group
from .memory import ATOMIC, NOBODY, SEVERAL, SPAN, Buffer

Array = npt.NDArray[Any]
EPOCH_BITS, BLOCK_SHIFT = 26, 36
EPOCH = np.int64((1 << EPOCH_BITS) - 1)
MANY_LANES = 2048  # from which strided views are quicker than rows by index
ACCESS_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass
class Access:
    """The bytes of one buffer that some lanes of one instruction touch: `width` bytes from `offset` on, per lane.

    `lanes` numbers the lanes in their group. Every access is aligned, so a per-byte array of the buffer seen as
    (-1, width) has a row for each; where many lanes lie at a constant distance, strided views are quicker.
    """

    group: Group
    buffer: Buffer
    offset: Array
    width: int
    lanes: Array

    def __post_init__(self) -> None:
        count, offset = self.offset.size, self.offset
        self.strided = False
        if count > MANY_LANES:
            self.step = int(offset[1] - offset[0])
            arange = self.group.arange(count)
            self.strided = self.step >= self.width and bool((offset == offset[0] + self.step * arange).all())
        self.rows = None if self.strided else offset // self.width

    def view(self, array: Array, dtype: npt.DTypeLike) -> Array:
        """A strided view of a per-byte array as (lanes, elements)."""
        dtype = np.dtype(dtype)
        scale = array.itemsize
        each = max(dtype.itemsize // scale, 1)
        return np.ndarray(
            (self.offset.size, self.width // each),
            dtype,
            array,
            int(self.offset[0]) * scale,
            (self.step * scale, dtype.itemsize),
        )

    def take(self, array: Array) -> Array:
        """The elements of a per-byte array, (lanes, width)."""
        return self.view(array, array.dtype) if self.strided else array.reshape(-1, self.width)[self.rows]

    def put(self, array: Array, values: Array | int | bool) -> None:
        """Set the elements of a per-byte array; `values` broadcasts to (lanes, width)."""
        if self.strided:
            self.view(array, array.dtype)[...] = values
        else:
            array.reshape(-1, self.width)[self.rows] = values

    def load(self) -> Array:
        """The bytes, (lanes, width), a copy."""
        if self.strided:
            word = ACCESS_WORDS[min(self.width & -self.width, 8)]
            return self.view(self.buffer.data, word).copy().view(np.uint8)
        return self.buffer.data.reshape(-1, self.width)[self.rows]

    def blocks(self) -> Array:
        """Each lane's block in the grid, counted from 1, (lanes, 1) int32."""
        return self.group.grid_block[self.lanes][:, None] + np.int32(1)

    def threads(self) -> Array:
        """Each lane's block and thread in one number, with the barriers that the block has passed, (lanes, 1)."""
        group, lanes = self.group, self.lanes
        thread = group.thread[lanes].astype(np.int64) << EPOCH_BITS
        time = group.shared.epoch[group.block[lanes]]
        return (self.blocks().astype(np.int64) << BLOCK_SHIFT) + (thread + time)[:, None]

    def check_writers(self, mine: Array, text: str, atomic: bool = False) -> None:
        """Raise RaceError where a byte was written by another block, or by another thread since the last barrier."""
        if self.buffer.writer is None:
            return
        before = self.take(self.buffer.writer)
        if not before.any():
            return
        known = before != NOBODY
        if atomic:
            known &= before != ATOMIC
        other = known & (before >> BLOCK_SHIFT != mine >> BLOCK_SHIFT)
        if other.any():
            self.fail(RaceError, other, text + ", but another block writes it in the same launch")
        other = known & (before != mine) & ((before ^ mine) & EPOCH == 0)
        if other.any():
            self.fail(RaceError, other, text + ", but another thread wrote it with no barrier in between")

    def fail(self, error: type[Exception], bad: Array, text: str) -> None:
        """Raise for the first lane with a `bad` byte, (lanes, width) or (lanes, 1)."""
        row, byte = np.argwhere(np.broadcast_to(bad, (self.offset.size, self.width)))[0]
        address = self.buffer.address + int(self.offset[row]) + int(byte)
        raise error(
            self.group.blame(
                int(self.lanes[row]),
                f"address {address:#x} (buffer {self.buffer.name}, byte {int(self.offset[row]) + int(byte)}): {text}",
            )
        )


def check_alignment(group: Group, address: Array, width: int, lanes: Array) -> None:
    """Raise AccessError unless every lane's address is a multiple of `width`."""
    if np.bitwise_or.reduce(address) & (width - 1):
        wrong = address & (width - 1)
        lane = int(np.flatnonzero(wrong)[0])
        text = f"address {int(address[lane]):#x} is not aligned to {width} bytes"
        raise AccessError(group.blame(int(lanes[lane]), text))


def accesses(group: Group, address: Array, width: int, lanes: Array) -> Iterator[tuple[Array | slice, Access]]:
    """Split lanes by buffer; yields which of them, and their access. Raises AccessError for addresses in none."""
    check_alignment(group, address, width, lanes)
    low, high = int(address.min()), int(address.max())
    if low >> SPAN == high >> SPAN:
        yield slice(None), _inside(group, address, width, lanes)
        return
    numbers = address >> SPAN
    for number in np.unique(numbers):
        chosen = np.flatnonzero(numbers == number)
        yield chosen, _inside(group, address[chosen], width, lanes[chosen])


def _inside(group: Group, address: Array, width: int, lanes: Array) -> Access:
    """The access of lanes whose addresses share one span."""
    buffer = group.memory.find(int(address[0]))
    if buffer is None:
        raise AccessError(group.blame(int(lanes[0]), f"address {int(address[0]):#x} belongs to no buffer"))
    offset = address - buffer.address
    outside = (offset < 0) | (offset > buffer.size - width)
    if outside.any():
        lane = int(np.flatnonzero(outside)[0])
        raise AccessError(
            group.blame(
                int(lanes[lane]),
                f"address {int(address[lane]):#x} is byte {int(offset[lane])} "
                f"of buffer {buffer.name}, which has {buffer.size} bytes; {width} are accessed",
            )
        )
    return Access(group, buffer, offset, width, lanes)


def load(group: Group, address: Array, width: int, lanes: Array, strong: bool = False) -> Array:
    """`width` bytes per lane, (lanes, width) uint8; a single address stands for all lanes and may give a single row.

    A strong load (volatile, relaxed, acquire) is no race with atomics, whatever the order.
    """
    group.counters.global_access(group, address, width, lanes, "loads")
    quiet = _load_quietly(group, address, width)
    if quiet is not None:
        return quiet
    if address.size < lanes.size:
        buffer = group.memory.find(int(address[0]))
        shared_by_blocks = buffer is not None and not buffer.read_only
        address = np.broadcast_to(address, lanes.shape) if shared_by_blocks else address
        lanes = lanes[: address.size]
    rows: Array | None = None
    for chosen, access in accesses(group, address, width, lanes):
        _check_load(access, strong)
        found = access.load()
        if isinstance(chosen, slice):
            return found
        rows = np.empty((address.size, width), np.uint8) if rows is None else rows
        rows[chosen] = found
    assert rows is not None
    return rows


def _load_quietly(group: Group, address: Array, width: int) -> Array | None:
    """The bytes of one buffer where no check can fail: all known, nobody writes them; None where one might."""
    low = int(address.min())
    buffer = group.memory.find(low)
    if buffer is None or not buffer.complete:
        return None
    if not buffer.read_only and (group.neighbours or buffer.writer is not None):
        return None
    offset = address - buffer.address
    if offset.max() > buffer.size - width or low < buffer.address or np.bitwise_or.reduce(offset) & (width - 1):
        return None
    if offset.size > MANY_LANES:
        return None  # strided views are quicker
    return buffer.data.reshape(-1, width)[offset // width]


def _check_load(access: Access, strong: bool) -> None:
    buffer = access.buffer
    if not buffer.complete:
        unknown = ~access.take(buffer.initialized)
        if unknown.any():
            access.fail(UninitializedError, unknown, "read, but nobody has written it")
    if buffer.read_only:
        return
    access.check_writers(access.threads(), "read", atomic=strong)
    if not strong and access.group.neighbours:
        _note_readers(access)


def _note_readers(access: Access) -> None:
    """Remember which block read each byte, so that another block's later write shows."""
    mine = access.blocks()
    readers = access.buffer.read_by()
    before = access.take(readers)
    access.put(readers, np.where((before == NOBODY) | (before == mine), mine, np.int32(SEVERAL)))
    if not access.strided:
        rows = readers.reshape(-1, access.width)
        lost = (rows[access.rows] != mine).any(axis=1)
        if lost.any():
            rows[access.rows[lost]] = SEVERAL


def store(group: Group, address: Array, rows: Array, lanes: Array) -> None:
    """Store `rows`, (lanes, width) uint8."""
    width = rows.shape[1]
    group.counters.global_access(group, address, width, lanes, "stores")
    for chosen, access in accesses(group, address, width, lanes):
        mine = access.threads()
        check_write(access, mine)
        content = np.ascontiguousarray(rows[chosen])
        if access.strided:
            word = ACCESS_WORDS[min(width & -width, 8)]
            access.view(access.buffer.data, word)[...] = content.view(word)
        else:
            access.put(access.buffer.data, content)
        access.put(access.buffer.initialized, True)
        access.put(access.buffer.written_by(), mine)
        if not access.strided:
            lost = access.take(access.buffer.written_by()) != mine
            if lost.any():
                access.fail(RaceError, lost, "written by two threads at once")


def check_write(access: Access, mine: Array, atomic: bool = False) -> None:
    """Raise if the buffer is read-only, for a race with earlier writes, or (not for atomics) another block's reads."""
    buffer = access.buffer
    if buffer.read_only:
        access.fail(AccessError, np.ones((1, 1), bool), "written, but the buffer is read-only")
    access.check_writers(mine, "written", atomic)
    if buffer.reader is not None and not atomic:
        reader = access.take(buffer.reader)
        other = (reader != NOBODY) & (reader != access.blocks())
        if other.any():
            access.fail(RaceError, other, "written, but another block reads it in the same launch")
