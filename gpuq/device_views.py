"""The caller's arrays on GPUs, in and out: torch, CuPy, Numba, JAX and whatever speaks their two protocols.

    torch tensor                        its own attributes
    __cuda_array_interface__ 2, 3       CuPy, Numba: address, shape, strides, and the stream that wrote it
    DLPack                              JAX: a capsule, which makes the data ready on the stream it is asked with

A library is touched only if the caller has imported it. Nothing here looks at an element.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from gpuq import dlpack
from gpuq.device_array import DeviceArray, device_array
from gpuq.dtypes import QUANTIZED, REAL, dtype_name

Shape = tuple[int, ...]


def storage(name: str) -> np.dtype[Any] | None:
    """The NumPy type that holds an element of that name; None where gpuq has no such type."""
    known: Any = REAL.get(name) or QUANTIZED.get(name)
    return None if known is None else known.storage


def torch_array(value: Any, name: str) -> DeviceArray:
    """The memory of a torch tensor on a GPU."""
    kind = storage(name)
    assert kind is not None
    strides = tuple(step * kind.itemsize for step in value.stride())
    return device_array(value.data_ptr(), tuple(value.shape), kind, strides, value, type=name)


def interface_array(value: Any) -> tuple[DeviceArray, bool] | None:
    """The memory behind `__cuda_array_interface__`, and whether it may be written; None where gpuq cannot use it."""
    interface = value.__cuda_array_interface__
    given = np.dtype(interface["typestr"])
    kind = storage(dtype_name(given)) if given.isnative else None
    if kind is None or interface.get("mask") is not None:
        return None
    address, read_only = interface["data"]
    name = dtype_name(given)
    array = device_array(address or 0, tuple(interface["shape"]), kind, interface.get("strides"), value, type=name)
    return array, not read_only


def dlpack_array(value: Any) -> DeviceArray | None:
    """The memory of a DLPack exporter on a GPU, without waiting for it; None where gpuq has no such type."""
    described = dlpack.describe(value.__dlpack__(stream=-1))
    if described is None:
        return None
    address, shape, strides, name = described
    kind = storage(name)
    return None if kind is None else device_array(address, shape, kind, strides, value, read_only=True, type=name)


def make_ready(value: Any, stream: int) -> int | None:
    """See that work on `stream` comes after what wrote an argument; the stream to wait for, where that is left to us.

    torch tensors belong to torch's current stream by convention; Numba's and CuPy's interface names the stream.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return None
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        value.__dlpack__(stream=stream or dlpack.LEGACY_STREAM)
        return None
    writer = interface.get("stream")
    return None if writer is None or dlpack.driver_stream(writer) == stream else dlpack.driver_stream(writer)


def current_stream(value: Any, index: int) -> int:
    """The stream that the caller's library works on now, where it has one; else the driver's stream 0."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(value, torch.Tensor):
        return _torch_stream(torch, index)
    if cupy is not None and isinstance(value, cupy.ndarray):
        with cupy.cuda.Device(index):
            return dlpack.driver_stream(int(cupy.cuda.get_current_stream().ptr))
    return 0


def empty_like(value: Any, index: int, shape: Shape, name: str, stream: int) -> Any:
    """A new array on the device of `value`, to be written on `stream`: of the caller's kind, from that library's own
    allocator, where it has arrays that may be written; else an OwnedArray.
    """
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(value, torch.Tensor):
        return _torch_empty(torch, value, index, shape, name, stream)
    if cupy is not None and isinstance(value, cupy.ndarray):
        with cupy.cuda.Device(index), cupy.cuda.ExternalStream(stream) if stream else cupy.cuda.Stream.null:
            return cupy.empty(shape, dtype=name)
    from gpuq.cuda.memory import new_array

    return new_array(value, index, shape, name, stream)


def _torch_stream(torch: Any, index: int) -> int:
    """The stream that torch works on now: by the function that its compiled code calls, which makes no object."""
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return int(torch.cuda.current_stream(index).cuda_stream if raw is None else raw(index))


def _torch_empty(torch: Any, value: Any, index: int, shape: Shape, name: str, stream: int) -> Any:
    try:
        if stream == _torch_stream(torch, index):
            return torch.empty(shape, dtype=getattr(torch, name), device=value.device)
        order = torch.cuda.ExternalStream(stream, device=index) if stream else torch.cuda.default_stream(index)
        with torch.cuda.stream(order):
            return torch.empty(shape, dtype=getattr(torch, name), device=value.device)
    except torch.cuda.OutOfMemoryError as error:  # a RuntimeError
        kind = storage(name)
        assert kind is not None
        raise MemoryError(f"{math.prod(shape) * kind.itemsize} bytes on cuda:{index}: {error}") from None


def like(value: Any, made: Any) -> Any:
    """What `empty_like` made as an array of the caller's kind: JAX and others take an OwnedArray over by DLPack."""
    if type(made) is type(value) or not hasattr(value, "__array_namespace__"):
        return made
    return value.__array_namespace__().from_dlpack(made)
