"""Arrays on devices, in and out: CUDA's array interface, DLPack, torch, CuPy, JAX and Numba; what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq import reference
from gpuq.dtypes import numpy_dtype

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from emulated import DlpackArray, Driver, InterfaceArray, download, upload  # noqa: E402
from emulated.libraries import Cupy, JaxArray, Torch  # noqa: E402
from gpuq import dlpack  # noqa: E402
from gpuq.cuda import driver  # noqa: E402
from gpuq.cuda.memory import OwnedArray  # noqa: E402

X = np.linspace(-50, 50, 600, dtype=np.float32).reshape(20, 30)
CODES = reference.quantize_linear(X, 0.5, np.int8(3))
A, B = np.arange(-60, 60, dtype=np.int8).reshape(6, 20), np.arange(140, dtype=np.uint8).reshape(20, 7)
Emulate = Callable[..., Driver]


def quantize_and_multiply(driver: Driver, kind: Any) -> tuple[Any, Any]:
    """Results for arrays of a kind, checked."""
    q = gpuq.quantize_linear(upload(driver, X, kind=kind), 0.5, np.int8(3))
    c = gpuq.matmul_integer(upload(driver, A, kind=kind), upload(driver, B, kind=kind), np.int8(2), np.uint8(9))
    assert_same(download(driver, q), CODES)
    assert_same(download(driver, c), reference.matmul_integer(A, B, 2, 9))
    return q, c


# ---- libraries ----


@pytest.mark.parametrize("current", [0, 4096])
def test_torch(emulate: Emulate, monkeypatch: pytest.MonkeyPatch, current: int) -> None:
    """Results are tensors of torch's allocator, made for the stream that torch works on, and written there."""
    emulated = emulate()
    if current:
        with driver.device(0).current():
            assert emulated.cuStreamCreate(1)[1] == current
    torch = Torch(emulated, current)
    monkeypatch.setitem(sys.modules, "torch", torch)
    results = quantize_and_multiply(emulated, torch.Tensor)
    assert all(isinstance(result, torch.Tensor) for result in results)
    assert torch.made == [(current, X.shape), (current, (6, 7))]
    scaled = gpuq.scaled_matmul(
        *(upload(emulated, each, kind=torch.Tensor) for each in (A, B)), 0.5, 0.25, dtype="float16"
    )
    assert str(scaled.dtype) == "torch.float16"
    out = upload(emulated, np.zeros(X.shape, np.int8), kind=torch.Tensor)
    assert gpuq.quantize_linear(upload(emulated, X, kind=torch.Tensor), 0.5, np.int8(3), out=out) is out
    assert_same(download(emulated, out), CODES)


def test_torch_makes_a_result_for_the_stream_that_was_given(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream 0 counts as given: memory that torch's own stream still uses must not be written from another one."""
    emulated = emulate()
    with driver.device(0).current():
        current = emulated.cuStreamCreate(1)[1]
    torch = Torch(emulated, current)
    monkeypatch.setitem(sys.modules, "torch", torch)
    for stream in (None, 0, current):
        gpuq.quantize_linear(upload(emulated, X, kind=torch.Tensor), 0.5, np.int8(3), stream=stream)
    assert [made for made, _ in torch.made] == [current, 0, current]


def test_torch_without_memory(emulate: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its allocator's error is a RuntimeError; gpuq's is a MemoryError that names the bytes."""
    emulated = emulate()
    torch = Torch(emulated)
    monkeypatch.setitem(sys.modules, "torch", torch)
    x = upload(emulated, X, kind=torch.Tensor)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(MemoryError, match=r"^1200 bytes on cuda:0: CUDA out of memory$"):
        gpuq.quantize_linear(x, 0.5, dtype="int16")
    assert not emulated.launches


@pytest.mark.parametrize("current", [0, 4096])
def test_cupy(emulate: Emulate, monkeypatch: pytest.MonkeyPatch, current: int) -> None:
    emulated = emulate((8, 0), (8, 0))
    if current:
        with driver.device(0).current():
            assert emulated.cuStreamCreate(1)[1] == current
    cupy = Cupy(emulated, current)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    results = quantize_and_multiply(emulated, cupy.ndarray)
    assert all(isinstance(result, cupy.ndarray) for result in results)
    assert cupy.made == [(current, X.shape), (current, (6, 7))]


def test_jax(emulate: Emulate) -> None:
    """JAX's arrays may not be written: results are gpuq's memory, taken over by DLPack."""
    emulated = emulate()
    q, c = quantize_and_multiply(emulated, JaxArray)
    assert type(q) is type(c) is JaxArray
    assert isinstance(q.source, OwnedArray)
    with pytest.raises(ValueError, match="out: got a read-only array"):
        gpuq.quantize_linear(upload(emulated, X, kind=JaxArray), 0.5, np.int8(3), out=q)


def test_bfloat16_has_dlpack_alone(emulate: Emulate) -> None:
    """CUDA's array interface has no name for it."""
    emulated = emulate()
    x = X.astype(numpy_dtype("bfloat16"))
    y = gpuq.fake_quantize(upload(emulated, x, kind=DlpackArray), 0.5, np.int8(3))
    assert isinstance(y, OwnedArray)
    assert not hasattr(y, "__cuda_array_interface__")
    assert "bfloat16" in repr(y)
    assert_same(download(emulated, y), reference.fake_quantize(x, 0.5, np.int8(3)))
    again = gpuq.quantize_linear(y, 0.5, np.int8(3))
    assert_same(
        download(emulated, again),
        reference.quantize_linear(reference.fake_quantize(x, 0.5, np.int8(3)), 0.5, np.int8(3)),
    )


def test_what_gpuq_makes_itself_speaks_both_protocols(emulate: Emulate) -> None:
    emulated = emulate()
    q = gpuq.quantize_linear(upload(emulated, X), 0.5, np.int8(3))
    assert isinstance(q, OwnedArray)
    interface = q.__cuda_array_interface__
    assert (interface["version"], interface["shape"], interface["typestr"]) == (3, (20, 30), "|i1")
    assert q.__dlpack_device__() == (2, 0)
    address, shape, strides, name = dlpack.describe(q.__dlpack__(stream=1)) or ()
    assert (address, shape, strides, name) == (interface["data"][0], (20, 30), None, "int8")
    assert repr(q) == "OwnedArray(shape=(20, 30), dtype=int8, device='cuda:0')"
    assert q.__dlpack__(stream=1, max_version=(1, 0), dl_device=(2, 0), copy=False) is not None
    for options, words in (({"copy": True}, "a copy"), ({"dl_device": (1, 0)}, r"device \(1, 0\)")):
        with pytest.raises(BufferError, match=f"asked for {words}; gives its memory as it is"):
            q.__dlpack__(**options)


# ---- results ----


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_empty_arrays(emulate: Emulate, shape: tuple[int, ...]) -> None:
    emulated = emulate()
    for kind in (InterfaceArray, DlpackArray):
        x = upload(emulated, np.zeros(shape, np.float32), kind=kind)
        assert download(emulated, gpuq.quantize_linear(x, 0.5)).shape == shape
        y, scale, point = gpuq.dynamic_quantize_linear(x)
        assert download(emulated, y).shape == shape
        assert_same(download(emulated, scale), np.array(1, np.float32))
        assert_same(download(emulated, point), np.array(0, np.uint8))
        a = upload(emulated, np.zeros((*shape, 4), np.int8), kind=kind)
        b = upload(emulated, np.zeros((4, 3), np.int8), kind=kind)
        assert download(emulated, gpuq.matmul_integer(a, b)).shape == (*shape, 3)


def test_int4_codes_are_int8_arrays_on_a_device(emulate: Emulate) -> None:
    emulated = emulate()
    for kind, storage in (("int4", "int8"), ("uint4", "uint8")):
        q = download(emulated, gpuq.quantize_linear(upload(emulated, X), 5.0, 3, dtype=kind))
        expected = reference.quantize_linear(X, 5.0, 3, dtype=kind)
        assert_same(q, expected.astype(storage))


def test_one_element_on_the_host_goes_with_any_device(emulate: Emulate) -> None:
    emulated = emulate((8, 0), (8, 0))
    x = upload(emulated, X, 1)
    for scale, point in ((0.5, 3), (np.float32(0.5), np.int8(3)), (np.float32([0.5]), np.int8([[3]]))):
        assert_same(download(emulated, gpuq.quantize_linear(x, scale, point, dtype="int8")), CODES)


# ---- what is refused ----


class Interface:
    """An array of CUDA's array interface with something about it changed."""

    def __init__(self, array: InterfaceArray, **changes: Any) -> None:
        self.array, self.__cuda_array_interface__ = array, {**array.__cuda_array_interface__, **changes}


@pytest.mark.parametrize("changes", [{"typestr": ">f4"}, {"typestr": "<c8"}, {"typestr": "|V4"}, {"mask": object()}])
def test_interfaces_that_gpuq_does_not_have(emulate: Emulate, changes: dict[str, Any]) -> None:
    emulated = emulate()
    with pytest.raises(TypeError, match="x: got an object of type Interface; accepted: an array of float32"):
        gpuq.quantize_linear(Interface(upload(emulated, X), **changes), 0.5)


@pytest.mark.parametrize("argument", ["x", "scale", "out"])
def test_an_address_that_is_no_gpu_s(emulate: Emulate, argument: str) -> None:
    """The driver's refusal reached the caller as "cuPointerGetAttribute: CUDA_ERROR_INVALID_VALUE"."""
    emulated = emulate()
    x, out = upload(emulated, X), upload(emulated, np.full(X.shape, 85, np.int8))
    arguments = {"x": x, "scale": upload(emulated, np.ones(30, np.float32)), "out": out}
    arguments[argument] = Interface(arguments[argument], data=(X.ctypes.data, False))
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{argument}: got an array at an address that is no GPU's; accepted: mem"):
            gpuq.quantize_linear(**arguments, zero_point=np.int8(3))
    with pytest.raises(ValueError, match="got an array at an address that is no GPU's; accepted: memory of a GPU"):
        gpuq.choose_qparams(Interface(x, data=(X.ctypes.data, False)), 1.0)
    assert not emulated.launches


def test_outputs_that_are_refused(emulate: Emulate) -> None:
    emulated = emulate()
    x, out = upload(emulated, X), upload(emulated, np.full(X.shape, 85, np.int8))
    read_only = Interface(out, data=(out.address, True))
    shared = Interface(out, strides=(0, 1))
    wrong: list[tuple[Any, str]] = [
        (read_only, "a read-only array"),
        (shared, "an array whose elements overlap"),
        (upload(emulated, np.zeros((20, 31), np.int8)), r"shape \(20, 31\)"),
        (upload(emulated, np.zeros(X.shape, np.int16)), "an array of int16"),
    ]
    for given, text in wrong:
        with pytest.raises((TypeError, ValueError), match=f"out: got {text}"):
            gpuq.quantize_linear(x, 0.5, np.int8(3), out=given)
    overlapping = Interface(x, typestr="|i1", strides=(30, 1))
    with pytest.raises(ValueError, match="out: got an array that overlaps x"):
        gpuq.quantize_linear(x, 0.5, np.int8(3), out=overlapping)
    with pytest.raises(ValueError, match="out: got an array on cpu, but x is on cuda:0"):
        gpuq.quantize_linear(x, 0.5, np.int8(3), out=np.zeros(X.shape, np.int8))
    assert (download(emulated, out) == 85).all()
    assert not emulated.launches


def test_nobody_reads_a_device_array_on_the_host(emulate: Emulate) -> None:
    """Its header is NumPy's; whatever would look at an element is an error."""
    emulated = emulate()
    array = gpuq.arrays.view(upload(emulated, X)).array
    for look in (
        lambda: array + 1,
        lambda: np.sum(array),
        lambda: array.tolist(),
        lambda: array.astype(float),
        lambda: list(array),
    ):
        with pytest.raises(TypeError, match="on a GPU were asked for on the CPU"):
            look()
    with pytest.raises(TypeError):
        array[0] = 1
