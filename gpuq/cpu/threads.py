"""Threads of the CPU backend: a large job is cut into pieces, which the calling thread and helpers take one by one.

    pieces:   0  1  2  3  4  5  6  7      the caller and up to n − 1 threads of the pool each take the next piece until
              c  t  c  c  t  c  t  c      none is left: a slow core, or a busy neighbour, stalls nobody

Kernels run without the GIL. Waking a thread costs some 60 µs, so jobs are only cut where a piece takes longer; what is
too small runs in the caller and starts no thread. Which thread took a piece never shows in the result. Any number of
Python threads may come at once: each takes its own pieces, and a busy pool only means that it takes more of them. A
forked child starts a pool of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from gpuq import environment

POOL_SIZE = 128  # threads are only started when work waits for them
PIECES_PER_THREAD = 4  # so that a thread that comes late, or runs slowly, still leaves the others something to take

_pool: ThreadPoolExecutor | None = None
_limit: int | None = None
_lock = threading.Lock()


def set_limit(n: int) -> None:
    """Let one call use at most n threads, the calling one included."""
    global _limit
    _limit = n


def num_threads() -> int:
    """The most threads one call uses.

    Raises
    ------
    ValueError
        `GPUQ_NUM_THREADS` is not an integer of at least 1.
    """
    if _limit is not None:
        return _limit
    asked = environment.read("GPUQ_NUM_THREADS")
    if not asked:
        return processors()
    if not asked.isdecimal() or int(asked) < 1:
        raise ValueError(f"GPUQ_NUM_THREADS: got {asked!r}; accepted: an integer of at least 1")
    return int(asked)


def processors() -> int:
    """The number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cut(count: int, smallest: int) -> list[tuple[int, int]]:
    """Ranges that cover 0 … count: one, or enough for all threads, none shorter than `smallest` but the last."""
    smallest = max(1, smallest)
    if count < 2 * smallest or num_threads() == 1:
        return [(0, count)]
    length = max(smallest, -(-count // (num_threads() * PIECES_PER_THREAD)))
    return [(first, min(first + length, count)) for first in range(0, count, length)]


def run(job: Callable[[int, int], Any], pieces: Sequence[tuple[int, int]]) -> list[Any]:
    """Call job(first, last) for every piece and return the results in the order of the pieces."""
    if len(pieces) == 1:
        return [job(*pieces[0])]
    results: list[Any] = [None] * len(pieces)
    waiting = iter(enumerate(pieces))

    def take() -> None:
        for index, piece in waiting:
            results[index] = job(*piece)

    helpers = _start(take, min(num_threads(), len(pieces)) - 1)
    try:
        take()
    finally:  # nobody may still be writing when the call ends, however it ends
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
    return results


def _start(task: Callable[[], None], count: int) -> list[Future[None]]:
    """The task on threads of the pool; on fewer, or none, where the system or a closing interpreter gives no more."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(POOL_SIZE, thread_name_prefix="gpuq")
        pool = _pool
    started: list[Future[None]] = []
    with contextlib.suppress(RuntimeError):
        for _ in range(count):
            started.append(pool.submit(task))
    return started


def _forget_pool() -> None:
    """In a forked child the parent's threads are gone, and its lock may be held for ever."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
