"""Times several ways of doing the same thing, in turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

REPEATS = 9
IN_A_ROW = 4  # runs of each contender before the next has its turn; the first of them wakes threads and is not counted
PAUSE = 0.05  # seconds before each turn: OpenBLAS threads spin some 30 ms after a product, on the next one's cores
WARM, TIMED = (
    0.008,
    0.008,
)  # seconds of calls in a turn: a virtual processor takes milliseconds to come back from a pause
LONG = 0.05  # seconds of a call that needs no such start
SLICE = 0.002  # seconds in which an idle process uses less than a quarter of a processor


def alternate(contenders: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """The median time of each contender in seconds, over `repeats` turns; one uncounted round first compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for _ in range(repeats):
        for name, contender in contenders.items():
            time.sleep(PAUSE)
            times = [_time(contender) for _ in range(IN_A_ROW)]
            seconds[name] += times[1:]
    return {name: median(times) for name, times in seconds.items()}


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
