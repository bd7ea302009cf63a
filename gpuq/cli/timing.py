"""Times several ways of doing the same thing, in turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

REPEATS = 9
IN_A_ROW = 4  # runs of each contender before the next has its turn; the first of them wakes threads and is not counted
PAUSE = 0.05  # seconds before each turn: OpenBLAS threads spin some 30 ms after a product, on the next one's cores


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


def _time(contender: Callable[[], Any]) -> float:
    start = time.perf_counter()
    contender()
    return time.perf_counter() - start
