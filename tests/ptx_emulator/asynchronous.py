"""cp.async: copies from global to shared memory that land as late as the waits allow.

A copy reads its source when it is started, claims its shared bytes as a write, and lands when its thread waits for its
group. Until then any access to those bytes is an AsyncCopyError; afterwards they count as written by that thread at
that moment, so other threads need a barrier behind the wait. Source: PTX ISA, "Data Movement and Conversion
Instructions: Non-bulk copy", cp.async, cp.async.commit_group, cp.async.wait_group, cp.async.wait_all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import RaceError
from .group import Group
from .shared import Accessors, SharedMemory

Array = npt.NDArray[Any]


@dataclass
class Copy:
    """Copies of one instruction in flight: per lane, its row in shared memory, its bytes and the number of its
    group."""

    lanes: Array
    rows: Array
    content: Array
    number: Array


@dataclass
class Copies:
    """A lane group's copies in flight, oldest first; `committed` counts each lane's commit_group instructions."""

    committed: Array
    flying: list[Copy] = field(default_factory=list)

    def part(self, lanes: Array) -> Copies:
        """The copies of `lanes`, renumbered."""
        new = np.full(self.committed.size, -1)
        new[lanes] = np.arange(lanes.size)
        found = []
        for copy in self.flying:
            kept = new[copy.lanes] >= 0
            if kept.any():
                found.append(Copy(new[copy.lanes[kept]], copy.rows[kept], copy.content[kept], copy.number[kept]))
        return Copies(self.committed[lanes], found)

    def start(self, group: Group, address: Array, content: Array) -> None:
        """Start copying `content`, (lanes, width), to shared addresses of the active lanes."""
        shared, lanes, width = group.shared, group.lanes(), content.shape[1]
        rows = shared.place(group, address, width, lanes)
        shared.claim(group, rows, width, lanes)
        if np.unique(rows).size < rows.size:
            raise RaceError(group.blame(int(lanes[0]), "two threads copy to one shared address"))
        shared.grains(shared.flying, width)[rows] = True
        shared.copies += 1
        self.flying.append(Copy(lanes, rows, content, self.committed[lanes]))

    def commit(self, group: Group) -> None:
        """cp.async.commit_group."""
        self.committed = self.committed.copy()
        self.committed[group.lanes()] += 1

    def wait(self, group: Group, pending: int) -> None:
        """Land all copies of the active lanes but those of their `pending` newest groups; -1: uncommitted ones too."""
        limit = self.committed - pending
        active = np.zeros(group.count, bool)
        active[group.lanes()] = True
        kept = []
        for copy in self.flying:
            landed = active[copy.lanes] & (copy.number < limit[copy.lanes])
            if landed.all():
                _land(group, group.shared, copy.lanes, copy.rows, copy.content)
                group.shared.copies -= 1
                continue
            if landed.any():
                _land(group, group.shared, copy.lanes[landed], copy.rows[landed], copy.content[landed])
                rest = ~landed
                copy = Copy(copy.lanes[rest], copy.rows[rest], copy.content[rest], copy.number[rest])
            kept.append(copy)
        self.flying = kept


def _land(group: Group, shared: SharedMemory, lanes: Array, rows: Array, content: Array) -> None:
    shared.grains(shared.flying, content.shape[1])[rows] = False
    shared.land(group, rows, content, Accessors(shared, group, lanes))
