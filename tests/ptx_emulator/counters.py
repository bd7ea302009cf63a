"""What a launch cost, in the units that a GPU is slow in: instructions, sectors of global memory, shared memory
wavefronts.

A sector is 32 bytes of global memory; a warp's load or store moves every sector it touches. Shared memory has 32 banks
of 4 bytes; one wavefront serves any number of lanes that read one word per bank. Accesses of 8 and 16 bytes per lane
are served for 16 and 8 lanes at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .syntax import Instruction

if TYPE_CHECKING:
    from .group import Group

Array = npt.NDArray[Any]
SECTOR, BANKS, WARP = 32, 32, 32
FAR = np.int64(1) << np.int64(62)  # inactive lanes, sorted behind every address


@dataclass
class Traffic:
    """One instruction's, or one direction's, memory traffic: `needed` is the least possible for the same bytes.

    Global memory: bytes used, and bytes of the sectors moved. Shared memory: wavefronts without conflicts, and
    wavefronts.
    """

    needed: int = 0
    moved: int = 0

    @property
    def ratio(self) -> float:
        """moved / needed; 1.0 is perfect, and also the value where nothing moved."""
        return self.moved / self.needed if self.needed else 1.0

    def add(self, needed: int, moved: int) -> None:
        """Count one more access."""
        self.needed += needed
        self.moved += moved


@dataclass
class Counters:
    """Counts of one launch. `instructions` and `opcodes` count warps that execute; `lines` are source lines of the
    PTX."""

    loads: Traffic = field(default_factory=Traffic)
    stores: Traffic = field(default_factory=Traffic)
    shared: Traffic = field(default_factory=Traffic)
    lines: dict[int, Traffic] = field(default_factory=dict)
    opcodes: Counter[str] = field(default_factory=Counter)

    @property
    def instructions(self) -> int:
        """All instructions, counted once per warp."""
        return sum(self.opcodes.values())

    def line(self, instruction: Instruction | None) -> Traffic:
        """The traffic of one instruction."""
        return self.lines.setdefault(instruction.line if instruction else 0, Traffic())

    def execute(self, opcodes: tuple[str, ...], group: Group) -> None:
        """Count instructions that a group's active warps execute."""
        warps = group.warp_count()
        for opcode in opcodes:
            self.opcodes[opcode] += warps

    def global_access(self, group: Group, address: Array, width: int, lanes: Array, direction: str) -> None:
        """Count `width` bytes at `address` for each of `lanes`; a single address stands for all of them."""
        if address.size == lanes.size == group.count and _ascending(address, width):
            needed, moved = width * address.size, SECTOR * _ascending_sectors(address, width)
        else:
            needed, moved = _sectors(*_by_warp(group, address, lanes), width)
        getattr(self, direction).add(needed, moved)
        self.line(group.current).add(needed, moved)

    def shared_access(self, group: Group, address: Array, width: int, lanes: Array, phase: int | None = None) -> None:
        """Count a shared access; `phase` is the number of lanes served at a time where it is not the usual one."""
        phase = phase or min(WARP, WARP * 4 // max(width, 4))
        rows, active = _by_warp(group, address, lanes)
        ideal, wavefronts = _wavefronts(rows.reshape(-1, phase), active.reshape(-1, phase), width)
        self.shared.add(ideal, wavefronts)
        self.line(group.current).add(ideal, wavefronts)


class NoCounters(Counters):
    """For launches whose cost nobody asks for."""

    def execute(self, *instructions: Any) -> None:
        """Count nothing."""

    def global_access(self, *access: Any) -> None:
        """Count nothing."""

    def shared_access(self, *access: Any) -> None:
        """Count nothing."""


def _ascending(address: Array, width: int) -> bool:
    """Whether all lanes are active and lie at one distance of at least `width`."""
    step = int(address[1] - address[0]) if address.size > 1 else 0
    return width <= step <= SECTOR and bool((np.diff(address) == step).all())


def _ascending_sectors(address: Array, width: int) -> int:
    """The sectors of all warps for such addresses: every sector from the warp's first to its last."""
    rows = address.reshape(-1, WARP)
    return int(((rows[:, -1] + width - 1 >> 5) - (rows[:, 0] >> 5) + 1).sum())


def _by_warp(group: Group, address: Array, lanes: Array) -> tuple[Array, Array]:
    """Addresses and activity as (warps, 32)."""
    if lanes.size == group.count:
        rows = np.broadcast_to(address, (group.count,)).reshape(-1, WARP)
        return rows, np.ones(rows.shape, bool)
    spread = np.zeros(group.count, np.int64)
    active = np.zeros(group.count, bool)
    spread[lanes], active[lanes] = address, True
    return spread.reshape(-1, WARP), active.reshape(-1, WARP)


def _sectors(rows: Array, active: Array, width: int) -> tuple[int, int]:
    """Distinct bytes used and bytes of distinct sectors, summed over warps; accesses are aligned to `width`."""
    ordered = np.sort(np.where(active, rows, FAR), axis=1)
    inside = ordered != FAR
    fresh = inside.copy()
    fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    sector = ordered >> 5
    first = inside.copy()
    first[:, 1:] &= sector[:, 1:] != sector[:, :-1]
    return int(fresh.sum()) * width, int(first.sum()) * max(SECTOR, width)


def _wavefronts(rows: Array, active: Array, width: int) -> tuple[int, int]:
    """The least number of wavefronts and the number needed, for phases of lanes as rows."""
    words = rows[:, :, None] // 4 + np.arange(max(width // 4, 1))
    words = np.where(active[:, :, None], words, FAR).reshape(len(rows), -1)
    ordered = np.sort(words, axis=1)
    fresh = ordered != FAR
    fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    phase = np.broadcast_to(np.arange(len(rows))[:, None], fresh.shape)[fresh]
    load = np.bincount(phase * BANKS + ordered[fresh] % BANKS, minlength=len(rows) * BANKS).reshape(-1, BANKS)
    distinct = fresh.sum(axis=1)
    return int((-(-distinct // BANKS)).sum()), int(load.max(axis=1).sum())
