"""Times jobs on the pool of threads, and what an idle pool costs.

    python benchmarks/threads.py [--threads N] [--repeats N]

A job is two pieces that each add one to a number: what is timed is the way there and back. `concurrent.futures` does
the same job beside it, a function called through an executor that has its threads. Medians in microseconds; nothing is
judged here.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpuq.cpu import threads
from gpuq.cpu.compile import jit
from gpuq.cpu.spread import ALONE, find_crew, runner, spread

REST = 1e-3  # seconds, in which workers fall asleep
CALLERS = 4


@jit
def add_one(arguments: Any, first: int, last: int) -> None:
    (numbers,) = arguments
    for i in range(first, last):
        numbers[i * 8] += 1  # on cache lines of their own


run_add_one = runner(add_one)


@jit
def repeat(crew: Any, numbers: Any, units: int, times: int) -> None:
    for _ in range(times):
        spread(crew, add_one, (numbers,), units, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time jobs on the pool of threads.")
    parser.add_argument("--threads", type=int, default=threads.processors(), help="of a job, the caller's included")
    parser.add_argument("--repeats", type=int, default=2000)
    options = parser.parse_args()
    threads.set_limit(options.threads)
    units, crew = options.threads, find_crew(options.threads, 1)
    numbers = np.zeros(8 * units, np.int64)
    executor = ThreadPoolExecutor(1)
    jobs: dict[str, Callable[[], Any]] = {
        "called from Python, alone": lambda: run_add_one(ALONE, (numbers,), units, 1),
        "called from Python": lambda: run_add_one(crew, (numbers,), units, 1),
        "with the look-up of the crew": lambda: run_add_one(find_crew(units, 1), (numbers,), units, 1),
        "concurrent.futures": lambda: executor.submit(run_add_one, ALONE, (numbers,), units, 1).result(),
    }
    print(f"{options.threads} threads, {threads.processors()} processors")
    report("inside compiled code, 1000 jobs, of one", inside(crew, numbers, units, options.repeats // 20))
    for name, job in jobs.items():
        report(f"{name}, back to back", times_of(job, options.repeats, 0))
        report(f"{name}, after {REST * 1e3:g} ms", times_of(job, options.repeats // 10, REST))
    report(f"{CALLERS} Python threads at once, each job", at_once(jobs["called from Python"], options.repeats))
    print(f"{'processor time in an idle second':44} {idle_second() * 1e6:10.0f} µs")


def times_of(job: Callable[[], Any], repeats: int, rest: float) -> list[float]:
    """Seconds of each call."""
    times = []
    for _ in range(repeats):
        if rest:
            time.sleep(rest)
        begin = time.perf_counter()
        job()
        times.append(time.perf_counter() - begin)
    return times


def inside(crew: Any, numbers: Any, units: int, repeats: int) -> list[float]:
    """Seconds of a job among a thousand that compiled code runs one after the other."""
    repeat(crew, numbers, units, 1)
    return [seconds / 1000 for seconds in times_of(lambda: repeat(crew, numbers, units, 1000), repeats, 0)]


def at_once(job: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each call where several threads call."""
    times: list[float] = []
    callers = [threading.Thread(target=lambda: times.extend(times_of(job, repeats, 0))) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return times


def idle_second() -> float:
    """Seconds of processor time that this process takes while it does nothing for one."""
    time.sleep(REST)
    begin = time.process_time()
    time.sleep(1)
    return time.process_time() - begin


def report(name: str, times: list[float]) -> None:
    """Print the median and how much the slowest of a hundred calls took."""
    print(f"{name:44} {statistics.median(times) * 1e6:10.2f} µs  99 %: {np.percentile(times, 99) * 1e6:8.2f} µs")


if __name__ == "__main__":
    main()
