"""A model of one scheduler that issues a main loop, from ptxas's own scheduling words: how busy the tensor pipe is.

    each cycle, the first warp in turn that may go on issues its next instruction; it may not while
        its last instruction's stall cycles are not over
        a counter that the instruction waits for is not back         (results come LATENCY later, operands READ later)
        the pipe that the instruction needs is taken                 (tensor: its cycles; shared and global memory: 8)
        it is a barrier, and not all warps have come there

What the model leaves out: the other schedulers, but for their share of the memory pipe; bank conflicts; misses; the
register file. It says whether a loop's instructions can keep the tensor pipe busy, not that a card will.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .disassembly import COUNTERS, Instruction
from .main_loop import TENSOR, Loop

# cycles of the tensor pipe of a scheduler per m16n8k32 (7.5: m8n8k16); 9.0: as ptxas paces mma.sync; 10.0: not known
TENSOR_CYCLES = {"sm_75": 4, "sm_80": 8, "sm_86": 16, "sm_89": 16, "sm_90": 6, "sm_120": 16}
LATENCY = {"LDSM": 33, "LDS": 29, "LDGSTS": 25, "LDG": 450, "STS": 20, "S2R": 25, "R2UR": 12}
OTHER_LATENCY, READ_LATENCY = 20, 12
MEMORY_PIPE = ("LDSM", "LDS", "LDGSTS", "LDG", "STS")
MEMORY_CYCLES = 8  # four schedulers share 128 bytes a cycle; an LDSM.x4 of each is 2,048 bytes, over two ports
FREE_OF_MEMORY_PIPE = ("LDS",)  # it waits for the pipe, but a word per lane hardly takes it
BARRIER = "BAR"
ITERATIONS, WARMING_UP = 12, 4  # of the loop


@dataclass
class _Warp:
    """Where a warp is, and when it may go on."""

    place: int = 0
    iteration: int = 0
    ready: int = 0
    counters: list[int] = field(default_factory=lambda: [0] * COUNTERS)  # when each is back

    @property
    def done(self) -> bool:
        return self.iteration == ITERATIONS


@dataclass
class _Pipes:
    """When the pipes are free again, and who has come to which barrier."""

    tensor: int = 0
    memory: int = 0
    arrived: dict[tuple[int, int], set[int]] = field(default_factory=dict)


def busy_share(loop: Loop, tensor_cycles: int, warps: int) -> float:
    """The share of its time that a scheduler's tensor pipe works, with that many warps in the loop."""
    body, group, pipes = loop.instructions, [_Warp() for _ in range(warps)], _Pipes()
    ends = [0] * ITERATIONS  # when the last warp issued the last instruction of each iteration
    cycle = turn = 0
    while not all(warp.done for warp in group):
        for number in (*range(turn, warps), *range(turn)):
            warp = group[number]
            if not warp.done and _may_issue(body[warp.place], warp, number, warps, pipes, cycle):
                _issue(body[warp.place], warp, pipes, tensor_cycles, cycle)
                warp.place += 1
                if warp.place == len(body):
                    ends[warp.iteration] = cycle
                    warp.place, warp.iteration = 0, warp.iteration + 1
                turn = (number + 1) % warps
                break
        cycle += 1
    cycles = (ends[-1] - ends[WARMING_UP - 1]) / (ITERATIONS - WARMING_UP)
    tensor_instructions = sum(instruction.name in TENSOR for instruction in body)
    return warps * tensor_instructions * tensor_cycles / cycles


def _may_issue(instruction: Instruction, warp: _Warp, number: int, warps: int, pipes: _Pipes, cycle: int) -> bool:
    if warp.ready > cycle or any(warp.counters[counter] > cycle for counter in instruction.schedule.waits_for):
        return False
    if instruction.name in TENSOR and pipes.tensor > cycle:
        return False
    if instruction.name == BARRIER:
        came = pipes.arrived.setdefault((warp.iteration, warp.place), set())
        came.add(number)
        return len(came) == warps
    return instruction.name not in MEMORY_PIPE or pipes.memory <= cycle


def _issue(instruction: Instruction, warp: _Warp, pipes: _Pipes, tensor_cycles: int, cycle: int) -> None:
    schedule = instruction.schedule
    if instruction.name in TENSOR:
        pipes.tensor = cycle + tensor_cycles
    elif instruction.name in MEMORY_PIPE and instruction.name not in FREE_OF_MEMORY_PIPE:
        pipes.memory = cycle + MEMORY_CYCLES
    for counter, latency in (
        (schedule.sets_written, LATENCY.get(instruction.name, OTHER_LATENCY)),
        (schedule.sets_read, READ_LATENCY),
    ):
        if counter is not None:
            warp.counters[counter] = max(warp.counters[counter], cycle + latency)
    warp.ready = cycle + max(1, schedule.stall)
