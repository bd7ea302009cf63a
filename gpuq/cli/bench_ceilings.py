"""The ceilings of `gpuq bench` as contenders: what the processor and its memory do when nothing else is to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq import dispatch
from gpuq.cli.contests import ELEMENTWISE, Contest
from gpuq.cpu import ceilings, threads
from gpuq.cpu.isa import INSTRUCTION_SETS
from gpuq.cpu.spread import ALONE, find_crew
from gpuq.cpu.streaming import VECTOR
from gpuq.layout import aligned

# contenders of every contest on the CPU, of which the fastest round counts: some systems leave threads on one core
CEILINGS = ("peak", "stream", "stream, non-temporal")
GPU_CEILING = "copy"  # on a GPU, see bench_gpu.py
PIECES = 8  # for each thread; a slow or disturbed core leaves some to the others
STEPS = 20_000  # of the dot instruction in a piece
LARGE = 1 << 20  # bytes from which a stream is shared by all threads


def peak_way(contest: Contest, most: int | None = None) -> tuple[Callable[[], Any], float] | None:
    """A loop over the dot instruction in registers on all threads, or on `most`; and how many times the operations of
    the contest it computes. None where the contest or the instruction set has none.
    """
    name = dispatch.instruction_set()
    run = ceilings.dot_peak(name)
    if contest.operation in ELEMENTWISE or run is None:
        return None
    count = (most or threads.num_threads()) * PIECES
    operations = count * STEPS * ceilings.operations_per_step(INSTRUCTION_SETS[name])
    found = np.empty(count, np.int64)
    crew = ALONE if most == 1 else find_crew(count, 1)
    return lambda: run(crew, (STEPS, found), count, 1), operations / contest.amount


def stream_way(contest: Contest, non_temporal: bool = False) -> tuple[Callable[[], Any], float] | None:
    """Memory alone: the bytes of the contest read and written, or the operands of a product read, on all threads where
    they are many.
    """
    if contest.operation not in ELEMENTWISE:
        m, k, n = contest.shape
        return None if non_temporal else (_reading(m * k + k * n), 1.0)
    reads, writes = ELEMENTWISE[contest.operation]
    (elements,) = contest.shape
    common = min(reads, writes)
    run = ceilings.stream(reads // common, writes // common, non_temporal)
    step = VECTOR // common
    size = max(elements // step, 1) * step
    source, given = _source(size * reads), aligned((size * writes,), np.uint8, VECTOR)
    two_passes, fresh = contest.operation.startswith("dynamic"), contest.operation.endswith("fresh")
    reading = _reading(size * reads, source) if two_passes else None
    steps = size // step
    smallest = _smallest(steps, size * (reads + writes))

    def copy() -> None:
        target = aligned((size * writes,), np.uint8, VECTOR) if fresh or two_passes else given
        if reading is not None:
            reading()
        run(find_crew(steps, smallest), (source, target), steps, smallest)

    return copy, size / elements


def _reading(size: int, source: Any = None) -> Callable[[], Any]:
    words = (_source(size // 8 * 8 + 8) if source is None else source).view(np.uint64)
    pieces = threads.num_threads() * PIECES if size >= LARGE else 1
    found = np.empty(pieces, np.uint64)
    return lambda: ceilings.read(find_crew(pieces, 1), (words, found), pieces, 1)


def _smallest(steps: int, size: int) -> int:
    """The fewest steps worth a thread: all of a small stream."""
    return 1 if size >= LARGE else steps


def _source(size: int) -> Any:
    """Bytes to read, written once: pages that never were are all the same one of the system, which caches hold."""
    source = aligned((size,), np.uint8, VECTOR)
    source.fill(1)
    return source
