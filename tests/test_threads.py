"""Any thread may call anything at any time; a call leaves nothing behind but its result."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import gpuq
from compare import assert_all_same, assert_same
from gpuq.cpu import blocking, operators, pack
from gpuq.cpu import threads as pool
from subprocesses import run_python
from valid_calls import OPERATORS, RESULT_TYPES, SHAPE, call, converted, valid_arguments

NAMED = [operator for operator in OPERATORS if operator != "prepack"]

# 8 threads that all make their first call at once, on an empty cache, two of each operator
COLD_THREADS = """
import threading
import numpy as np
from compare import assert_same
from gpuq import reference
from valid_calls import call, valid_arguments

names = ["quantize_linear", "fake_quantize", "dequantize_linear", "requantize"] * 2
together, results = threading.Barrier(len(names)), [None] * len(names)

def work(i):
    together.wait()
    results[i] = call(names[i])

threads = [threading.Thread(target=work, args=(i,)) for i in range(len(names))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
for name, result in zip(names, results):
    assert_same(result, getattr(reference, name)(**valid_arguments(name)), name)
"""
FORK = """
import os
import numpy as np
from compare import assert_same
from valid_calls import OPERATORS, call

names = [name for name in OPERATORS if name not in ("prepack", "dynamic_quantize_linear")]
expected = {name: call(name) for name in names[:4]}
child = os.fork()
if child == 0:
    try:
        for name in names:
            result = call(name)
            assert name not in expected or assert_same(result, expected[name]) is None
        os._exit(7)
    finally:
        os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
for name in expected:
    assert_same(call(name), expected[name])
"""


def large_arguments(operator: str, seed: int) -> dict[str, Any]:
    """Arguments of the same kinds as the valid ones, with enough elements for calls to meet."""
    rng = np.random.default_rng(seed)
    x, a = rng.normal(size=(300, 400)).astype(np.float32), rng.integers(0, 256, (90, 300)).astype(np.uint8)
    larger = {"x": x, "q": a, "a": a, "b": rng.integers(-128, 128, (300, 80)).astype(np.int8), "acc": x.view(np.int32)}
    arguments = valid_arguments(operator)
    return {name: larger.get(name, value) for name, value in arguments.items()}


@pytest.fixture(params=["whole", "cut"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that run in the calling thread alone, and jobs that three threads of gpuq's own share with it."""
    if request.param == "cut":
        monkeypatch.setattr(pool, "_limit", 4)
        for module, smallest in ((operators, "ELEMENTS"), (blocking, "SMALLEST"), (pack, "PACKED_CODES")):
            monkeypatch.setattr(module, smallest, 1000)


def test_eight_threads_at_once_get_the_right_bits(pieces: None) -> None:
    """Every thread calls every operator, each beginning with another, on data of its own."""
    together = threading.Barrier(8)
    arguments = [{name: large_arguments(name, seed) for name in NAMED} for seed in range(8)]
    expected = [{name: getattr(gpuq, name)(**values[name]) for name in NAMED} for values in arguments]
    failures: list[Exception] = []

    def work(thread: int) -> None:
        together.wait()
        try:
            for step in range(3 * len(NAMED)):
                name = NAMED[(thread + step) % len(NAMED)]
                result, right = getattr(gpuq, name)(**arguments[thread][name]), expected[thread][name]
                compare = assert_all_same if isinstance(right, tuple) else assert_same
                compare(result, right, f"thread {thread}, {name}")
                assert gpuq.last_path().kernel.split()[0] == name
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_share_a_packed_matrix(pieces: None) -> None:
    arguments = large_arguments("matmul_integer", 1)
    packed = gpuq.prepack(arguments["b"], zero_point=arguments["b_zero_point"])
    expected, results = gpuq.matmul_integer(**arguments), []

    def work() -> None:
        results.append(gpuq.matmul_integer(arguments["a"], packed, arguments["a_zero_point"]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        assert_same(result, expected)


def test_the_first_calls_of_eight_threads_at_once(tmp_path: Path) -> None:
    assert run_python(COLD_THREADS, GPUQ_CACHE_DIR=str(tmp_path)) == ""


@pytest.mark.skipif("not hasattr(__import__('os'), 'fork')", reason="os.fork is not on this system")
def test_a_forked_child_goes_on_calling() -> None:
    """Operators that the parent has called, and operators that the child is the first to call."""
    assert run_python(FORK) == ""


# ---- what a call leaves alone ----


@pytest.mark.parametrize("operator", OPERATORS)
def test_nothing_is_printed(operator: str, capfd: pytest.CaptureFixture[str]) -> None:
    call(operator)
    with pytest.raises((TypeError, ValueError)):
        getattr(gpuq, operator)(**{**valid_arguments(operator), next(iter(valid_arguments(operator))): None})
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def read_only(values: np.ndarray) -> np.ndarray:
    values.flags.writeable = False
    return values


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_input_is_changed(operator: str) -> None:
    """Nor need it be writable: parameters as arrays too."""
    arguments = converted(operator, read_only)
    for name, value in arguments.items():
        if isinstance(value, (int, float, np.generic)):
            dtype = "float32" if isinstance(value, float) else getattr(value, "dtype", None)
            arguments[name] = read_only(np.full(1, value, dtype)) if dtype is not None else value
    before = {name: value.tobytes() for name, value in arguments.items() if isinstance(value, np.ndarray)}
    assert len(before) >= 1
    getattr(gpuq, operator)(**arguments)
    for name, content in before.items():
        assert arguments[name].tobytes() == content, name


@pytest.mark.parametrize("operator", ["fake_quantize", "dequantize_linear", "scaled_matmul"])
def test_a_result_does_not_alias_an_input(operator: str) -> None:
    arguments = valid_arguments(operator)
    result = getattr(gpuq, operator)(**arguments)
    for value in arguments.values():
        assert not np.shares_memory(result, np.asarray(value))
    assert result.flags.owndata or result.base is not None
    assert result.flags.writeable


def test_a_packed_matrix_is_a_copy() -> None:
    b, points = valid_arguments("prepack")["b"], np.int8([1, 2, 3, 4])
    packed = gpuq.prepack(b, zero_point=points)
    expected = call("matmul_integer", b_zero_point=points.copy())
    b[...] = 0
    points[...] = 0
    assert_same(call("matmul_integer", b=packed, b_zero_point=None), expected)


@pytest.mark.parametrize("operator", NAMED)
def test_thread_and_error_settings_stay_as_they_are(operator: str) -> None:
    """Also with NumPy told to raise on every overflow, underflow and NaN: those are no errors of the caller's."""
    threads, settings = numba.get_num_threads(), np.geterr()
    running = threading.active_count()
    call(operator)
    assert numba.get_num_threads() == threads
    assert threading.active_count() == running
    assert np.geterr() == settings
    with np.errstate(all="raise"):
        call(operator)
        assert np.geterr() == dict.fromkeys(settings, "raise")


EXTREMES = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0, -0.0])


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("quantize_linear", {"x": EXTREMES, "scale": 1e-45}),
        ("quantize_linear", {"x": EXTREMES.astype(np.float64) * 1e200, "scale": 1e-45}),
        ("fake_quantize", {"x": EXTREMES, "scale": 3e38}),
        ("dequantize_linear", {"scale": 1e-45, "dtype": "float16"}),
        ("dequantize_linear", {"scale": 3e38, "dtype": "float16"}),
        ("dynamic_quantize_linear", {"x": EXTREMES}),
        ("scaled_matmul", {"a_scale": 1e30, "b_scale": 1e8, "dtype": "float16"}),
        ("scaled_matmul", {"bias": 1e-46}),
        ("scaled_matmul", {"bias": np.float64([1e-310, 1e300, np.nan, -np.inf])}),
        ("requantize", {"multiplier": 1e-46}),
        ("requantize", {"multiplier": 5e-324, "mode": "float64"}),
        ("requantize", {"y_scale": 1e-45, "activation": "relu6"}),
    ],
)
def test_extreme_values_raise_no_floating_point_error(operator: str, arguments: dict[str, Any]) -> None:
    expected = call(operator, **arguments)
    with np.errstate(all="raise"):
        result = call(operator, **arguments)
    compare = assert_all_same if isinstance(expected, tuple) else assert_same
    compare(result, expected)


def test_choosing_parameters_raises_no_floating_point_error() -> None:
    with np.errstate(all="raise"):
        for rmin, rmax in [(-1e308, 1e308), (-5e-324, 5e-324), (0.0, 0.0), (-1e-45, 0.0)]:
            assert 0 < gpuq.choose_qparams(rmin, rmax).scale < np.inf
        assert gpuq.quantize_multiplier(5e-324) == (0, 0)
        with pytest.raises(ValueError, match="scale: got the value"):
            call("quantize_linear", scale=np.float64([1e300, np.nan, 1e-300, 1.0]))


def test_results_have_the_shape_and_type_that_tests_assume() -> None:
    for operator, dtype in RESULT_TYPES.items():
        assert (call(operator).shape, call(operator).dtype.name) == (SHAPE, dtype)
