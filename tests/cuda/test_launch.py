"""The launch layer on emulated devices: streams, several devices, contexts, memory, forks; nothing waits unasked."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from subprocesses import run_python

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, Driver, InterfaceArray, download, upload  # noqa: E402
from gpuq.cuda import driver  # noqa: E402
from gpuq.cuda.driver import Device  # noqa: E402
from ptx_emulator import UninitializedError  # noqa: E402

X = np.linspace(-50, 50, 1000, dtype=np.float32)
CODES = reference.quantize_linear(X, 0.5, np.int8(3))
NON_BLOCKING = 1
Emulate = Callable[..., Driver]


def new_stream(emulated: Driver, flags: int = NON_BLOCKING) -> int:
    with driver.device(0).current():
        number: int = emulated.cuStreamCreate(flags)[1]
        return number


def waits(emulated: Driver, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every call that makes the host wait."""
    noted: list[str] = []
    for name in ("cuStreamSynchronize", "cuCtxSynchronize", "cuMemFree"):
        original = getattr(emulated, name)

        def wait(*arguments: Any, name: str = name, original: Any = original) -> Any:
            noted.append(name)
            return original(*arguments)

        monkeypatch.setattr(emulated, name, wait)
    return noted


# ---- streams ----


def test_memory_freed_in_the_midst_of_a_task_goes_after_it(emulate: Emulate) -> None:
    """A garbage collection may free a result while the emulator runs a kernel. That waited for all streams, and did
    what came after the kernel before its end: the workspace that it was still reading went.
    """
    emulated = emulate()
    streams, memory, order = emulated.devices[0].streams, emulated.devices[0].memory, list[str]()
    with driver.device(0).current():
        _, owned = emulated.cuMemAlloc(16)

        def collect() -> None:
            emulated.cuMemFree(owned)
            order.append("kernel")

        streams.add(streams.streams[0], collect)
        streams.add(streams.streams[0], lambda: order.append("end of its workspace"))
        emulated.cuCtxSynchronize()
        assert order == ["kernel", "end of its workspace"]
        assert memory.find(owned) is None


def test_a_call_on_device_arrays_returns_before_the_work_is_done(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated = emulate(counting=True)
    x = upload(emulated, X)
    scale = upload(emulated, np.full(1000, 0.5, np.float32))
    noted = waits(emulated, monkeypatch)
    q = gpuq.quantize_linear(x, 0.5, np.int8(3))
    y = gpuq.fake_quantize(x, scale, axis=0, dtype="int8")
    kept = gpuq.dynamic_quantize_linear(x)  # memory that nobody keeps is freed, which waits
    assert (noted, emulated.costs) == ([], [])
    assert len(emulated.launches) > 3
    assert_same(download(emulated, q), CODES)
    assert_same(download(emulated, y), reference.fake_quantize(X, 0.5, dtype="int8"))
    assert_same(download(emulated, kept[0]), reference.dynamic_quantize_linear(X)[0])


def test_host_arrays_are_waited_for(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = emulate()
    noted = waits(emulated, monkeypatch)
    assert_same(gpuq.quantize_linear(X, 0.5, np.int8(3), device="cuda"), CODES)
    assert noted == ["cuStreamSynchronize"]
    noted.clear()
    packed = gpuq.prepack(np.ones((5, 4), np.int8), device="cuda")  # the host's array may be changed afterwards
    assert noted == ["cuStreamSynchronize"]
    assert packed.nbytes >= 4 * 16


class Stream:
    """A stream that speaks the common protocol."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.number


class Handle:
    """A ctypes pointer, as Numba's streams have one."""

    def __init__(self, value: int | None) -> None:
        self.value = value


class Named:
    """A stream of torch (`cuda_stream`), CuPy (`ptr`) or Numba (`handle`)."""

    def __init__(self, **names: Any) -> None:
        self.__dict__.update(names)


def test_the_caller_s_stream_is_used(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = emulate()
    number = new_stream(emulated)
    used: list[int] = []
    launch = emulated.cuLaunchKernel
    monkeypatch.setattr(emulated, "cuLaunchKernel", lambda *given: (used.append(given[8]), launch(*given))[1])
    kinds = [number, Stream(number), Named(cuda_stream=number), Named(ptr=number), Named(handle=Handle(number))]
    for stream in kinds:
        q = gpuq.quantize_linear(upload(emulated, X), 0.5, np.int8(3), stream=stream)
        assert_same(download(emulated, q), CODES)
    assert used == [number] * len(kinds)
    gpuq.quantize_linear(upload(emulated, X), 0.5, stream=Named(handle=Handle(None)))
    gpuq.quantize_linear(upload(emulated, X), 0.5)
    assert used[len(kinds) :] == [0, 0]


@pytest.mark.parametrize("stream", ["0", 1.5, True, -1, object(), []])
def test_what_is_no_stream(emulate: Emulate, stream: Any) -> None:
    emulated = emulate()
    with pytest.raises(TypeError, match="stream: got an object of type"):
        gpuq.quantize_linear(upload(emulated, X), 0.5, stream=stream)
    assert not emulated.launches


def pending(emulated: Driver, stream: int, kind: Any = InterfaceArray) -> Any:
    """An array that a task on a stream is still to write."""
    array = upload(emulated, X, kind=kind)
    device = emulated.devices[0]
    buffer = device.memory.find(array.address)
    assert buffer is not None
    buffer.clear()
    device.streams.add(device.streams.streams[stream], lambda: buffer.write(array.address - buffer.address, X))
    return array


def test_work_comes_after_what_writes_its_arguments(emulate: Emulate) -> None:
    """CUDA's array interface names the stream that an array is written on."""
    emulated = emulate()
    writer, reader = new_stream(emulated), new_stream(emulated)
    x = pending(emulated, writer)
    x.stream = writer
    q = gpuq.quantize_linear(x, 0.5, np.int8(3), stream=reader)
    with driver.device(0).current():
        emulated.cuStreamSynchronize(reader)
    assert_same(download(emulated, q), CODES)


def test_without_that_order_the_emulator_complains(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = emulate()
    writer, reader = new_stream(emulated), new_stream(emulated)
    x = pending(emulated, writer)
    x.stream = writer
    monkeypatch.setattr(Device, "order", lambda *_: None)
    q = gpuq.quantize_linear(x, 0.5, np.int8(3), stream=reader)
    with driver.device(0).current(), pytest.raises(UninitializedError):
        emulated.cuStreamSynchronize(reader)
    assert q.shape == X.shape


def test_dlpack_arrays_are_asked_to_be_ready_on_the_stream(emulate: Emulate) -> None:
    """−1 for a look at the header, then the stream of the work; 1 is how DLPack names the driver's stream 0."""
    emulated = emulate()
    for stream, asked in ((new_stream(emulated), None), (0, 1)):
        x = upload(emulated, X, kind=DlpackArray)
        q = gpuq.quantize_linear(x, 0.5, np.int8(3), stream=stream)
        assert {-1, asked or stream} == set(x.asked)
        assert_same(download(emulated, q), CODES)


def test_a_result_tells_the_stream_that_writes_it(emulate: Emulate) -> None:
    """So that whoever takes it next waits for it, by either protocol, gpuq among them."""
    emulated = emulate()
    first, second = new_stream(emulated), new_stream(emulated)
    q = gpuq.quantize_linear(upload(emulated, X), 0.5, np.int8(3), stream=first)
    assert q.__cuda_array_interface__["stream"] == first
    assert gpuq.quantize_linear(upload(emulated, X), 0.5).__cuda_array_interface__["stream"] == 1
    y = gpuq.dequantize_linear(q, 0.5, np.int8(3), stream=second)
    with driver.device(0).current():
        emulated.cuStreamSynchronize(second)
    assert_same(download(emulated, y), reference.dequantize_linear(CODES, 0.5, np.int8(3)))


def test_products_on_any_stream_find_a_packed_matrix_whole(emulate: Emulate) -> None:
    """It was packed on one stream and read on another, which did not wait: codes not yet written were multiplied."""
    emulated = emulate()
    first, second = new_stream(emulated), new_stream(emulated)
    a, b = np.arange(60, dtype=np.int8).reshape(3, 20), np.arange(100, dtype=np.int8).reshape(20, 5)
    points = upload(emulated, np.arange(5, dtype=np.int8))
    packed = gpuq.prepack(upload(emulated, b), zero_point=points, stream=first)
    c = gpuq.matmul_integer(upload(emulated, a), packed, np.int8(2), stream=second)
    with driver.device(0).current():
        emulated.cuStreamSynchronize(second)
    assert_same(download(emulated, c), reference.matmul_integer(a, b, 2, np.arange(5, dtype=np.int8)))


def test_what_waits_is_refused_in_a_graph(emulate: Emulate) -> None:
    """Before anything is launched or copied: the wait would fail, and with it the caller's capture."""
    emulated = emulate()
    x, b, stream = upload(emulated, X), np.ones((4, 3), np.int8), new_stream(emulated)
    with driver.device(0).current():
        emulated.cuStreamBeginCapture(stream, 0)
        for call, what in (
            (lambda: gpuq.quantize_linear(X, 0.5, np.int8(3), device="cuda", stream=stream), "arrays on the CPU"),
            (lambda: gpuq.prepack(b, device="cuda", stream=stream), "prepack"),
            (lambda: gpuq.prepack(upload(emulated, b), stream=stream), "prepack"),
        ):
            with pytest.raises(ValueError, match=f"stream: got one that captures a graph, for {what}"):
                call()
        assert not emulated.launches
        q = gpuq.quantize_linear(x, 0.5, np.int8(3), stream=stream)
        emulated.cuGraphLaunch(emulated.cuStreamEndCapture(stream)[1], stream)
    assert_same(download(emulated, q), CODES)


def test_the_emulated_driver_takes_what_the_real_one_takes() -> None:
    """A call with an argument too many or too few would pass here and fail on a GPU."""
    from cuda.bindings import driver as bindings

    names = [name for name in vars(Driver) if name.startswith("cu")]
    assert len(names) > 25
    for name in names:
        real, own = (inspect.signature(getattr(each, name)).parameters for each in (bindings, Driver))
        assert len(own) == len(real) + 1, name  # self
        assert all(parameter.default is inspect.Parameter.empty for parameter in own.values()), name


# ---- devices ----


def test_calls_run_where_their_arrays_lie(emulate: Emulate) -> None:
    emulated = emulate((8, 0), (9, 0), (7, 5))
    for index, isa in ((1, "sm_90"), (2, "sm_75"), (0, "sm_80")):
        q = gpuq.quantize_linear(upload(emulated, X, index), 0.5, np.int8(3))
        path = gpuq.last_path()
        assert path is not None
        assert (path.device, path.isa) == (f"cuda:{index}", isa)
        assert emulated.device_of(q.__cuda_array_interface__["data"][0]).index == index
        assert_same(download(emulated, q), CODES)
    assert_same(gpuq.quantize_linear(X, 0.5, np.int8(3), device="cuda:1"), CODES)
    assert gpuq.last_path().device == "cuda:1"


def test_arrays_on_two_devices(emulate: Emulate) -> None:
    emulated = emulate((8, 0), (8, 0))
    here, there = upload(emulated, X), upload(emulated, np.full(1000, 0.5, np.float32), 1)
    with pytest.raises(ValueError, match="scale: got an array on cuda:1, but x is on cuda:0"):
        gpuq.quantize_linear(here, there, axis=0)
    with pytest.raises(ValueError, match="device: got 'cuda:1', but x is on cuda:0"):
        gpuq.quantize_linear(here, 0.5, device="cuda:1")
    with pytest.raises(ValueError, match="device: got 'cpu', but x is on cuda:0"):
        gpuq.quantize_linear(here, 0.5, device="cpu")
    with pytest.raises(ValueError, match="scale: got an array on cpu, but x is on cuda:0"):
        gpuq.quantize_linear(here, np.full(1000, 0.5, np.float32), axis=0)
    packed = gpuq.prepack(upload(emulated, np.ones((4, 3), np.int8), 1))
    with pytest.raises(ValueError, match="b: got a matrix packed on cuda:1, but a is on cuda:0"):
        gpuq.matmul_integer(upload(emulated, np.ones((2, 4), np.int8)), packed)
    assert not [name for name in emulated.launches if "quantize" in name]


def test_the_thread_s_current_device_is_its_own_afterwards(emulate: Emulate) -> None:
    emulated = emulate((8, 0), (8, 0))
    x = upload(emulated, X)
    assert emulated.cuCtxGetCurrent()[1] is None
    gpuq.quantize_linear(x, 0.5)
    assert emulated.cuCtxGetCurrent()[1] is None
    emulated.cuCtxPushCurrent(emulated.devices[1])
    gpuq.quantize_linear(x, 0.5)
    with pytest.raises(ValueError, match="scale"):
        gpuq.quantize_linear(x, -1.0)
    assert emulated.cuCtxGetCurrent()[1] is emulated.devices[1]
    emulated.devices[0].bytes = 0
    with pytest.raises(MemoryError):
        gpuq.quantize_linear(x, upload(emulated, np.float16([0.5])))
    assert emulated.cuCtxPopCurrent()[1] is emulated.devices[1]
    assert emulated.cuCtxGetCurrent()[1] is None


def test_an_absent_device(emulate: Emulate) -> None:
    emulate((8, 0))
    for call in (lambda: gpuq.quantize_linear(X, 0.5, device="cuda:1"), lambda: gpuq.set_device("cuda:1")):
        with pytest.raises(gpuq.DeviceError, match="'cuda:1' is not available: the NVIDIA driver sees 1 device$"):
            call()


def test_a_forked_child_goes_on_on_the_cpu() -> None:
    """The parent has opened CUDA: the child's automatic choice is the CPU, and a forced device is an error that says
    what to do."""
    printed = run_python("""
import os, numpy as np, pytest, gpuq
import emulated
from gpuq.cuda import driver
device = emulated.Driver((8, 0))
driver.bindings, driver.CODE_FORM = (lambda: device), "ptx"
x = np.ones(10, np.float32)
assert gpuq.quantize_linear(x, 0.5, device="cuda").tolist() == [2] * 10
array = emulated.upload(device, x)
for _ in range(3):  # the last one by the notes of the second
    gpuq.quantize_linear(array, 0.5)
read, write = os.pipe()
child = os.fork()
if child == 0:
    try:
        said = [gpuq.quantize_linear(x, 0.5).tolist() == [2] * 10, gpuq.last_path().device]
        for call in (lambda: gpuq.quantize_linear(x, 0.5, device="cuda"), lambda: gpuq.quantize_linear(array, 0.5)):
            try:
                call()
            except gpuq.DeviceError as error:
                said.append("spawn" in str(error))
        os.write(write, repr(said).encode())
    finally:
        os._exit(0)
os.waitpid(child, 0)
print(os.read(read, 1000).decode())
assert gpuq.quantize_linear(x, 0.5, device="cuda").tolist() == [2] * 10
""")
    assert printed.strip() == "[True, 'cpu', True, True]"


# ---- memory ----


@pytest.mark.usefixtures("quick_collection")
def test_workspace_is_given_back(emulate: Emulate) -> None:
    emulated = emulate()
    memory = emulated.devices[0].memory
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((20, 33), (33, 21)))
    results = []
    for _ in range(3):
        assert_same(gpuq.matmul_integer(a, b, 3, 4, device="cuda"), reference.matmul_integer(a, b, 3, 4))
        gpuq.quantize_linear(X[::2], np.full(500, 0.5), axis=0, device="cuda")
        gc.collect()
        with driver.device(0).current():
            emulated.cuCtxSynchronize()
        results.append(memory.size)
    assert results[0] == results[1] == results[2]


@pytest.mark.usefixtures("quick_collection")
def test_a_result_lives_as_long_as_somebody_has_it(emulate: Emulate) -> None:
    emulated = emulate()
    memory = emulated.devices[0].memory
    gpuq.quantize_linear(upload(emulated, X), 0.5)
    gpuq.prepack(upload(emulated, np.ones((64, 64), np.int8)))  # so that all kernels are loaded
    with driver.device(0).current():
        emulated.cuCtxSynchronize()
    before = memory.size
    q = gpuq.quantize_linear(upload(emulated, X), 0.5)
    packed = gpuq.prepack(upload(emulated, np.ones((64, 64), np.int8)))
    capsule = q.__dlpack__()
    assert memory.size > before + 1000 + 64 * 64
    del q, packed
    gc.collect()
    assert before + 1000 <= memory.size < before + 2000
    del capsule
    gc.collect()
    with driver.device(0).current():
        emulated.cuCtxSynchronize()
    assert memory.size <= before


def test_too_little_memory_is_an_error_that_names_the_bytes(emulate: Emulate) -> None:
    emulated = emulate(bytes=100_000)
    x = np.ones(50_000, np.float32)
    for _ in range(2):
        with pytest.raises(MemoryError, match=r"^200000 bytes on cuda:0 \(Emulated 8.0\)$"):
            gpuq.quantize_linear(x, 0.5, device="cuda")
    assert_same(gpuq.quantize_linear(X, 0.5, np.int8(3), device="cuda"), CODES)
    del emulated


def test_out_is_untouched_where_memory_is_short(emulate: Emulate) -> None:
    emulate(bytes=1000)
    out = np.full(50_000, 85, np.uint8)
    with pytest.raises(MemoryError):
        gpuq.quantize_linear(np.ones(50_000, np.float32), 0.5, out=out, device="cuda")
    assert (out == 85).all()


# ---- values inside device arrays ----


def test_values_on_the_device_are_read_back_on_demand(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = emulate()
    x, bad = upload(emulated, X), upload(emulated, np.float32([0.5, -1.0]))
    matrix = upload(emulated, X.reshape(2, 500))
    gpuq.quantize_linear(matrix, bad, axis=0)  # unspecified values, no error
    monkeypatch.setenv("GPUQ_CHECK", "1")
    with pytest.raises(ValueError, match=r"scale: got the value -1.0"):
        gpuq.quantize_linear(matrix, bad, axis=0)
    with pytest.raises(ValueError, match="zero_point: got the value -128"):
        gpuq.quantize_linear(x, 0.5, upload(emulated, np.int8([-128])), narrow_range=True)
    assert_same(download(emulated, gpuq.quantize_linear(x, upload(emulated, np.float32([0.5])), np.int8(3))), CODES)


def test_host_functions_read_device_arrays(emulate: Emulate) -> None:
    emulated = emulate()
    low, high = (upload(emulated, np.float32(values)) for values in ([-1, -2], [3, 4]))
    params = gpuq.choose_qparams(low, high)
    expected = gpuq.choose_qparams(np.float32([-1, -2]), np.float32([3, 4]))
    assert_same(params.scale, expected.scale)
    assert_same(params.zero_point, expected.zero_point)
