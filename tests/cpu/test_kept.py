"""Calls of jobs that are kept and run again for other arrays, and the workspace of compiled code."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from gpuq.cpu.compile import jit
from gpuq.cpu.kept import Kept, run_again
from gpuq.cpu.pool import WORD
from gpuq.cpu.spread import find_crew, runner
from gpuq.cpu.tiles import LINE
from gpuq.cpu.workspace import array_at, first_line, keep, whole_lines

Array = npt.NDArray[Any]
UNITS = 40


@jit
def add_rows(arguments: Any, first: int, last: int) -> None:
    """target[i] += source[i] + numbers[i] + own, whatever the number of axes."""
    (source, target), numbers, own = arguments
    for i in range(first, last):
        for j in range(source.shape[1]):
            target[i, 0, j] += source[i, j] + numbers[i] + own


@jit
def do_nothing(arguments: Any, first: int, last: int) -> None:
    """A job whatever its arguments."""


run_add_rows, run_do_nothing = runner(add_rows), runner(do_nothing)


def matrices(seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 100, (UNITS, 7)).astype(np.uint8), rng.integers(0, 100, (UNITS, 1, 7))


def assert_added(target: Array, before: Array, source: Array) -> None:
    expected = before[:, 0] + source + np.arange(UNITS)[:, None] + 5
    np.testing.assert_array_equal(target[:, 0], expected)


def test_a_kept_call_runs_with_other_arrays() -> None:
    first, numbers = matrices(0), np.arange(UNITS)
    untouched = [array.copy() for array in first]
    kept = Kept(run_add_rows, (first, numbers, 5), UNITS, 3)
    for seed in range(1, 6):
        source, target = matrices(seed)
        before = target.copy()
        run_again(kept.address, *find_crew(UNITS, 3), id(source), id(target))
        assert_added(target, before, source)
    for array, copy in zip(first, untouched, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_a_kept_call_is_run_by_many_threads_at_once() -> None:
    kept = Kept(run_add_rows, (matrices(0), np.arange(UNITS), 5), UNITS, 3)

    def run_often(seed: int) -> None:
        source, target = matrices(seed)
        for _ in range(50):
            before = target.copy()
            run_again(kept.address, *find_crew(UNITS, 3), id(source), id(target))
            assert_added(target, before, source)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run_often, range(8)))


def test_a_kept_call_keeps_its_parameters_and_no_matrix() -> None:
    first, numbers = matrices(0), np.arange(UNITS)
    gone, alive = [weakref.ref(array) for array in first], weakref.ref(numbers)
    kept = Kept(run_add_rows, (first, numbers, 5), UNITS, 3)
    del first, numbers
    gc.collect()
    assert alive() is not None
    assert [reference() for reference in gone] == [None, None]
    source, target = matrices(1)
    before = target.copy()
    run_again(kept.address, 0, 0, id(source), id(target))
    assert_added(target, before, source)


def test_a_call_too_large_to_be_kept_is_refused() -> None:
    """Nothing is written beyond the memory for it."""
    numbers = tuple(np.arange(UNITS) for _ in range(80))
    with pytest.raises(RuntimeError, match="4096 bytes"):
        Kept(run_do_nothing, (matrices(0), numbers), UNITS, 3)


def test_arrays_that_do_not_begin_with_their_address_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code reads it from NumPy's object; one word further is not the address."""
    monkeypatch.setattr(gpuq.cpu.kept, "DATA", gpuq.cpu.kept.DATA + WORD)
    with pytest.raises(RuntimeError, match="do not begin with the address"):
        Kept(run_add_rows, (matrices(0), np.arange(UNITS), 5), UNITS, 3)


def test_of_no_units_nothing_runs() -> None:
    kept = Kept(run_add_rows, (matrices(0), np.arange(UNITS), 5), 0, 3)
    source, target = matrices(1)
    before = target.copy()
    run_again(kept.address, 0, 0, id(source), id(target))
    np.testing.assert_array_equal(target, before)


def test_products_are_kept_by_how_many_threads_may_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """How a product is cut into blocks depends on it, and it may change between two calls."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (300, 200)).astype(np.uint8), rng.integers(-128, 128, (200, 150)).astype(np.int8)
    expected, packed = a.astype(np.int64) @ b, gpuq.prepack(b)
    for threads in (1, 2, 3, 1, 8, 2):
        monkeypatch.setattr("gpuq.cpu.threads._limit", threads)
        for _ in range(2):
            np.testing.assert_array_equal(gpuq.matmul_integer(a, packed), expected)


@jit
def cut(rows: int) -> Any:
    """The workspace's arrays, filled, copied, and where they lie in a line."""
    room = np.empty(whole_lines(rows * 3) + 8 * rows + LINE, np.uint8)
    small = array_at(first_line(room), (rows, 3), np.int8)
    large = array_at(first_line(room) + whole_lines(rows * 3), (rows,), np.int64)
    for i in range(rows):
        small[i] = -i
        large[i] = i << 40
    result = small.copy(), large.copy(), small.ctypes.data % LINE, large.ctypes.data % LINE, small[1:].strides
    keep(room)
    return result


def test_workspace_is_cut_into_arrays() -> None:
    for rows in (1, 21, 22, 1000):
        small, large, small_place, large_place, strides = cut(rows)
        numbers = np.arange(rows)
        np.testing.assert_array_equal(small, np.repeat(-numbers.astype(np.int8)[:, None], 3, axis=1))
        np.testing.assert_array_equal(large, numbers << 40)
        assert (small_place, large_place, strides) == (0, 0, (3, 1))
