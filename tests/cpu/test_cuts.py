"""Large jobs cut into pieces for several threads: no piece is lost or done twice, and no bit depends on the cut."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

import gpuq
import gpuq.reference
from compare import assert_all_same, assert_same
from gpuq.cpu import blocking, linear, operators, pack, real_gemm, threads
from gpuq.layout import Granularity, count_units, part_of
from subprocesses import run_python

GRAINS = {
    "tensor": ((40, 30), Granularity("tensor")),
    "first axis": ((13, 7), Granularity("axis", 0)),
    "middle axis": ((5, 6, 7), Granularity("axis", 1)),
    "last axis": ((9, 11), Granularity("axis", 1)),
    "last axis of one row": ((1, 57), Granularity("axis", 1)),
    "blocks of the last axis": ((6, 20), Granularity("block", 1, 8)),
    "blocks of one row": ((1, 50), Granularity("block", 1, 8)),
    "blocks of the first axis": ((21, 5), Granularity("block", 0, 4)),
    "blocks of the middle axis": ((3, 10, 4), Granularity("block", 1, 3)),
}


@pytest.fixture(params=[1, 2, 7])
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A limit of threads, with pieces so small that everything is cut."""
    monkeypatch.setattr(threads, "_limit", request.param)
    monkeypatch.setattr(operators, "ELEMENTS", 1)
    monkeypatch.setattr(blocking, "SMALLEST", 1)
    monkeypatch.setattr(pack, "PACKED_CODES", 1)
    monkeypatch.setattr(linear, "ROW_ELEMENTS", 1)
    monkeypatch.setattr(real_gemm, "SMALLEST", 1)
    return request.param


@pytest.mark.parametrize("name", GRAINS)
def test_parts_of_a_walk_take_every_element_and_its_parameter(name: str) -> None:
    shape, grain = GRAINS[name]
    x = np.arange(np.prod(shape)).reshape(shape)
    runs, units = grain.runs(shape), count_units(grain.runs(shape))
    parameters = np.arange(max(1, np.prod(grain.parameter_shape(shape))))
    for length in (1, 2, 5, units):
        parts = [part_of(runs, first, min(first + length, units)) for first in range(0, units, length)]
        seen = np.concatenate([x.reshape(-1)[part.elements] for part in parts])
        assert seen.tolist() == list(range(x.size))
        sizes = [part.runs.outer * part.runs.length * part.runs.inner for part in parts]
        assert sizes == [x.reshape(-1)[part.elements].size for part in parts]
        used = np.unique(np.concatenate([parameters[part.parameters] for part in parts]))
        assert used.tolist() == parameters.tolist()


@pytest.mark.parametrize("name", GRAINS)
def test_elementwise_operators_give_the_same_bits_however_they_are_cut(name: str, limit: int) -> None:
    shape, grain = GRAINS[name]
    generator = np.random.default_rng(5)
    x = (generator.standard_normal(shape) * 40).astype(np.float32)
    scale = generator.uniform(0.1, 1, grain.parameter_shape(shape)).astype(np.float32)
    options = {"axis": grain.axis, "block_size": grain.block_size}
    for order in ("C", "F"):
        laid_out = np.asarray(x, order=order)
        codes = gpuq.quantize_linear(laid_out, scale, np.int8(3), **options)
        assert_same(codes, gpuq.reference.quantize_linear(x, scale, np.int8(3), **options))
        values = gpuq.dequantize_linear(codes, scale, np.int8(3), **options)
        assert_same(values, gpuq.reference.dequantize_linear(codes, scale, np.int8(3), **options))


def test_dynamic_quantization_finds_the_range_over_all_pieces(limit: int) -> None:
    x = np.random.default_rng(6).standard_normal(1001).astype(np.float32)
    x[0], x[-1] = -9, 11
    assert_all_same(gpuq.dynamic_quantize_linear(x), gpuq.reference.dynamic_quantize_linear(x))


def test_products_give_the_same_bits_however_they_are_cut(limit: int) -> None:
    generator = np.random.default_rng(7)
    a = generator.integers(-128, 128, (2, 1, 200, 70)).astype(np.int8)
    b = generator.integers(0, 256, (3, 70, 400)).astype(np.uint8)
    expected = gpuq.reference.matmul_integer(a, b, np.int8(5), np.uint8(9))
    for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
        assert_same(gpuq.matmul_integer(left, right, 5, 9), expected)


def test_layers_give_the_same_bits_however_they_are_cut(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(9)
    x = generator.standard_normal((6, 40)).astype(np.float32)
    weight = gpuq.quantize(generator.standard_normal((40, 90)).astype(np.float32), axis=1, dtype="int8")
    cut = [gpuq.linear(x, weight, activations=kind) for kind in ("int8", "float")]
    monkeypatch.setattr(threads, "_limit", 1)
    for kind, result in zip(("int8", "float"), cut, strict=True):
        assert_same(gpuq.linear(x, weight, activations=kind), result)


def test_an_overflow_in_one_piece_is_an_error(limit: int) -> None:
    a, b = np.zeros((300, 40_000), np.uint8), np.full((40_000, 2), 255, np.uint8)
    a[299] = 255
    with pytest.raises(OverflowError):
        gpuq.matmul_integer(a, b)


FORK = """
import os
import warnings
import numpy as np
import gpuq
from gpuq.cpu import operators
from gpuq.cpu.pool import POOL

gpuq.set_num_threads(3)
operators.ELEMENTS = 1
x = np.random.default_rng(8).standard_normal((300, 64)).astype(np.float32)
expected = gpuq.quantize_linear(x, 0.05)
assert len(POOL._workers) == 2
warnings.simplefilter("ignore")  # Python 3.12 and later warn of any fork beside threads
child = os.fork()
if child == 0:
    raise SystemExit(7 if (gpuq.quantize_linear(x, 0.05) == expected).all() else 1)  # through Python's own clean-up
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")
def test_a_forked_child_starts_threads_of_its_own() -> None:
    """The parent's pool has threads; in the child they are gone, and waiting for them would last for ever."""
    assert run_python(FORK) == ""


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads_is_an_error_that_names_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_limit", None)
    monkeypatch.setenv("GPUQ_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"GPUQ_NUM_THREADS: got '{value}'; accepted: an integer"):
        threads.num_threads()


def test_the_limit_is_the_call_then_the_environment_then_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_limit", None)
    monkeypatch.delenv("GPUQ_NUM_THREADS", raising=False)
    assert threads.num_threads() == threads.processors() >= 1
    monkeypatch.setenv("GPUQ_NUM_THREADS", "3")
    assert threads.num_threads() == 3
    gpuq.set_num_threads(5)
    assert threads.num_threads() == 5


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity to change")
def test_a_changed_number_of_processors_is_seen_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(threads.time, "monotonic", lambda: now)
    monkeypatch.setattr(threads, "_known", (now - threads.LOOK_AGAIN, 1))
    for count, later in ((7, 0.0), (7, threads.LOOK_AGAIN / 2), (3, threads.LOOK_AGAIN)):
        now += later
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, later=later: range(3 if later else 7))
        assert threads.processors() == count


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-2, ValueError), (1.0, TypeError), (True, TypeError)])
def test_set_num_threads_refuses_what_is_no_count(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="n: got .*; accepted: an integer"):
        gpuq.set_num_threads(value)
