"""Runs a program over a grid: batches of blocks, each batch split into groups of warps that run in shuffled order.

A group runs until it ends or reaches a barrier; then another one runs. When all stand still, every block whose threads
all wait at the same barrier goes on; anything else is a BarrierError. Each group takes the same few warps of every
block of the batch, so that lanes of many blocks go through each instruction at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .asynchronous import Copies
from .counters import Counters
from .errors import BarrierError, StepLimitError
from .group import WARP, Group
from .layout import Layout
from .memory import Memory
from .program import Block, Program
from .shared import SharedMemory

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]
LANES = 1 << 15  # lanes of a batch: few enough for the caches, many enough to forget the cost of a Python call
REGISTER_BYTES = 1 << 28
SHARED_BYTES = 1 << 22
GROUPS = 4  # groups of warps per batch where their order can matter


@dataclass
class Machine:
    """One launch: its program, shapes, memory and limits. `registers` is the slots' content common to all lanes."""

    program: Program
    grid: Shape
    block: Shape
    memory: Memory
    counters: Counters
    registers: list[Array]
    layout: Layout
    dynamic_shared: int
    step_limit: int
    rng: np.random.Generator
    most_groups: int = GROUPS

    def __post_init__(self) -> None:
        self.threads = int(np.prod(self.block))
        self.warps = -(-self.threads // WARP)
        lanes = min(LANES, REGISTER_BYTES // (8 * len(self.registers) + 8))
        if self.layout.shared_size:
            lanes = min(lanes, max(SHARED_BYTES // self.layout.shared_size, 1) * self.warps * WARP)
        self.blocks_at_once = max(lanes // (self.warps * WARP), 1)

    def run(self) -> None:
        """Run all blocks, batch after batch in shuffled order."""
        count = int(np.prod(self.grid))
        starts = np.arange(0, count, self.blocks_at_once)
        for start in self.rng.permutation(starts):
            self.run_batch(np.arange(start, min(start + self.blocks_at_once, count)))

    def run_batch(self, blocks: Array) -> None:
        """Run some blocks to their end."""
        shared = SharedMemory(len(blocks), self.layout.shared_size, self.warps, self.program.grain)
        running = self.groups(blocks, shared)
        while running:
            stopped: list[Group] = []
            order = self.rng.permutation(len(running))
            queue = [running[index] for index in order]
            while queue:
                for group in self.advance(queue.pop()):
                    (queue if group.waiting is None else stopped).append(group)
            if stopped:
                self.release(stopped, shared)
            running = stopped

    def groups(self, blocks: Array, shared: SharedMemory) -> list[Group]:
        """The groups of a batch, one per part of a random partition of the block's warps."""
        parts = min(self.most_groups, self.warps) if self.program.orderly else 1
        found = []
        for part in np.array_split(self.rng.permutation(self.warps), parts):
            thread = (np.sort(part)[:, None] * WARP + np.arange(WARP)).reshape(-1)
            lanes = np.tile(thread, len(blocks))
            local = np.full((lanes.size, self.layout.local_size), 0xA5, np.uint8)
            inside = lanes < self.threads
            place = np.repeat(np.arange(len(blocks)), thread.size)
            group = Group(
                list(self.registers),
                place,
                blocks[place].astype(np.int32),
                lanes,
                self.block,
                self.memory,
                shared,
                Copies(np.zeros(lanes.size, np.int64)),
                local,
                self.counters,
                self.rng,
                None if inside.all() else inside,
                self.grid != (1, 1, 1),
            )
            for name, slot in self.program.slots.special.items():
                group.registers[slot] = self.special(name, group)
            found.append(group)
        return found

    def special(self, name: str, group: Group) -> Array:
        """The value of a special register, int32."""
        base, _, axis = name[1:].partition(".")
        index = "xyz".find(axis) if axis else 0
        if base in ("ntid", "nctaid"):
            value = np.array([(self.block if base == "ntid" else self.grid)[index]])
        elif base in ("tid", "ctaid"):
            shape, number = (self.block, group.thread) if base == "tid" else (self.grid, group.grid_block)
            before = int(np.prod(shape[:index]))
            value = number // before % shape[index] if index < 2 else number // before
            value = value[:1] if shape[index] == 1 or (base == "ctaid" and (value == value[0]).all()) else value
        elif base.startswith("lanemask"):
            lane, other = (group.thread % WARP)[:, None], np.arange(WARP)
            chosen = {
                "eq": other == lane,
                "lt": other < lane,
                "le": other <= lane,
                "gt": other > lane,
                "ge": other >= lane,
            }
            value = (chosen[base[-2:]] * (1 << np.arange(WARP))).sum(axis=1).astype(np.uint32)
        else:
            value = {
                "laneid": group.thread % WARP,
                "warpid": group.thread // WARP,
                "nwarpid": np.array([self.warps]),
                "dynamic_smem_size": np.array([self.dynamic_shared]),
                "total_smem_size": np.array([self.layout.shared_size]),
            }[base]
        return value.astype(np.uint32).view(np.int32)

    def advance(self, group: Group) -> list[Group]:
        """Run a group to its end or to a barrier. Returns what is left of it: itself, waiting, or parts of it."""
        blocks, last = self.program.blocks, len(self.program.blocks) - 1
        group.waiting = None
        while True:
            while group.stack and group.place == group.stack[-1].join:
                group.arrive()
            if group.place == last:
                return []
            block = blocks[group.place]
            self.count(group, block)
            for step in block.full if group.mask is None else block.masked:
                step(group)
            if block.barrier is not None:
                return self.wait(group, block)
            if block.condition is None:
                group.place = block.target
            else:
                self.branch(group, block)

    def count(self, group: Group, block: Block) -> None:
        """Count a block's execution; a StepLimitError where there have been too many."""
        group.steps += 1
        if group.steps > self.step_limit:
            raise StepLimitError(
                f"kernel {self.program.function.name}: more than {self.step_limit} basic blocks in a row"
            )
        self.counters.execute(block.opcodes, group)

    def branch(self, group: Group, block: Block) -> None:
        """Follow a conditional branch, all lanes or divided."""
        assert block.condition is not None
        taken = group.registers[block.condition]
        if block.negated:
            taken = ~taken
        if taken.size == 1 or group.mask is None and (taken.all() or not taken.any()):
            group.place = block.target if taken[0] else block.following
            return
        if group.mask is not None:
            taken = taken & group.mask
            if not taken.any() or (taken == group.mask).all():
                group.place = block.target if taken.any() else block.following
                return
        group.diverge(taken, block.target, block.following, block.join)

    def wait(self, group: Group, block: Block) -> list[Group]:
        """Stop at a barrier. Warps of the group that are elsewhere go on as a group of their own."""
        barrier = block.barrier
        assert barrier is not None
        group.current = barrier
        inside = group.thread < self.threads
        active = inside if group.mask is None else group.mask
        rows = active.reshape(-1, WARP)
        missing = inside.reshape(-1, WARP) & ~rows
        divided = rows.any(axis=1) & missing.any(axis=1)
        if divided.any():
            warp = int(np.flatnonzero(divided)[0])
            lane = warp * WARP + int(np.flatnonzero(missing[warp])[0])
            raise BarrierError(group.blame(lane, "does not reach this barrier together with its warp"))
        if not missing.any():
            group.waiting, group.place = barrier, block.following
            return [group]
        here, others = group.split(np.repeat(rows.any(axis=1), WARP))
        here.waiting, here.place = barrier, block.following
        return [here, others]

    def release(self, stopped: list[Group], shared: SharedMemory) -> None:
        """Let all blocks pass their barriers, or raise where one of them waits for threads that never come."""
        blocks = shared.barrier.size
        arrived = np.zeros(blocks, np.int64)
        place = np.full(blocks, -1)
        for group in stopped:
            assert group.waiting is not None
            inside = group.thread < self.threads
            arrived += np.bincount(group.block[inside], minlength=blocks)
            here = np.unique(group.block)
            group.current = group.waiting
            different = here[(place[here] != -1) & (place[here] != group.place)]
            if different.size:
                lane = int(np.flatnonzero(group.block == different[0])[0])
                raise BarrierError(
                    group.blame(lane, "waits here while other warps of the block wait at another barrier")
                )
            place[here] = group.place
        for group in stopped:
            short = arrived[group.block] != self.threads
            if short.any():
                lane = int(np.flatnonzero(short)[0])
                count = int(arrived[group.block[lane]])
                raise BarrierError(
                    group.blame(lane, f"waits for ever: {count} of {self.threads} threads reach this barrier")
                )
        shared.synchronize(np.flatnonzero(arrived))
