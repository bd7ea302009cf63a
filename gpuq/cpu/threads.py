"""How many threads of the CPU one call uses at most; pool.py has them, spread.py shares work among them."""

from __future__ import annotations

import os

from gpuq import environment

_limit: int | None = None


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
