"""Times several ways of doing the same thing, in turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

REPEATS = 9
PAUSE = 0.5  # seconds at most between turns: OpenBLAS threads spin 100 ms after a product, on the next one's cores
WARM, TIMED = 0.008, 0.008  # seconds of calls in a turn: a virtual processor comes back from a pause in milliseconds
LONG = 0.05  # seconds of a call that needs no such start
# seconds in which an idle process uses less than a quarter of a processor: three ticks of the system, which counts what
# other threads have used at its ticks alone
SLICE = 0.012


def alternate(contenders: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """The median time of each contender in seconds, over `repeats` turns; one uncounted round first compiles."""
    seconds: dict[str, list[float]] = {name: [_time(contender)] for name, contender in contenders.items()}
    for _ in range(repeats):
        for name, contender in contenders.items():
            settle()
            seconds[name].append(turn(contender, seconds[name][-1]))
    return {name: median(times[1:]) for name, times in seconds.items()}


def turn(contender: Callable[[], Any], expected: float) -> float:
    """The median time of calls in a row, after calls that are not counted; `expected` is that of a call before."""
    if expected < LONG:
        _times(contender, WARM)
    return median(_times(contender, TIMED))


def settle() -> None:
    """Wait, a moment at most, until no thread of this process computes or spins any more."""
    for _ in range(round(PAUSE / SLICE)):
        used = time.process_time()
        time.sleep(SLICE)
        if time.process_time() - used < SLICE / 4:
            return


def _times(contender: Callable[[], Any], least: float) -> list[float]:
    """Of as many calls as take `least` seconds together."""
    times: list[float] = []
    end = time.perf_counter() + least
    while not times or time.perf_counter() < end:
        times.append(_time(contender))
    return times


def _time(contender: Callable[[], Any]) -> float:
    start = time.perf_counter()
    contender()
    return time.perf_counter() - start
