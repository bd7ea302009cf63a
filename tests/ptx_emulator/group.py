"""A group of lanes that run in lockstep: their registers, their active mask and the stack of divergences still open.

A group holds whole warps, 32 lanes each, of several blocks of one batch. Lanes of a warp that the block does not have
(block sizes that are no multiple of 32) are never active. Where only some lanes take a branch, both sides run one after
the other and all meet again at the branch's immediate post-dominator.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .memory import Memory
from .syntax import Instruction

if TYPE_CHECKING:
    from .asynchronous import Copies
    from .counters import Counters
    from .shared import SharedMemory

Array = npt.NDArray[Any]
WARP = 32


@lru_cache(maxsize=64)
def _arange(count: int) -> Array:
    result = np.arange(count, dtype=np.int64)
    result.flags.writeable = False
    return result


@dataclass
class Frame:
    """One open divergence: lanes meet at block `join` with mask `restore`; `pending` is the side still to run."""

    join: int
    restore: Array | None
    pending: tuple[int, Array] | None


@dataclass
class Group:
    """The lanes' state. Arrays have one element per lane: `block` in the batch, `grid_block` in the grid, `thread` in
    the block. `mask` is None while every lane is active. `waiting` is the barrier's block index while the group
    waits."""

    registers: list[Array]
    block: Array
    grid_block: Array
    thread: Array
    block_shape: tuple[int, int, int]
    memory: Memory
    shared: SharedMemory
    copies: Copies
    local: Array
    counters: Counters
    rng: np.random.Generator
    mask: Array | None = None
    neighbours: bool = True  # whether the grid has other blocks than this one
    place: int = 0
    stack: list[Frame] = field(default_factory=list)
    waiting: Instruction | None = None
    steps: int = 0
    current: Instruction | None = None
    _lanes: tuple[Array | None, Array] | None = None
    _places: tuple[Array, Array] | None = None

    @property
    def count(self) -> int:
        """The number of lanes."""
        return self.thread.size

    def arange(self, count: int) -> Array:
        """0 … count-1 as int64, shared and read-only."""
        return _arange(count)

    def lanes(self) -> Array:
        """The numbers of the active lanes."""
        if self.mask is None:
            return _arange(self.count)
        if self._lanes is None or self._lanes[0] is not self.mask:
            self._lanes = (self.mask, np.flatnonzero(self.mask))
        return self._lanes[1]

    def places(self, lanes: Array) -> tuple[Array, Array]:
        """The block of each of some lanes, and its thread, (lanes, 1) int64; kept for all lanes at once."""
        if lanes.size < self.count:
            return self.block[lanes], self.thread[lanes].astype(np.int64)[:, None]
        if self._places is None:
            self._places = (self.block, self.thread.astype(np.int64)[:, None])
        return self._places

    def full(self, value: Array) -> Array:
        """A value with one element per lane."""
        return value if value.size == self.count else np.broadcast_to(value, (self.count,))

    def pick(self, value: Array) -> Array:
        """The active lanes' elements of a value."""
        value = self.full(value)
        return value if self.mask is None else value[self.lanes()]

    def write(self, slot: int, value: Array) -> None:
        """Set a register for the active lanes."""
        if self.mask is None:
            self.registers[slot] = value
        else:
            self.registers[slot] = np.where(self.mask, value, self.registers[slot])

    def spread(self, values: Array, dtype: np.dtype) -> Array:
        """Values of the active lanes as an array over all lanes; those of the others reach no register."""
        if self.mask is None:
            return values
        result = np.zeros(self.count, dtype)
        result[self.lanes()] = values
        return result

    def blame(self, lane: int, text: str) -> str:
        """An error message that names the current instruction and a lane's block and thread."""
        width, height, _ = self.block_shape
        thread = int(self.thread[lane])
        place = (thread % width, thread // width % height, thread // (width * height))
        return f"{self.current}: block {int(self.grid_block[lane])} thread {place}: {text}"

    def warp_count(self) -> int:
        """How many warps have an active lane."""
        if self.mask is None:
            return self.count // WARP
        return int(self.mask.reshape(-1, WARP).any(axis=1).sum())

    def arrive(self) -> None:
        """At the innermost join: run the side still pending, or go on with all lanes that split there."""
        frame = self.stack[-1]
        if frame.pending is None:
            self.mask = frame.restore
            self.stack.pop()
            if self.mask is not None and self.stack and not self.mask.any():
                self.place = self.stack[-1].join  # after a split: these lanes are not part of the inner divergence
        else:
            self.place, self.mask = frame.pending
            frame.pending = None

    def diverge(self, taken: Array, target: int, following: int, join: int) -> None:
        """Split the active lanes: `taken` go to block `target`, the others to `following`, one side after the other."""
        others = ~taken if self.mask is None else self.mask & ~taken
        top = self.stack[-1] if self.stack else None
        if target == join or following == join:
            if top is None or top.join != join or top.pending is not None:
                self.stack.append(Frame(join, self.mask, None))
            self.place, self.mask = (following, others) if target == join else (target, taken)
            return
        sides = [(target, taken), (following, others)]
        first = int(self.rng.integers(2))
        self.stack.append(Frame(join, self.mask, sides[1 - first]))
        self.place, self.mask = sides[first]

    def part(self, lanes: Array, mask: Array | None, stack: list[Frame]) -> Group:
        """The lanes `lanes` as a group of their own."""
        registers = [each if each.size == 1 else each[lanes] for each in self.registers]
        return replace(
            self,
            registers=registers,
            block=self.block[lanes],
            grid_block=self.grid_block[lanes],
            thread=self.thread[lanes],
            local=self.local[lanes],
            mask=mask,
            stack=stack,
            waiting=None,
            _lanes=None,
            _places=None,
            copies=self.copies.part(lanes),
        )

    def split(self, active: Array) -> tuple[Group, Group]:
        """The warps whose lanes are `active`, and the other warps, which go on where they were to meet these."""
        chosen = np.flatnonzero(active)
        rest = np.flatnonzero(~active)

        def narrowed(mask: Array | None, lanes: Array) -> Array | None:
            part = None if mask is None else mask[lanes]
            return None if part is None or part.all() else part

        def frames(lanes: Array, source: list[Frame]) -> list[Frame]:
            found = []
            for frame in source:
                pending = None
                if frame.pending is not None and frame.pending[1][lanes].any():
                    pending = (frame.pending[0], frame.pending[1][lanes])
                found.append(Frame(frame.join, narrowed(frame.restore, lanes), pending))
            return found

        first = self.part(chosen, narrowed(self.mask, chosen), frames(chosen, self.stack))
        second = self.part(rest, None, frames(rest, self.stack))
        second.place = second.stack[-1].join
        return first, second
