"""The pool of threads and jobs spread over it: every unit is done once, by no more threads than allowed, whatever else
happens; workers that sleep in compiled code, and workers that sleep in Python, as on systems without a futex.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuq.cpu import pool, spread, threads
from gpuq.cpu.atomics import FUTEX, add, give_way, load, replace, store
from gpuq.cpu.blocking import MOST_ROOM
from gpuq.cpu.compile import jit
from gpuq.cpu.pool import Pool
from gpuq.cpu.spread import ALONE, find_crew, piece_length, runner
from subprocesses import run_python

TESTS = Path(__file__).parent
PATIENCE, ATTEMPTS = 200_000, 100  # looks at a word before a job gives up on other threads; jobs before a test does


@jit
def count_units(arguments: Any, first: int, last: int) -> None:
    counts, (by, _) = arguments
    for i in range(first, last):
        counts[i] += by


@jit
def count_present(arguments: Any, first: int, last: int) -> None:
    """Words: threads in here now, the most so far. Leaves when `wanted` have been in here at once, or patience ends."""
    words, wanted, patience = arguments
    address = words.ctypes.data
    add(address, 1)
    for _ in range(patience):
        present, most = load(address), load(address + 8)
        if present > most:
            replace(address + 8, most, present)
        elif most >= wanted:
            break
        give_way()
    add(address, -1)


@jit
def fail_at(arguments: Any, first: int, last: int) -> None:
    done, bad = arguments
    for i in range(first, last):
        if i == bad:
            raise ValueError("a job that should not have raised")
        done[i] = 1


run_count_units, run_count_present, run_fail_at = runner(count_units), runner(count_present), runner(fail_at)


@jit
def count_twice(crew: Any, counts: Any, others: Any) -> None:
    """Two jobs of one crew, from inside compiled code."""
    spread.spread(crew, count_units, (counts, (1, 2.5)), counts.size, 1)
    spread.spread(crew, count_units, (others, (3, 2.5)), others.size, 7)


@jit
def fork_off(arguments: Any, first: int, last: int) -> None:
    """A job whose units are jobs."""
    crew, counts = arguments
    for i in range(first, last):
        spread.spread(crew, count_units, (counts[i], (1, 2.5)), counts.shape[1], 1)


run_fork_off = runner(fork_off)


@pytest.fixture(
    params=[
        pytest.param(True, marks=pytest.mark.skipif(not FUTEX, reason="this system has no futex"), id="futex"),
        pytest.param(False, id="Python's condition"),
    ]
)
def own_pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A pool of the test's own."""
    made = Pool(request.param)
    yield made
    made.close()


def test_every_unit_is_done_once(own_pool: Pool) -> None:
    for workers in (0, 1, 2, 6):
        crew = (own_pool.control(workers), workers) if workers else ALONE
        for units in (0, 1, 2, 3, 7, 64, 1000, 5000):
            for smallest in (0, 1, 3, 400):
                counts = np.zeros(units + 1, np.int64)
                run_count_units(crew, (counts, (1, 2.5)), units, smallest)
                assert (counts[:units] == 1).all()
                assert counts[units] == 0


def test_compiled_code_spreads_jobs(own_pool: Pool) -> None:
    counts, others = np.zeros(100, np.int64), np.zeros(33, np.int64)
    for _ in range(200):
        count_twice((own_pool.control(2), 2), counts, others)
    assert (counts == 200).all()
    assert (others == 600).all()


def test_a_job_may_spread_jobs_itself(own_pool: Pool) -> None:
    counts, crew = np.zeros((40, 30), np.int64), (own_pool.control(2), 2)
    for _ in range(20):
        run_fork_off(crew, (crew, counts), 40, 1)
    assert (counts == 20).all()


def assert_workers_help(helpful: Pool, workers: int) -> None:
    """Each thread stays in a job until all have come: alone, the caller would not see anybody.

    Not every job has all workers on a busy machine: one may give up before the system has let them begin.
    """
    for _ in range(ATTEMPTS):
        words = np.zeros(2, np.int64)
        run_count_present((helpful.control(workers), workers), (words, workers + 1, PATIENCE), workers + 1, 1)
        assert words[0] == 0
        assert words[1] <= workers + 1
        if words[1] == workers + 1:
            return
    raise AssertionError(f"{words[1] - 1} of {workers} workers have come")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_help(own_pool: Pool, workers: int) -> None:
    for _ in range(10):
        assert_workers_help(own_pool, workers)


def test_no_more_threads_than_allowed_work_at_once(own_pool: Pool) -> None:
    """The pool has more workers than the call may use."""
    own_pool.control(6)
    for workers in (1, 2):
        words = np.zeros(2, np.int64)
        run_count_present((own_pool.control(workers), workers), (words, 8, 2_000), 40, 1)
        assert words[0] == 0
        assert 1 <= words[1] <= workers + 1


def wait_until_asleep(asleep: Pool, workers: int) -> None:
    """Look until all workers sleep."""
    for _ in range(10_000):
        if asleep._can_sleep:
            sleepers = word(asleep._control + pool.SLEEPERS)
        else:
            sleepers = len(asleep._wanted._waiters)  # type: ignore[attr-defined]
        if sleepers == workers:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{sleepers} of {workers} workers sleep")


def test_idle_workers_sleep_and_wake(own_pool: Pool) -> None:
    for _ in range(5):
        assert_workers_help(own_pool, 3)
        wait_until_asleep(own_pool, 3)


@pytest.mark.skipif(not FUTEX, reason="only Linux says where a thread runs")
def test_a_worker_wakes_on_another_processor_than_the_caller_s() -> None:
    """It was left where it had slept, if the system took the other, idle, virtual processor for a busy one: after a
    pause a product on two threads took as long as on one, for milliseconds.
    """
    allowed, made = os.sched_getaffinity(0), Pool(True)
    if len(allowed) < 2:
        pytest.skip("needs two processors")
    here, control = min(allowed), made.control(1)
    worker = made._workers[0].native_id
    try:
        for _ in range(5):
            os.sched_setaffinity(worker, {here})
            assert_workers_help(made, 1)
            wait_until_asleep(made, 1)
            assert word(control + pool.FIRST_PLACE) == worker << pool.PROCESSOR_BITS | here
            os.sched_setaffinity(worker, allowed)
            os.sched_setaffinity(0, {here})
            assert_workers_help(made, 1)
            wait_until_asleep(made, 1)
            os.sched_setaffinity(0, allowed)
            assert word(control + pool.FIRST_PLACE) != worker << pool.PROCESSOR_BITS | here
            assert os.sched_getaffinity(worker) == allowed
    finally:
        os.sched_setaffinity(0, allowed)
        made.close()


@jit
def wake_often(control: int, count: int) -> None:
    for _ in range(count):
        pool._wake_elsewhere(control, 1)


@pytest.mark.skipif(not FUTEX, reason="only Linux says where a thread runs")
@pytest.mark.parametrize("held", [False, True])
def test_one_caller_at_a_time_moves_a_worker(held: bool) -> None:
    """Of two callers on one processor the second would take the first one's rule, made for a moment, for the worker's
    own, and put that back last: so it moves nobody. The worker here is a thread that a look is taken at all the while.
    """
    allowed, made, end, last = os.sched_getaffinity(0), Pool(True), threading.Event(), threading.Event()
    if len(allowed) < 2:
        pytest.skip("needs two processors")
    here, control, seen = min(allowed), made.control(0), []
    worker = threading.Thread(target=last.wait)
    worker.start()
    set_word(control + pool.WORKERS, 1)
    set_word(control + pool.FIRST_PLACE, (worker.native_id or 0) << pool.PROCESSOR_BITS | here)
    set_word(control + pool.MOVING, int(held))

    def call() -> None:
        os.sched_setaffinity(0, {here})
        while not end.is_set():
            wake_often(control, 10_000)

    wake_often(control, 0)  # compiled here
    caller = threading.Thread(target=call)
    caller.start()
    for _ in range(300_000):
        seen.append(os.sched_getaffinity(worker.native_id or 0) == allowed)
        if not seen[-1]:
            break
    end.set()
    caller.join()
    seen_last = os.sched_getaffinity(worker.native_id or 0)
    last.set()
    worker.join()
    assert seen_last == allowed
    assert all(seen) == held
    assert word(control + pool.MOVING) == held


@pytest.mark.skipif(not FUTEX, reason="only Linux tells the state of a thread")
def test_sleeping_workers_use_no_processor(own_pool: Pool) -> None:
    own_pool.control(2)
    wait_until_asleep(own_pool, 2)
    tasks = [Path(f"/proc/self/task/{worker.native_id}/stat") for worker in own_pool._workers]
    states = [path.read_text().rpartition(")")[2].split() for path in tasks]
    assert [state[0] for state in states] == ["S", "S"]
    threading.Event().wait(0.3)
    later = [path.read_text().rpartition(")")[2].split() for path in tasks]
    assert [state[11:13] for state in later] == [state[11:13] for state in states]  # time in user and system mode


def test_many_callers_at_once(own_pool: Pool) -> None:
    """More of them than there are slots; each finds its own job done, and nothing else."""
    control, together = own_pool.control(3), threading.Barrier(12)

    def work(seed: int) -> None:
        counts = np.zeros(50 + seed, np.int64)
        together.wait()
        for _ in range(300):
            run_count_units((control, 3), (counts, (seed, 2.5)), counts.size, 1)
        assert (counts == 300 * seed).all()

    with ThreadPoolExecutor(12) as callers:
        list(callers.map(work, range(12)))


@jit
def set_word(address: int, value: int) -> None:
    store(address, value)


@jit
def word(address: int) -> int:
    return load(address)


def slots(control: int) -> list[int]:
    return [control + pool.FIRST_SLOT + i * pool.LINE for i in range(pool.SLOTS)]


def test_a_caller_that_finds_all_slots_taken_works_alone(own_pool: Pool) -> None:
    control, counts = own_pool.control(2), np.zeros(100, np.int64)
    for slot in slots(control):
        set_word(slot + pool.OWNED, 1)
    run_count_units((control, 2), (counts, (1, 2.5)), 100, 1)
    assert (counts == 1).all()
    assert [word(slot + pool.BLOCKS) for slot in slots(control)] == [0] * pool.SLOTS
    set_word(slots(control)[5] + pool.OWNED, 0)
    run_count_units((control, 2), (counts, (1, 2.5)), 100, 1)
    assert (counts == 2).all()
    assert [word(slot + pool.BLOCKS) > 0 for slot in slots(control)] == [i == 5 for i in range(pool.SLOTS)]


def test_a_late_worker_takes_no_block_of_the_next_job() -> None:
    """It has a seat at generation 4 and comes back to the slot when generation 5 is there, with blocks to take."""
    slot_memory = np.zeros(8, np.int64)
    slot = slot_memory.ctypes.data
    blocks = 5 << pool.SEAT_BITS | 9 << pool.BLOCK_BITS
    set_word(slot + pool.BLOCKS, blocks)
    for front in (0, 1):
        pool._take_blocks(slot, 4, front)  # would call address 0
    assert word(slot + pool.BLOCKS) == blocks


def test_generations_begin_anew(own_pool: Pool) -> None:
    control, counts = own_pool.control(2), np.zeros(100, np.int64)
    for slot in slots(control):
        set_word(slot + pool.BLOCKS, (1 << pool.GENERATION_BITS) - 2 << pool.SEAT_BITS)
    for _ in range(5):
        run_count_units((control, 2), (counts, (1, 2.5)), 100, 1)
    assert (counts == 5).all()
    assert word(slots(control)[0] + pool.BLOCKS) >> pool.SEAT_BITS == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_that_raises_is_an_error_after_its_other_pieces(own_pool: Pool, workers: int) -> None:
    crew = (own_pool.control(workers), workers) if workers else ALONE
    for bad in (0, 7, 15):
        done = np.zeros(16, np.int64)
        with pytest.raises(MemoryError, match=f"the workspace of a thread: at most {MOST_ROOM} bytes"):
            run_fail_at(crew, (done, bad), 16, 1)
        assert not workers or done.sum() >= 14  # pieces of two units
    done = np.zeros(16, np.int64)
    run_fail_at(crew, (done, -1), 16, 1)
    assert (done == 1).all()


def test_pieces_are_long_enough_and_few_enough() -> None:
    for workers in (0, 1, 6, pool.MOST_WORKERS):
        for units in (1, 5, 4096, 100_000_007):
            for smallest in (0, 1, 17, 5000):
                length = piece_length(workers, units, smallest)
                assert length >= max(1, smallest)
                count = -(-units // length)
                assert 1 <= count <= min(pool.MOST_BLOCKS, spread.PIECES_PER_THREAD * (workers + 1))
                assert workers or count == 1


def test_what_is_too_small_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pool(bool(FUTEX))
    monkeypatch.setattr(spread, "POOL", own)
    monkeypatch.setattr(threads, "_limit", 4)
    assert find_crew(0, 0) == find_crew(1, 1) == find_crew(199, 100) == ALONE
    assert own._workers == []
    monkeypatch.setattr(threads, "_limit", 1)
    assert find_crew(10**9, 1) == ALONE
    assert own._workers == []


def test_a_crew_has_as_many_threads_as_the_limit_or_the_units_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Pool(bool(FUTEX))
    monkeypatch.setattr(spread, "POOL", own)
    monkeypatch.setattr(threads, "_limit", 4)
    try:
        assert find_crew(200, 100)[1] == 1
        assert find_crew(2, 0)[1] == 1
        assert find_crew(10**9, 1)[1] == 3
        assert len(own._workers) == 3
    finally:
        own.close()


def test_where_no_thread_can_be_started_the_caller_works_alone(own_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's limit is reached, or the interpreter is closing."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    counts = np.zeros(100, np.int64)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        run_count_units((own_pool.control(2), 2), (counts, (1, 2.5)), 100, 1)
    assert (counts == 1).all()
    assert_workers_help(own_pool, 1)


def test_workers_leave_and_others_come(own_pool: Pool) -> None:
    running = threading.active_count()
    for _ in range(5):
        assert_workers_help(own_pool, 2)
        assert threading.active_count() == running + 2
        own_pool.rest()
        assert threading.active_count() == running
    own_pool.close()
    assert own_pool.control(2) != 0
    assert threading.active_count() == running


# ---- forks and the end, in processes of their own ----

START = f"""
import os, sys, threading, time
sys.path.insert(0, {str(TESTS)!r})
import numpy as np
from test_pool import Pool, assert_workers_help, run_count_units
from gpuq.cpu import spread

spread.POOL = pool = {{pool}}

def call_for_ever():
    counts = np.zeros(1000, np.int64)
    while True:
        run_count_units((pool.control(2), 2), (counts, (1, 2.5)), 1000, 1)

assert_workers_help(pool, 2)
"""
FORK = """
others = [threading.Thread(target=call_for_ever, daemon=True) for _ in range({others})]
[other.start() for other in others]
for _ in range(2):
    child = os.fork()
    if child == 0:
        assert_workers_help(pool, 3)
        raise SystemExit(7)  # through Python's own clean-up
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert_workers_help(pool, 2)
"""
POOLS = [
    pytest.param("spread.POOL", id="this system's"),
    pytest.param("Pool(False); os.register_at_fork(before=pool.rest, after_in_child=pool.after_fork)", id="Python's"),
]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")


@needs_fork
@pytest.mark.parametrize("pool_expression", POOLS)
@pytest.mark.parametrize("others", [0, 3])
def test_a_forked_child_starts_workers_of_its_own(pool_expression: str, others: int) -> None:
    """Also while other threads are calling: in the child they are gone, and with them whoever worked for them."""
    quiet = "import warnings; warnings.simplefilter('ignore')\n" if others else ""  # Python 3.12 warns of such a fork
    assert run_python(START.format(pool=pool_expression) + quiet + FORK.format(others=others)) == ""


@needs_fork
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux counts the threads of a process")
def test_no_worker_is_there_when_a_process_forks() -> None:
    """A fork beside running threads is one that Python warns of, with good reason."""
    script = (
        START.format(pool="spread.POOL")
        + """
workers, at_fork = [str(worker.native_id) for worker in pool._workers], []
assert set(workers) < set(os.listdir("/proc/self/task"))
os.register_at_fork(after_in_parent=lambda: at_fork.extend(os.listdir("/proc/self/task")))
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
assert str(os.getpid()) in at_fork
assert set(workers).isdisjoint(at_fork)
assert_workers_help(pool, 2)
"""
    )
    assert run_python(script) == ""


ENDS = {
    "at once": "",
    "when workers sleep": "time.sleep(0.05)",
    "while others call": "[threading.Thread(target=call_for_ever, daemon=True).start() for _ in range(3)]",
    "with a call after the pool's end": "import atexit; pool._closed = False; atexit._clear(); "
    "atexit.register(lambda: run_count_units((pool.control(2), 2), (np.zeros(9, np.int64), (1, 2.5)), 9, 1)); "
    "atexit.register(pool.close)",
}


@pytest.mark.parametrize("pool_expression", ["spread.POOL", "Pool(False)"], ids=["this system's", "Python's"])
@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_well(end: str, pool_expression: str) -> None:
    """No worker keeps it alive, and none runs code that is no longer there."""
    assert run_python(START.format(pool=pool_expression) + ENDS[end]) == ""
