"""Times several ways of doing the same thing, in turns, so that a busy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

REPEATS = 9
PAUSE = 0.05  # seconds before each run: OpenBLAS's threads spin for some 30 ms after a product, on the next one's cores


def alternate(contenders: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """The median of `repeats` times of each contender in seconds; one uncounted round first compiles and warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for _ in range(repeats):
        for name, contender in contenders.items():
            time.sleep(PAUSE)
            contender()  # uncounted: fetches its data and wakes its threads
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}
