"""Arrays between host and GPUs: `beside` brings what was made on the host to where the caller's array lies, as an
array of that kind; `to_host` and `to_device` move any array, of which torch's tensors stay tensors.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays
from gpuq.arrays import View
from gpuq.device_array import DeviceArray, address_of
from gpuq.dtypes import QUANTIZED, REAL, numpy_dtype, type_name

Array = npt.NDArray[Any]


def beside(view: View, values: Array, type: str) -> Any:
    """NumPy values of an element type as an array of the kind of another, on its device."""
    stored = np.ascontiguousarray(values).reshape(values.shape)
    stored = stored.view(QUANTIZED[type].storage if type in QUANTIZED else REAL[type].storage)
    if view.device == "cpu":
        return arrays.like(view.owner, stored, type)
    target = arrays.empty_like(view, stored.shape, type)
    _upload(stored, target, arrays.device_index(view.device))
    return arrays.like(view.owner, target, type)


def to_host(value: Any) -> Array:
    """An array as NumPy's: itself where it is, without a copy where it lies on the host."""
    view = arrays.view(value)
    assert view is not None
    if isinstance(value, np.ndarray):
        return value
    seen = arrays.on_host(view)
    return arrays.readable(seen).view(numpy_dtype(seen.type))


def to_device(value: Any, device: str) -> Any:
    """An array on "cpu" or "cuda:N": a tensor for a tensor, else NumPy's or gpuq's own kind."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return value.to(device)
    view = arrays.view(value)
    assert view is not None
    if view.device == device:
        return value
    if device == "cpu":
        return to_host(value)
    from gpuq.cuda import driver
    from gpuq.cuda.memory import OwnedArray

    host = to_host(value)
    name = str(type_name(host.dtype))
    stored = QUANTIZED[name].storage.name if name in QUANTIZED else name
    if name in ("int4", "uint4"):  # 8-bit codes outside NumPy, whose own have nothing in their upper bits
        host = host.astype(stored)
    index = arrays.device_index(device)
    owned = OwnedArray(driver.device(index), host.shape, stored, None)
    seen = arrays.view(owned)
    assert seen is not None
    source = np.ascontiguousarray(host).reshape(host.shape)
    _upload(source.view(seen.array.dtype), seen.array, index)
    return owned


def _upload(source: Array, target: Array, index: int) -> None:
    """Copy to a new array on a GPU, and wait for it."""
    from gpuq.cuda import driver
    from gpuq.cuda.launch import Work

    assert isinstance(target, DeviceArray)
    if source.size == 0:
        return
    with Work(driver.device(index), stream=0):
        driver.call("cuMemcpyHtoDAsync", address_of(target), address_of(source), source.nbytes, 0)
        driver.call("cuStreamSynchronize", 0)
