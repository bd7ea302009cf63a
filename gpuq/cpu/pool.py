"""The pool of threads below Python: workers inside compiled code that take blocks of jobs, and the memory they meet in.

    control block, 64-byte lines of words     GENERATION │ one more with every job: what idle workers look at
                                              SLEEPERS, EPOCH │ how many of them sleep; one more when all are to go;
                                              WORKERS, MOVING │ how many there are; whether one is being moved
                                              slot 0 … 7 │ one job each, so 8 callers at once have workers
                                              places │ where each worker sleeps

    blocks of a job:  0  1  2  3  4  5  6  7      the caller takes them from the front, workers from the back: a core
                      c  c  c  c ─►    ◄─ w  w    meets the blocks again that it had in the job before this one

A job is the address of a function (`arguments`, `block`) → whether it failed, the address of its arguments and a
number of blocks. Blocks are handed out by compare-and-swap of one word, `BLOCKS`: a generation, the first block left
and the end of the blocks left. A slow core, or a busy neighbour, thus stalls nobody, and a worker that comes late
cannot take a block of the job that follows in the same slot. A worker takes a seat first, so that no more of them work
on a job than its caller allows. A caller that finds all slots taken works alone, and so does one that has one block.

An idle worker looks for work for about LOOKING seconds, since waking a sleeping one takes 5 to 50 µs, and then sleeps:
on a futex on Linux. Elsewhere it goes back to Python and waits for an event there, which the next call sets before it
enters compiled code.

Workers start when a call first wants them. They are daemon threads: at exit, and before a fork, they are told to leave,
and are waited for; parent and child start new ones when they need them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.cpu.atomics import (
    FUTEX,
    I64,
    add,
    allow,
    give_way,
    load,
    pause,
    processor,
    processors_of,
    replace,
    sleep_while,
    store,
    wake,
)
from gpuq.cpu.compile import jit

SLOTS = 8
LOOKING = 100e-6  # seconds
LONGER = 20  # times as long where sleeping and waking take Python: a call that woke them must not find them gone again
WAITING = 2_000  # pauses of a caller, some 50 µs, before it gives way to others while it waits for the last block
MOST_WORKERS = 255

LINE, WORD = 64, 8  # bytes
GENERATION, SLEEPERS, EPOCH, WORKERS, MOVING, FIRST_SLOT = 0, *range(LINE, LINE + 4 * WORD, WORD), 2 * LINE
FIRST_PLACE = FIRST_SLOT + SLOTS * LINE  # a word for each worker: 0, or, while it sleeps, its number and processor
CONTROL_BYTES = FIRST_PLACE + MOST_WORKERS * WORD
PROCESSOR_BITS, MASK_WORDS = 16, 16  # 1,024 processors, as libc has it
OWNED, BLOCKS, SEATS, FUNCTION, ARGUMENTS, DONE, FAILED = range(0, 7 * WORD, WORD)  # in a slot

# BLOCKS holds a generation, the end of the blocks left (12 bits) and the first of them (12 bits); SEATS holds a
# generation and the seats left (24 bits). A generation comes again after 2^38 jobs in a slot.
BLOCK_BITS, SEAT_BITS, GENERATION_BITS = 12, 24, 38
MOST_BLOCKS = (1 << BLOCK_BITS) - 1


@intrinsic
def call(typing_context: Any, function: Any, arguments: Any, block: Any) -> Any:
    """Call a job's function by its address; 0, or something else if it failed."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(I64, [I64, I64])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])

    return types.int64(types.int64, types.int64, types.int64), generate


@jit
def share(control: int, workers: int, function: int, arguments: int, blocks: int) -> bool:
    """Run a job's blocks in this thread and at most so many workers; whether all of them succeeded.

    It returns when every block is done. `control` is the control block's address, and is not looked at where `workers`
    is 0.
    """
    slot = 0
    if workers > 0 and blocks > 1:
        slot = _claim_slot(control)
    if slot == 0:
        failed = 0
        for block in range(blocks):
            failed |= call(function, arguments, block)
        return failed == 0
    generation = (load(slot + BLOCKS) >> SEAT_BITS) + 1 & (1 << GENERATION_BITS) - 1
    store(slot + FUNCTION, function)
    store(slot + ARGUMENTS, arguments)
    store(slot + DONE, 0)
    store(slot + FAILED, 0)
    store(slot + BLOCKS, generation << SEAT_BITS | blocks << BLOCK_BITS)
    store(slot + SEATS, generation << SEAT_BITS | min(workers, blocks - 1))
    add(control + GENERATION, 1)
    if load(control + SLEEPERS) > 0:
        _wake_elsewhere(control, min(workers, blocks - 1))
    _take_blocks(slot, generation, 1)
    waited = 0
    while load(slot + DONE) != blocks:
        waited += 1
        if waited < WAITING:
            pause()
        else:
            give_way()
    succeeded = load(slot + FAILED) == 0
    store(slot + OWNED, 0)
    return succeeded


@jit
def _wake_elsewhere(control: int, count: int) -> None:
    """Wake so many workers, and see to it that one which slept on this thread's processor wakes on another one.

    A system that takes an idle virtual processor for a busy one leaves a worker where it slept; if that is here, caller
    and worker share a processor for milliseconds, and another one is idle. So such a worker may not use this one in the
    moment in which it is given one. One caller at a time does that: two would take each other's rule for the worker's.
    """
    here = processor()
    for index in range(load(control + WORKERS) if here >= 0 else 0):
        place = load(control + FIRST_PLACE + index * WORD)
        if place > 0 and place & (1 << PROCESSOR_BITS) - 1 == here:
            if replace(control + MOVING, 0, 1):
                _wake_without(control, count, place >> PROCESSOR_BITS, here)
                store(control + MOVING, 0)
                return
            break
    wake(control + GENERATION, count)


@jit
def _wake_without(control: int, count: int, thread: int, here: int) -> None:
    """Wake so many workers while the one of that thread may not use that processor."""
    mask = np.zeros(MASK_WORDS, np.int64)
    known = processors_of(thread, mask)
    if known:
        others = mask.copy()
        others[here >> 6] &= ~(1 << (here & 63))
        allow(thread, others)
    wake(control + GENERATION, count)
    if known:
        allow(thread, mask)


@jit
def _claim_slot(control: int) -> int:
    """The address of a slot that now belongs to this caller, or 0."""
    for index in range(SLOTS):
        slot = control + FIRST_SLOT + index * LINE
        if load(slot + OWNED) == 0 and replace(slot + OWNED, 0, 1):
            return slot
    return 0


@jit
def _take_blocks(slot: int, generation: int, front: int) -> None:
    """Run blocks of the job of that generation until none is left, from the front (1) or from the back (0)."""
    while True:
        left = load(slot + BLOCKS)
        first, end = left & MOST_BLOCKS, left >> BLOCK_BITS & MOST_BLOCKS
        if left >> SEAT_BITS != generation or first >= end:
            return
        if replace(slot + BLOCKS, left, left + 1 if front else left - (1 << BLOCK_BITS)):
            # The job cannot end, nor the slot be used again, before this block is done.
            if call(load(slot + FUNCTION), load(slot + ARGUMENTS), first if front else end - 1) != 0:
                store(slot + FAILED, 1)
            add(slot + DONE, 1)


@jit
def work(control: int, epoch: int, looks: int, can_sleep: bool, index: int, thread: int) -> None:
    """A worker's life: help, look, sleep, until the epoch ends; where it cannot sleep, until there is nothing to do.
    It is the worker of that index, and the system's thread of that number.
    """
    while load(control + EPOCH) == epoch:
        seen = load(control + GENERATION)
        if _help(control):
            continue
        looked = 0
        while load(control + GENERATION) == seen:
            if looked < looks:
                looked += 1
                pause()
            elif can_sleep:
                add(control + SLEEPERS, 1)
                store(control + FIRST_PLACE + index * WORD, thread << PROCESSOR_BITS | processor())
                sleep_while(control + GENERATION, seen)
                store(control + FIRST_PLACE + index * WORD, 0)
                add(control + SLEEPERS, -1)
            else:
                return


@jit
def _help(control: int) -> bool:
    """Take a seat at every job that has one, and run blocks of it; whether there was any."""
    helped = False
    for index in range(SLOTS):
        slot = control + FIRST_SLOT + index * LINE
        seats = load(slot + SEATS)
        if seats & (1 << SEAT_BITS) - 1 > 0 and replace(slot + SEATS, seats, seats - 1):
            _take_blocks(slot, seats >> SEAT_BITS, 0)
            helped = True
    return helped


@jit
def _end_epoch(control: int) -> None:
    """Let every worker leave."""
    add(control + EPOCH, 1)
    add(control + GENERATION, 1)
    wake(control + GENERATION, MOST_WORKERS)


@jit
def _pause_often(count: int) -> None:
    for _ in range(count):
        pause()


class Pool:
    """The workers of this process and their control block; `can_sleep`: whether compiled code can (FUTEX)."""

    def __init__(self, can_sleep: bool) -> None:
        self._can_sleep = can_sleep
        self._memory = np.zeros((CONTROL_BYTES + LINE) // WORD, np.int64)  # never freed: workers may be looking at it
        self._control = -(-self._memory.ctypes.data // LINE) * LINE
        self._looks = 0
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """No workers, and nobody who holds the lock or knows of the memory's content."""
        self._lock = threading.RLock()
        self._workers: list[threading.Thread] = []
        self._epoch = 0
        self._calls = 0  # that may need workers which cannot sleep in compiled code; those wait here:
        self._wanted = threading.Condition()
        self._memory[:] = 0

    def control(self, workers: int) -> int:
        """The control block's address for `share`, with at least that many workers there, where the system has them."""
        if len(self._workers) < workers:
            self._start(min(workers, MOST_WORKERS))
        if not self._can_sleep:
            with self._wanted:
                self._calls += 1
                self._wanted.notify_all()
        return self._control

    def _start(self, count: int) -> None:
        with self._lock, contextlib.suppress(RuntimeError):  # no more threads, or the interpreter is closing
            if self._looks == 0:
                self._prepare()
            while len(self._workers) < count and not self._closed:
                own = self._epoch, len(self._workers)
                worker = threading.Thread(target=self._serve, args=own, name="gpuq", daemon=True)
                worker.start()
                self._workers.append(worker)
                self._note(WORKERS, len(self._workers))

    def _prepare(self) -> None:
        """Compile what workers run, here and not in them, and find out how often they look in the time they have."""
        work(self._control, -1, 0, True, 0, 0)
        _pause_often(1)
        count, times = 2_000, []
        for _ in range(3):
            begin = time.perf_counter()
            _pause_often(count)
            times.append(time.perf_counter() - begin)
        seconds = LOOKING if self._can_sleep else LOOKING * LONGER
        self._looks = max(1, int(count * seconds / max(min(times), 1e-6)))
        atexit.register(self.close)

    def _serve(self, epoch: int, index: int) -> None:
        while self._epoch == epoch:
            calls = self._calls
            work(self._control, epoch, self._looks, self._can_sleep, index, threading.get_native_id())
            with self._wanted:
                if self._epoch == epoch and self._calls == calls:
                    self._wanted.wait()

    def rest(self) -> None:
        """Let all workers leave, and wait until they have; the next call that wants some starts new ones."""
        with self._lock:
            if not self._workers:
                return
            with self._wanted:
                self._epoch += 1
                self._wanted.notify_all()
            _end_epoch(self._control)
            for worker in self._workers:
                worker.join()
            self._workers = []
            self._note(WORKERS, 0)

    def _note(self, word: int, value: int) -> None:
        """Write a word of the control block."""
        self._memory[(self._control - self._memory.ctypes.data + word) // WORD] = value

    def close(self) -> None:
        """Let all workers leave for ever: the interpreter is about to take their code away."""
        self._closed = True
        self.rest()

    def after_fork(self) -> None:
        """In a forked child there are no workers, and a lock may be held by a thread that is not there."""
        self._begin()


POOL = Pool(bool(FUTEX))

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=POOL.rest, after_in_child=POOL.after_fork)
