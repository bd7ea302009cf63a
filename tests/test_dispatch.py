"""Which device a call runs on, who decides, what happens where it is absent, and what `last_path` says."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import dispatch
from gpuq.cpu import isa
from gpuq.cuda import driver
from refusals import GARBAGE, assert_says
from valid_calls import OPERATORS, RESULT_TYPES, SHAPE, call

ABSENT = "cuda:99"  # on every machine
NAMED = [operator for operator in OPERATORS if operator != "prepack"]


@pytest.fixture(autouse=True)
def automatic_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing chosen before a test, nothing left chosen after it; the driver is looked for anew."""
    monkeypatch.setattr(driver, "_process", None)
    for name in ("GPUQ_DEVICE", "GPUQ_ISA"):
        monkeypatch.delenv(name, raising=False)
    gpuq.set_device(None)
    yield
    gpuq.set_device(None)


@pytest.fixture
def every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no device were absent, so that choosing one can be tested where there is none."""
    monkeypatch.setattr(dispatch, "_require", lambda device: None)


def in_thread(function: Callable[[], Any]) -> Any:
    """What the function gives in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def runs_on_the_cpu() -> bool:
    """Whether a call runs; False where the device chosen for it is absent."""
    try:
        call("quantize_linear")
    except gpuq.DeviceError:
        return False
    assert gpuq.last_path().device == "cpu"
    return True


# ---- last_path ----


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("operator", NAMED)
def test_last_path_says_what_ran(operator: str, device: str | None) -> None:
    call(operator, device=device)
    path = gpuq.last_path()
    assert path.isa in isa.available()
    assert (path.device, path.isa) == (path[0], path[2])
    assert path.kernel.split()[0] == operator


@pytest.mark.parametrize("mode", ["float", "float64", "fixed_point", "fixed_point_half_up"])
def test_last_path_of_requantize_names_the_mode(mode: str) -> None:
    multiplier = (2**30, 0) if mode.startswith("fixed") else 0.5
    call("requantize", multiplier=multiplier, mode=mode)
    assert gpuq.last_path().kernel == f"requantize {mode}"


def test_last_path_is_that_of_this_thread() -> None:
    call("matmul_integer")
    assert in_thread(gpuq.last_path) is None
    assert in_thread(lambda: (call("dequantize_linear"), gpuq.last_path().kernel)[1]) == "dequantize_linear"
    assert gpuq.last_path().kernel == "matmul_integer"


def test_a_refused_call_has_no_path() -> None:
    call("matmul_integer")
    with pytest.raises(ValueError, match="scale"):
        call("quantize_linear", scale=0)
    assert gpuq.last_path().kernel == "matmul_integer"


# ---- who decides ----


def test_argument_before_context_before_process_before_environment(
    every_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dispatch.pick_device(None, {}) == "cpu"
    monkeypatch.setenv("GPUQ_DEVICE", "cuda:1")
    assert dispatch.pick_device(None, {}) == "cuda:1"
    gpuq.set_device("cuda:2")
    assert dispatch.pick_device(None, {}) == "cuda:2"
    with gpuq.device("cuda:3"):
        assert dispatch.pick_device(None, {}) == "cuda:3"
        assert dispatch.pick_device("cuda:4", {}) == "cuda:4"
    assert dispatch.pick_device(None, {}) == "cuda:2"
    gpuq.set_device(None)
    assert dispatch.pick_device(None, {}) == "cuda:1"


def test_arrays_on_a_gpu_are_computed_there_whatever_was_chosen(every_device: None) -> None:
    gpuq.set_device("cpu")
    with gpuq.device("cpu"):
        assert dispatch.pick_device(None, {"x": "cuda:1"}) == "cuda:1"


def test_contexts_nest(every_device: None) -> None:
    with gpuq.device("cuda:1"):
        with gpuq.device("cuda:2"):
            assert dispatch.pick_device(None, {}) == "cuda:2"
            with gpuq.device("cpu"):
                assert dispatch.pick_device(None, {}) == "cpu"
            assert dispatch.pick_device(None, {}) == "cuda:2"
        assert dispatch.pick_device(None, {}) == "cuda:1"
    assert dispatch.pick_device(None, {}) == "cpu"


def test_a_context_ends_with_an_exception(every_device: None) -> None:
    error = KeyError("the caller's own")
    with pytest.raises(KeyError) as caught, gpuq.device("cuda:1"), gpuq.device("cuda:2"):
        raise error
    assert caught.value is error
    assert dispatch.pick_device(None, {}) == "cpu"


def test_a_context_decorates_functions(every_device: None) -> None:
    @gpuq.device("cuda:1")
    def chosen() -> str:
        return dispatch.pick_device(None, {})

    assert [chosen(), chosen()] == ["cuda:1", "cuda:1"]
    assert dispatch.pick_device(None, {}) == "cpu"


def test_a_context_is_that_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_DEVICE", ABSENT)
    with gpuq.device("cpu"):
        assert runs_on_the_cpu()
        assert not contextvars.Context().run(runs_on_the_cpu)
        assert not in_thread(lambda: contextvars.Context().run(runs_on_the_cpu))
        assert contextvars.copy_context().run(runs_on_the_cpu)
    assert not runs_on_the_cpu()


def test_a_context_is_that_of_one_task(every_device: None) -> None:
    async def chosen(device: str) -> list[str]:
        seen = []
        with gpuq.device(device):
            for _ in range(3):
                seen.append(dispatch.pick_device(None, {}))
                await asyncio.sleep(0)
        return seen

    async def both() -> list[list[str]]:
        return await asyncio.gather(chosen("cuda:1"), chosen("cuda:2"))

    assert asyncio.run(both()) == [["cuda:1"] * 3, ["cuda:2"] * 3]


def test_set_device_is_for_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_DEVICE", ABSENT)
    assert not in_thread(runs_on_the_cpu)
    gpuq.set_device("cpu")
    assert in_thread(runs_on_the_cpu)


def test_the_environment_is_read_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, runs in [("cpu", True), (ABSENT, False), ("", True), (ABSENT, False)]:
        monkeypatch.setenv("GPUQ_DEVICE", device)
        assert runs_on_the_cpu() == runs
    monkeypatch.delenv("GPUQ_DEVICE")
    assert runs_on_the_cpu()


# ---- what is no device ----


@pytest.mark.parametrize(
    "device", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda: 1", " cpu", "cpu\n", "CPU", "cpu:0", "cuda:٣"]
)
def test_an_unknown_device(device: str) -> None:
    for choose in (gpuq.set_device, lambda value: gpuq.device(value).__enter__()):
        with pytest.raises(ValueError, match="device") as caught:
            choose(device)
        assert_says(str(caught.value), "device", repr(device), "'cuda:N'")
    assert runs_on_the_cpu()


@pytest.mark.parametrize("device", [0, True, b"cpu", ["cpu"], object])
def test_a_device_that_is_no_string(device: Any) -> None:
    for choose in (gpuq.set_device, lambda value: gpuq.device(value).__enter__()):
        with pytest.raises(TypeError) as caught:
            choose(device)
        assert_says(str(caught.value), "device", type(device).__name__, "'cuda:N'")


def test_an_unknown_device_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_DEVICE", "gpu")
    out = np.full(SHAPE, GARBAGE, np.uint8)
    with pytest.raises(ValueError, match="GPUQ_DEVICE") as caught:
        call("quantize_linear", out=out)
    assert_says(str(caught.value), "GPUQ_DEVICE", "'gpu'", "'cuda:N'")
    assert (out == GARBAGE).all()


# ---- a device that is absent ----


@pytest.mark.parametrize("operator", NAMED)
def test_a_forced_device_that_is_absent(operator: str) -> None:
    arguments = {"out": np.full(SHAPE, GARBAGE, RESULT_TYPES[operator])} if operator in RESULT_TYPES else {}
    with pytest.raises(gpuq.DeviceError, match=f"'{ABSENT}' is not available: ..."):
        call(operator, device=ABSENT, **arguments)
    assert all((out == GARBAGE).all() for out in arguments.values())


def test_device_error_is_a_runtime_error() -> None:
    assert issubclass(gpuq.DeviceError, RuntimeError)
    assert not issubclass(gpuq.DeviceError, (ValueError, TypeError))


def test_an_absent_device_is_not_kept() -> None:
    gpuq.set_device("cpu")
    with pytest.raises(gpuq.DeviceError):
        gpuq.set_device(ABSENT)
    assert runs_on_the_cpu()
    entered = False
    with pytest.raises(gpuq.DeviceError), gpuq.device(ABSENT):
        entered = True
    assert not entered
    assert runs_on_the_cpu()


def fake_driver(
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[[int], tuple[int]] = lambda flags: (0,),
    count: int = 1,
    capability: tuple[int, int] = (8, 0),
    version: int = 13000,
) -> None:
    """A driver of some version that sees so many devices; gpuq's compiler is of CUDA 13.5."""
    attributes = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1
    )
    functions = SimpleNamespace(
        CUDA_VERSION=13050,
        CUdevice_attribute=attributes,
        cuInit=start,
        cuDriverGetVersion=lambda: (0, version),
        cuDeviceGetCount=lambda: (0, count),
        cuDeviceGet=lambda index: (0, index),
        cuDeviceGetName=lambda length, device: (0, b"Card\0\0"),
        cuDeviceGetAttribute=lambda attribute, device: (0, capability[attribute]),
    )
    monkeypatch.setattr(driver, "bindings", lambda: functions)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())


def test_the_error_says_that_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_library(flags: int) -> tuple[int]:
        raise RuntimeError("libcuda.so.1: cannot open shared object file")

    fake_driver(monkeypatch, find_library)
    with pytest.raises(gpuq.DeviceError, match="no NVIDIA driver"):
        call("quantize_linear", device="cuda")


@pytest.mark.parametrize(
    ("code", "count", "reason"),
    [(0, 0, "sees no device"), (0, 1, "sees 1 device$"), (0, 2, "sees 2 devices$"), (999, 0, "does not start: cuInit")],
)
def test_the_error_says_what_the_driver_says(
    code: int, count: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver(monkeypatch, lambda flags: (code,), count)
    with pytest.raises(gpuq.DeviceError, match=reason):
        call("quantize_linear", device=ABSENT)


def test_a_card_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(monkeypatch, capability=(7, 0))
    with pytest.raises(gpuq.DeviceError, match=r"Card is of compute capability 7\.0; gpuq needs 7\.5 or later"):
        call("quantize_linear", device="cuda")
    assert dispatch.pick_device(None, {}, prefers_gpu=True) == "cpu"


def test_a_driver_older_than_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take no kernel, and say so only at the first launch: an automatic choice has to know it before."""
    fake_driver(monkeypatch, version=12040)
    with pytest.raises(gpuq.DeviceError, match=r"supports CUDA 12\.4, .* of CUDA 13\.5 .*gpuq\[cu12\]"):
        call("quantize_linear", device="cuda")
    assert dispatch.pick_device(None, {}, prefers_gpu=True) == "cpu"


def test_an_automatic_choice_takes_a_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(monkeypatch)
    assert dispatch.pick_device(None, {}, prefers_gpu=True) == "cuda"
    assert dispatch.pick_device(None, {}, prefers_gpu=False) == "cpu"


def test_the_error_says_that_numba_cuda_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(gpuq.DeviceError, match=r"numba-cuda is not installed .*pip install"):
        call("quantize_linear", device="cuda")


# ---- instruction sets ----


def test_a_forced_instruction_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in isa.available():
        monkeypatch.setenv("GPUQ_ISA", name)
        call("matmul_integer")
        assert gpuq.last_path().isa == name


def test_an_empty_instruction_set_forces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_ISA", "")
    assert runs_on_the_cpu()


@pytest.mark.parametrize("operator", NAMED)
def test_an_absent_instruction_set(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUQ_ISA", "altivec")
    arguments = {"out": np.full(SHAPE, GARBAGE, RESULT_TYPES[operator])} if operator in RESULT_TYPES else {}
    with pytest.raises(gpuq.DeviceError, match=r"GPUQ_ISA: got 'altivec'; .*portable"):
        call(operator, **arguments)
    assert all((out == GARBAGE).all() for out in arguments.values())
