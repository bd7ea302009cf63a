"""Calls that come again take the steps of the first one: with the same bits, errors, order and memory; or do not."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from repeated_calls import CALLS, POINT, codes, reals

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, Driver, InterfaceArray, download, upload  # noqa: E402
from emulated.libraries import Cupy, Torch  # noqa: E402
from gpuq.cuda import driver, repeat  # noqa: E402
from gpuq.cuda.recipes import ALIGNMENT  # noqa: E402
from gpuq.remembered import Recent  # noqa: E402

Emulate = Callable[..., Driver]
Asked = list[str]


def there(emulated: Driver, arrays: dict[str, Any], kind: Any = InterfaceArray) -> dict[str, Any]:
    return {name: upload(emulated, array, kind=kind) for name, array in arrays.items()}


def check(emulated: Driver, results: Any, expected: Any) -> None:
    several = expected if isinstance(expected, tuple) else (expected,)
    for result, right in zip(results if isinstance(results, tuple) else (results,), several, strict=True):
        assert_same(download(emulated, result), np.asarray(right))


# ---- what is repeated ----


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("library", ["interface", "torch", "cupy"])
def test_a_call_that_comes_again(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch, asked: Asked, call: str, library: str
) -> None:
    """Other memory, other contents: the operator is not asked, the kernels are the same, and so is what is told."""
    emulated, kind = emulate(), InterfaceArray
    if library != "interface":
        module: Any = Torch(emulated) if library == "torch" else Cupy(emulated)
        monkeypatch.setitem(sys.modules, library, module)
        kind = module.Tensor if library == "torch" else module.ndarray
    name, make, options = CALLS[call]
    kept, launched, told = [], [], []
    for seed in (1, 2, 3):
        arrays = make(seed)
        kept.append(there(emulated, arrays, kind))
        result = getattr(gpuq, name)(**kept[-1], **options)
        check(emulated, result, getattr(reference, name)(**arrays, **options))
        launched.append(emulated.launches.copy())
        told.append(gpuq.last_path())
        emulated.launches.clear()
    assert asked == [name]
    assert launched[0] == launched[1] == launched[2]
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("call", CALLS)
def test_real_tensors(asked: Asked, call: str) -> None:
    """By the very attributes and streams of torch, on a machine that has a GPU."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if driver.unavailable_reason() is not None or not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch for it")
    name, make, options = CALLS[call]
    for seed in (1, 2, 3, 4):
        arrays = make(seed)
        expected = getattr(reference, name)(**arrays, **options)
        given = {each: torch.from_numpy(np.array(array)).cuda() for each, array in arrays.items()}
        with torch.cuda.stream(torch.cuda.Stream() if seed % 2 else torch.cuda.default_stream()):
            torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            results = getattr(gpuq, name)(**given, **options)
        torch.cuda.synchronize()
        several = expected if isinstance(expected, tuple) else (expected,)
        for result, right in zip(results if isinstance(results, tuple) else (results,), several, strict=True):
            assert_same(result.cpu().numpy(), np.asarray(right))
    assert len(asked) == 2


@pytest.mark.parametrize("call", [call for call in CALLS if call != "dynamic"])
def test_into_memory_that_the_caller_gives(emulate: Emulate, asked: Asked, call: str) -> None:
    emulated = emulate()
    name, make, options = CALLS[call]
    for seed in (1, 2):
        arrays = make(seed)
        expected = getattr(reference, name)(**arrays, **options)
        out = upload(emulated, np.zeros_like(expected))
        assert getattr(gpuq, name)(**there(emulated, arrays), **options, out=out) is out
        assert_same(download(emulated, out), expected)
    assert asked == [name]


def test_notes_are_taken_at_the_second_call(emulate: Emulate, monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:
    emulated = emulate()
    monkeypatch.setattr(repeat, "NOTED_AT_ONCE", False)
    for seed, times in enumerate((1, 2, 2, 2)):
        x = reals(seed, 40)
        assert_same(
            download(emulated, gpuq.quantize_linear(upload(emulated, x), 0.5)), reference.quantize_linear(x, 0.5)
        )
        assert len(asked) == times


def test_a_matrix_times_itself_is_not_a_matrix_times_another(emulate: Emulate, asked: Asked) -> None:
    emulated = emulate()
    first, second = codes(1, 16, 16), codes(2, 16, 16)
    a, b = upload(emulated, first), upload(emulated, second)
    for left, right in ((first, first), (first, second), (second, second), (second, first)):
        given = [a if each is first else b for each in (left, right)]
        assert_same(download(emulated, gpuq.matmul_integer(*given)), reference.matmul_integer(left, right))
    assert len(asked) == 2


def test_in_place(emulate: Emulate, asked: Asked) -> None:
    emulated = emulate()
    for seed in (1, 2):
        content = reals(seed, 5, 9)
        x = upload(emulated, content)
        gpuq.fake_quantize(x, 0.5, out=x)
        assert_same(download(emulated, x), reference.fake_quantize(content, 0.5))
    x, out = upload(emulated, content), upload(emulated, np.zeros_like(content))
    gpuq.fake_quantize(x, 0.5, out=out)  # another call: its result lies elsewhere
    assert_same(download(emulated, out), reference.fake_quantize(content, 0.5))
    assert len(asked) == 2


def test_strides_and_alignment_are_part_of_a_call(emulate: Emulate, asked: Asked) -> None:
    """Views at every remainder of the address, in turn and again."""
    emulated = emulate()
    content = codes(3, 40 + 2 * ALIGNMENT)
    whole = upload(emulated, content)
    for again in range(2):
        for first in range(ALIGNMENT):
            start = first + again * ALIGNMENT
            part = Shifted(whole, start, 40)
            expected = reference.dequantize_linear(content[start : start + 40], 0.5)
            assert_same(download(emulated, gpuq.dequantize_linear(part, 0.5)), expected)
    assert len(asked) == ALIGNMENT


class Shifted:
    """Part of an array of bytes."""

    def __init__(self, array: InterfaceArray, first: int, count: int) -> None:
        self.array, interface = array, array.__cuda_array_interface__
        place = {"data": (interface["data"][0] + first, False), "shape": (count,), "strides": None}
        self.__cuda_array_interface__ = {**interface, **place}


def test_types_of_torch_are_names_too(emulate: Emulate, asked: Asked) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    emulated, x = emulate(), reals(1, 30)
    for _ in range(2):
        for dtype, name in ((torch.int8, "int8"), (torch.uint8, "uint8")):
            q = gpuq.quantize_linear(upload(emulated, x), 0.5, dtype=dtype)
            assert_same(download(emulated, q), reference.quantize_linear(x, 0.5, dtype=name))
    assert len(asked) == 2


def test_a_device_that_was_chosen_for_numpy_s_arrays(
    emulate: Emulate, monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    """Arrays on a GPU stay where they are, whatever was chosen for others between two calls."""
    emulated, x = emulate(), reals(1, 30)
    expected = reference.quantize_linear(x, 0.5)
    assert_same(download(emulated, gpuq.quantize_linear(upload(emulated, x), 0.5)), expected)
    monkeypatch.setenv("GPUQ_DEVICE", "cpu")
    assert_same(download(emulated, gpuq.quantize_linear(upload(emulated, x), 0.5)), expected)
    with gpuq.device("cpu"):
        assert_same(download(emulated, gpuq.quantize_linear(upload(emulated, x), 0.5)), expected)
        assert_same(gpuq.quantize_linear(x, 0.5), expected)
        assert gpuq.last_path().device == "cpu"
    assert asked == ["quantize_linear"] * 2


# ---- what makes another call of it ----


def test_whatever_a_result_depends_on(emulate: Emulate, asked: Asked) -> None:
    """Equal values of other types, and zeros of both signs, are other arguments."""
    emulated = emulate((8, 0), (8, 0))
    x = reals(1, 6, 8)
    changes: list[dict[str, Any]] = [
        {"scale": 1.0}, {"scale": 1}, {"scale": np.float32(1)}, {"scale": np.float64(1)}, {"scale": 2.0},
        {"zero_point": 1}, {"zero_point": np.int8(1)}, {"zero_point": np.uint8(1)}, {"zero_point": np.int16(1)},
        {"dtype": "int8"}, {"dtype": np.int8}, {"dtype": np.dtype(np.int8)}, {"dtype": np.int16},
        {"narrow_range": True, "dtype": "int8"}, {"rounding": "half_up"}, {"axis": 0},
        {"x": x.T}, {"x": x.astype(np.float64)}, {"x": x.astype(np.float16)}, {"x": x[:5]}, {"x": x.reshape(-1)},
    ]  # fmt: skip
    for _ in range(2):
        for change in changes:
            arguments = {"x": x, "scale": 1.0, "zero_point": None, **change}
            own = {name: upload(emulated, each) if name == "x" else each for name, each in arguments.items()}
            assert_same(download(emulated, gpuq.quantize_linear(**own)), reference.quantize_linear(**arguments))
        other = gpuq.quantize_linear(upload(emulated, x, 1), 1.0)
        assert gpuq.last_path().device == "cuda:1"
        assert_same(download(emulated, other), reference.quantize_linear(x, 1.0))
    assert len(asked) == len(changes) + 1


def test_a_zero_is_not_the_other_zero(emulate: Emulate) -> None:
    """0.0 == -0.0, but a bias of one or the other gives another zero."""
    emulated = emulate()
    a, b = upload(emulated, np.zeros((2, 4), np.int8)), upload(emulated, np.ones((4, 3), np.int8))
    for bias in (0.0, -0.0, np.float32(0), np.float32(-0.0), 0.0):
        y = download(emulated, gpuq.scaled_matmul(a, b, 1.0, 1.0, bias=bias))
        assert_same(
            y, reference.scaled_matmul(np.zeros((2, 4), np.int8), np.ones((4, 3), np.int8), 1.0, 1.0, bias=bias)
        )


def test_what_is_refused_is_refused_again(emulate: Emulate) -> None:
    emulated = emulate()
    x = upload(emulated, reals(1, 8))
    for _ in range(2):
        gpuq.quantize_linear(x, 1.0, dtype="int8", narrow_range=True)
        for options, argument in (
            ({"narrow_range": 1}, "narrow_range"),
            ({"scale": True}, "scale"),
            ({"scale": -1.0}, "scale"),
            ({"scale": float("nan")}, "scale"),
            ({"axis": 1.0}, "axis"),
            ({"stream": "0"}, "stream"),
            ({"device": "cpu"}, "device"),
            ({"device": "cuda:1"}, "device"),
            ({"out": np.zeros(8, np.uint8)}, "out"),
            ({"out": upload(emulated, np.zeros(8, np.uint8))}, "out"),
        ):
            with pytest.raises((TypeError, ValueError), match=f"{argument}: got"):
                gpuq.quantize_linear(**{"x": x, "scale": 1.0, "dtype": "int8", **options})


def test_an_out_that_overlaps(emulate: Emulate, asked: Asked) -> None:
    """The addresses of a call alone tell: it was carried out as one with memory of its own."""
    emulated = emulate()
    x = reals(1, 4, 16)
    given, out = upload(emulated, x), upload(emulated, np.zeros((4, 16), np.uint8))
    gpuq.quantize_linear(given, 0.5, out=out)
    for first in (0, 16, 3 * 64 + 48):
        overlapping = Shifted(given, first, 64)
        overlapping.__cuda_array_interface__ |= {"shape": (4, 16), "typestr": "|u1"}
        with pytest.raises(ValueError, match="out: got an array that overlaps x"):
            gpuq.quantize_linear(given, 0.5, out=overlapping)
    assert_same(download(emulated, given), x)
    columns = np.zeros((4, 32), np.float32)
    columns[:, ::2] = x
    both = upload(emulated, columns)
    even, odd = Shifted(both, 0, 0), Shifted(both, 4, 0)
    for each in (even, odd):
        each.__cuda_array_interface__ |= {"shape": (4, 16), "strides": (128, 8)}
    asked.clear()
    for _ in range(2):  # elements of their own between each other's
        gpuq.fake_quantize(even, 0.5, out=odd)
        assert_same(download(emulated, both)[:, 1::2], reference.fake_quantize(x, 0.5))
    assert len(asked) == 2


def test_a_packed_matrix_at_the_address_of_another(emulate: Emulate, asked: Asked) -> None:
    """A matrix that is gone leaves its address to the next one, whose codes are others; mostly, at least."""
    emulated = emulate()
    a, b, other = codes(1, 5, 32), codes(2, 32, 9), codes(3, 32, 9)
    left, following = upload(emulated, a), gpuq.prepack(upload(emulated, other), zero_point=np.int8(3))
    packed = gpuq.prepack(upload(emulated, b))
    for _ in range(2):
        assert_same(download(emulated, gpuq.matmul_integer(left, packed)), reference.matmul_integer(a, b))
    place, kept = id(packed), []
    del packed
    for _ in range(10_000):
        kept.append(copy.copy(following))
        if id(kept[-1]) == place:
            break
    for _ in range(2):
        c = gpuq.matmul_integer(left, kept[-1])
        assert_same(download(emulated, c), reference.matmul_integer(a, other, None, np.int8(3)))
    assert asked.count("matmul_integer") == 2


def test_a_packed_matrix_is_not_kept(emulate: Emulate) -> None:
    emulated = emulate()
    packed = gpuq.prepack(upload(emulated, codes(1, 32, 9)))
    gpuq.matmul_integer(upload(emulated, codes(2, 5, 32)), packed)
    gone = weakref.ref(packed)
    del packed
    gc.collect()
    assert gone() is None


def test_checks_of_values_on_the_device_are_made(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = emulate()
    x, bad = upload(emulated, reals(1, 2, 9)), upload(emulated, np.float32([0.5, -1.0]))
    for _ in range(2):
        gpuq.quantize_linear(x, bad, axis=0)
    monkeypatch.setenv("GPUQ_CHECK", "1")
    with pytest.raises(ValueError, match=r"scale: got the value -1.0"):
        gpuq.quantize_linear(x, bad, axis=0)


def test_what_is_read_back_is_read_each_time(emulate: Emulate, asked: Asked) -> None:
    """A depth at which int32 may overflow: the flag tells, not a note of the first call."""
    emulated = emulate()
    k = 33_026
    for value, refused in ((1, False), (127, True), (1, False)):
        a, b = (upload(emulated, np.full(shape, value, np.uint8)) for shape in ((1, k), (k, 1)))
        point = {} if not refused else {"a_zero_point": upload(emulated, np.uint8([255]))}
        if refused:
            a = upload(emulated, np.full((1, k), 0, np.uint8))
            b = upload(emulated, np.full((k, 1), 255, np.uint8))
            with pytest.raises(OverflowError, match="does not fit int32"):
                gpuq.matmul_integer(a, b, **point)
        else:
            assert_same(download(emulated, gpuq.matmul_integer(a, b)), np.full((1, 1), k, np.int32))
    assert len(asked) == 3


def test_arrays_that_only_dlpack_describes_are_asked_each_time(emulate: Emulate, asked: Asked) -> None:
    emulated = emulate()
    for seed in (1, 2):
        x = reals(seed, 30)
        q = gpuq.quantize_linear(upload(emulated, x, kind=DlpackArray), 0.5)
        assert_same(download(emulated, q), reference.quantize_linear(x, 0.5))
    assert len(asked) == 2


# ---- order ----


def new_stream(emulated: Driver) -> int:
    with driver.device(0).current():
        number: int = emulated.cuStreamCreate(1)[1]
        return number


def test_on_another_stream(emulate: Emulate, monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:
    """Kernels, workspace and zeros go where this call belongs, in the order after what writes its arguments."""
    emulated = emulate()
    used: set[int] = set()
    for name in ("cuLaunchKernel", "cuMemAllocAsync", "cuMemFreeAsync", "cuMemsetD8Async"):
        original, place = getattr(emulated, name), {"cuLaunchKernel": 8, "cuMemsetD8Async": 3}.get(name, 1)

        def note(*given: Any, original: Any = original, place: int = place) -> Any:
            used.add(given[place])
            return original(*given)

        monkeypatch.setattr(emulated, name, note)
    a, b = codes(1, 20, 33), codes(2, 33, 19)
    for number in (0, new_stream(emulated), new_stream(emulated)):
        used.clear()
        left, right = upload(emulated, a), upload(emulated, b)
        writer = new_stream(emulated)
        buffer = emulated.devices[0].memory.find(left.address)
        assert buffer is not None
        buffer.clear()
        streams = emulated.devices[0].streams
        streams.add(
            streams.streams[writer], lambda buffer=buffer, at=left.address: buffer.write(at - buffer.address, a)
        )
        left.stream = writer
        c = gpuq.matmul_integer(left, right, POINT, POINT, stream=number)
        assert used == {number}
        with driver.device(0).current():
            emulated.cuStreamSynchronize(number)
        assert_same(download(emulated, c), reference.matmul_integer(a, b, POINT, POINT))
    assert len(asked) == 1


def test_on_the_stream_that_torch_works_on(emulate: Emulate, monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:
    """Results come from its allocator for that very stream, also where the caller names another one."""
    emulated = emulate()
    torch, other = Torch(emulated), new_stream(emulated)
    monkeypatch.setitem(sys.modules, "torch", torch)
    x = reals(1, 20)
    given = upload(emulated, x, kind=torch.Tensor)
    for current, stream, expected in ((0, None, 0), (other, None, other), (0, other, other), (other, 0, 0)):
        torch._stream = current
        q = gpuq.quantize_linear(given, 0.5, stream=stream)
        assert torch.made[-1] == (expected, x.shape)
        assert_same(download(emulated, q), reference.quantize_linear(x, 0.5))
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream")  # as versions before 1.12
    torch._stream = other
    gpuq.quantize_linear(given, 0.5)
    assert torch.made[-1] == (other, x.shape)
    assert len(asked) == 1


def test_in_a_graph(emulate: Emulate, asked: Asked) -> None:
    """Noted before a capture, or within one; what waits is refused in it whatever came before."""
    emulated = emulate()
    stream = new_stream(emulated)
    a, b = codes(1, 20, 33), codes(2, 33, 19)
    left, right = upload(emulated, a), upload(emulated, b)
    row, column = (upload(emulated, np.ones(shape, np.int8)) for shape in ((1, 33_026), (33_026, 1)))
    gpuq.matmul_integer(row, column)
    for _ in range(2):
        with driver.device(0).current():
            emulated.cuStreamBeginCapture(stream, 0)
            c = gpuq.matmul_integer(left, right, POINT, stream=stream)
            with pytest.raises(ValueError, match="stream: got one that captures a graph, for matmul_integer"):
                gpuq.matmul_integer(row, column, stream=stream)
            graph = emulated.cuStreamEndCapture(stream)[1]
            for _ in range(2):
                emulated.cuGraphLaunch(graph, stream)
        assert_same(download(emulated, c), reference.matmul_integer(a, b, POINT))
    assert len(asked) == 4


def test_from_many_threads(emulate: Emulate, asked: Asked) -> None:
    """Each with memory of its own, all by the same notes."""
    emulated = emulate()
    lock, wrong = threading.Lock(), []
    a, b = codes(1, 6, 32), codes(2, 32, 9)
    gpuq.matmul_integer(upload(emulated, a), upload(emulated, b))
    launch = emulated.cuLaunchKernel

    def one_at_a_time(*given: Any) -> Any:  # the emulated streams are not made for threads
        with lock:
            return launch(*given)

    emulated.cuLaunchKernel = one_at_a_time  # type: ignore[method-assign]
    given = [
        [(upload(emulated, codes(10 * t + i, 6, 32)), codes(10 * t + i, 6, 32)) for i in range(5)] for t in range(8)
    ]
    outs = [[upload(emulated, np.zeros((6, 9), np.int32)) for _ in range(5)] for _ in range(8)]
    right = upload(emulated, b)
    gpuq.matmul_integer(given[0][0][0], right, out=outs[0][0])

    def work(thread: int) -> None:
        try:
            for (left, _), out in zip(given[thread], outs[thread], strict=True):
                gpuq.matmul_integer(left, right, out=out)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(asked) == 2
    for row, results in zip(given, outs, strict=True):
        for (_, content), out in zip(row, results, strict=True):
            assert_same(download(emulated, out), reference.matmul_integer(content, b))


# ---- memory ----


@pytest.mark.usefixtures("quick_collection")
def test_workspace_is_given_back(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a step fails."""
    emulated = emulate()
    memory = emulated.devices[0].memory
    a, b, out = (upload(emulated, each) for each in (codes(1, 20, 33), codes(2, 33, 19), np.zeros((20, 19), np.int32)))
    sizes = []
    for _ in range(3):
        gpuq.matmul_integer(a, b, POINT, out=out)
        with driver.device(0).current():
            emulated.cuCtxSynchronize()
        sizes.append(memory.size)
    refusal = (emulated.CUresult.CUDA_ERROR_LAUNCH_FAILED,)
    monkeypatch.setattr(emulated, "cuLaunchKernel", lambda *given: refusal)
    with pytest.raises(gpuq.DeviceError, match="cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"):
        gpuq.matmul_integer(a, b, POINT, out=out)
    with driver.device(0).current():
        emulated.cuCtxSynchronize()
    assert {*sizes, memory.size} == {sizes[0]}


def test_too_little_memory(emulate: Emulate) -> None:
    emulated = emulate(bytes=20_000)
    a, b, out = (upload(emulated, each) for each in (codes(1, 20, 33), codes(2, 33, 19), np.zeros((20, 19), np.int32)))
    gpuq.matmul_integer(a, b, POINT, out=out)
    with driver.device(0).current():
        emulated.cuCtxSynchronize()
    kept = upload(emulated, np.zeros(20_000 - emulated.devices[0].memory.size - 500, np.int8))
    with pytest.raises(MemoryError, match=r"^\d+ bytes on cuda:0 \(Emulated 8.0\)$"):
        gpuq.matmul_integer(a, b, POINT, out=out)
    del kept
    gc.collect()
    gpuq.matmul_integer(a, b, POINT, out=out)
    expected = reference.matmul_integer(codes(1, 20, 33), codes(2, 33, 19), POINT)
    assert_same(download(emulated, out), expected)


def test_notes_are_bounded() -> None:
    recent: Recent[int, str] = Recent(10)
    recent[0] = "asked for all the time"
    for number in range(1, 1000):
        recent[number] = "asked for once"
        assert recent.get(0) is not None
    assert len(recent._young) + len(recent._old) <= 20
    assert recent.get(1) is None
    assert recent.get(999) is not None
