"""The caller's arrays in and out, without copies: NumPy, torch and whatever speaks DLPack.

A library is touched only if the caller has already imported it (`sys.modules`), so gpuq depends on none. Inside gpuq
an array is a `View`: NumPy memory in the storage type kernels see (dtypes.py) and the name of its element type.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import device_views, dlpack
from gpuq.device_array import DeviceArray, address_of
from gpuq.dtypes import QUANTIZED, REAL, STORAGE, dtype_name, numpy_dtype
from gpuq.packed import PackedMatrix

NOWHERE = "at an address that is no GPU's"  # of an array that its library says lies on one
HALF_TYPES = ("float16", "bfloat16")
TORCH_TYPES = tuple(name for name in (*QUANTIZED, *REAL) if name not in ("int4", "uint4"))
PLAIN = (str, int, float, list, tuple, type)  # never arrays
PLAINEST = frozenset((NoneType, bool, PackedMatrix, *PLAIN))  # asked first, as most arguments are exactly one of them


@dataclass(slots=True, eq=False)
class View:
    """One array of the caller.

    `array` shares the caller's memory; `type` names its elements; `device` says where it lies ("cpu", or "cuda:N": then
    `array` is a DeviceArray; or NOWHERE, which every operator refuses); `writable` whether gpuq may write into it, if
    `array` may be written; `owner` is the caller's own object.
    """

    array: npt.NDArray[Any]
    type: str
    device: str
    writable: bool
    owner: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.array.shape


def seen(value: Any) -> Any:
    """An argument as operators pass it on: an array as its view, which is so made once; anything else, NumPy's scalars
    too, as it came.
    """
    kind = type(value)
    if kind in PLAINEST:
        return value
    if kind is np.ndarray:
        return _view_numpy(value)
    if isinstance(value, np.generic):
        return value
    found = view(value)
    return value if found is None else found


def view(value: Any) -> View | None:
    """The view of an array or NumPy scalar; None if `value` is neither."""
    if value is None or isinstance(value, PLAIN) and not isinstance(value, np.generic):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        return None if isinstance(value, np.ma.MaskedArray) else _view_numpy(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _view_torch(value, torch)
    if hasattr(value, "__cuda_array_interface__"):
        return _view_interface(value)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _view_dlpack(value)
    return None


def device_index(device: str) -> int:
    """N of "cuda:N"; 0 of "cuda"."""
    if device == NOWHERE:
        raise ValueError(f"got an array {NOWHERE}; accepted: memory of a GPU")
    return int(device.partition(":")[2] or 0)


def readable(view: View) -> npt.NDArray[Any]:
    """The view's elements in native byte order and, for int4 and uint4, without what the unused upper bits hold."""
    array = view.array
    if isinstance(array, DeviceArray):
        return array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if view.type not in ("int4", "uint4"):
        return array
    if view.type == "int4":
        return (array << 4) >> 4
    return array & np.uint8(15)


def on_host(view: View) -> View:
    """The view itself, or one of a copy on the host of what lies on a GPU."""
    if view.device == "cpu":
        return view
    from gpuq.cuda.readback import to_host

    return replace(view, array=to_host(view.array, device_index(view.device)), device="cpu")


def real_numbers(view: View) -> npt.NDArray[Any]:
    """The elements of a real view (a parameter, not the data) as float32 or float64, exactly; on a GPU as they are."""
    array = readable(view)
    if isinstance(array, DeviceArray):
        return array
    if view.type == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.view(np.float16).astype(np.float32) if view.type == "float16" else array


def empty_like(view: View, shape: tuple[int, ...], type: str, stream: int = 0) -> npt.NDArray[Any]:
    """New storage for a result of `type`, on a GPU an array of the caller's own kind, to be written on `stream`; on the
    CPU of x's memory order where it has x's shape.
    """
    storage = STORAGE[type]
    if view.device != "cpu":
        name = dtype_name(storage) if type in QUANTIZED else type
        index = device_index(view.device)
        return _device_memory(device_views.empty_like(view.owner, index, shape, name, stream))
    if len(shape) > 1 and shape == view.shape:
        flags = view.array.flags
        return np.empty(shape, storage, order="F" if flags.f_contiguous and not flags.c_contiguous else "C")
    return np.empty(shape, storage)


def _device_memory(made: Any) -> npt.NDArray[Any]:
    """The memory of an array on a GPU that was made for a result."""
    seen = view(made)
    if seen is None or seen.device == "cpu":
        raise TypeError(f"an array of type {type(made).__name__} was made for a result, whose memory cannot be seen")
    return seen.array


def like(owner: Any, array: npt.NDArray[Any], type: str) -> Any:
    """A result as the caller's kind of array: torch for torch, the array API namespace of `owner` where it has one,
    else NumPy.

    int4 and uint4 are ml_dtypes arrays in NumPy and int8 or uint8 codes elsewhere.
    """
    if isinstance(owner, (np.ndarray, np.generic)) and not isinstance(array, DeviceArray):
        return _as_type(array, type)
    if isinstance(array, DeviceArray):
        return device_views.like(owner, array.owner)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(owner, torch.Tensor):
        if type in HALF_TYPES:
            return torch.from_numpy(array.view(np.int16)).view(getattr(torch, type)).to(owner.device)
        return torch.from_numpy(array).to(owner.device)
    if not hasattr(owner, "__array_namespace__"):
        return _as_type(array, type)
    result = array if type in ("int4", "uint4") else _as_type(array, type)
    return owner.__array_namespace__().asarray(result, device=owner.device)


def _as_type(array: npt.NDArray[Any], type: str) -> npt.NDArray[Any]:
    """Storage as the NumPy type that callers see."""
    kind = numpy_dtype(type)
    return array if array.dtype is kind else array.view(kind)


def _view_numpy(value: Any) -> View:
    array = value if type(value) is np.ndarray else np.asarray(value)
    name, storage = name_and_storage(array.dtype)
    return View(array if storage is None else array.view(storage), name, "cpu", True, value)


@functools.cache
def name_and_storage(dtype: np.dtype[Any]) -> tuple[str, np.dtype[Any] | None]:
    """An element type's name, and what its elements are viewed as where that is another type."""
    name = dtype_name(dtype)
    if name in HALF_TYPES:
        return name, np.dtype(np.uint16).newbyteorder(dtype.byteorder)
    return name, QUANTIZED[name].storage if name in ("int4", "uint4") else None


def _view_torch(value: Any, torch: Any) -> View:
    name = str(value.dtype).removeprefix("torch.")
    if value.device.type == "cuda" and value.layout == torch.strided and name in TORCH_TYPES and not value.is_neg():
        return View(device_views.torch_array(value, name), name, f"cuda:{value.device.index or 0}", True, value)
    if value.device.type != "cpu" or value.layout != torch.strided or name not in TORCH_TYPES:
        what = f"{value.dtype}, {value.layout}, on {value.device.type}"  # no name of a type: whoever asks refuses it
        return View(np.empty(0), what, "cpu", False, value)
    elements, writable = value.detach().resolve_neg(), not value.is_neg()
    if name in HALF_TYPES:
        return View(elements.view(torch.int16).numpy().view(np.uint16), name, "cpu", writable, value)
    return View(elements.numpy(), name, "cpu", writable, value)


def _view_dlpack(value: Any) -> View | None:
    kind, index = value.__dlpack_device__()
    if int(kind) == dlpack.CUDA:
        return _view_dlpack_on_gpu(value, int(index))
    try:
        seen = dlpack.view(value) if int(kind) == dlpack.CPU else None
    except BufferError:  # the exporter has no form of it that a consumer of this version may have
        seen = None
    return None if seen is None else View(*seen, "cpu", False, value)


def _view_dlpack_on_gpu(value: Any, index: int) -> View | None:
    """Its memory is asked for only where that GPU can be used; elsewhere the view has no type, and no call gets so
    far as to ask for one.
    """
    from gpuq.cuda import driver

    if driver.unavailable_reason(index) is not None:
        return View(np.empty(0), "unknown", f"cuda:{index}", False, value)
    array = device_views.dlpack_array(value)
    return None if array is None else View(array, array.type, f"cuda:{index}", False, value)


def _view_interface(value: Any) -> View | None:
    from gpuq.cuda import driver

    seen = device_views.interface_array(value)
    if seen is None:  # NumPy has no name for bfloat16, which DLPack has
        return _view_dlpack(value) if hasattr(value, "__dlpack__") else None
    array, writable = seen
    index = driver.device_of(address_of(array) if array.size else 0)
    return View(array, array.type, NOWHERE if index is None else f"cuda:{index}", writable, value)
