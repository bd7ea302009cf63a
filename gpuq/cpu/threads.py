"""How many threads of the CPU one call uses at most; pool.py has them, spread.py shares work among them."""

from __future__ import annotations

import os
import time

from gpuq import environment

LOOK_AGAIN = 0.1  # seconds: to ask the system for the processors takes as long as a tenth of a short call

_limit: int | None = None
_known = -LOOK_AGAIN, 1  # when the system was asked, and what it said


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
    """The number of processors this process may use, or might a tenth of a second ago."""
    global _known
    seen, count = _known
    now = time.monotonic()
    if now - seen >= LOOK_AGAIN:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        _known = now, count
    return count
