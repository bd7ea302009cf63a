"""The caller's arrays in and out, without copies: NumPy, torch and whatever speaks DLPack.

A library is touched only if the caller has already imported it (`sys.modules`), so gpuq depends on none. Inside gpuq
an array is a `View`: NumPy memory in the storage type kernels see (dtypes.py) and the name of its element type.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import dlpack
from gpuq.dtypes import QUANTIZED, REAL, dtype_name, numpy_dtype

HALF_TYPES = ("float16", "bfloat16")
TORCH_TYPES = tuple(name for name in (*QUANTIZED, *REAL) if name not in ("int4", "uint4"))
PLAIN = (str, int, float, list, tuple, type)  # never arrays: asked first, as most arguments are one of them


@dataclass(frozen=True)
class View:
    """One array of the caller.

    `array` shares the caller's memory; `type` names its elements; `device` says where it lies ("cpu", "cuda:N": then
    `array` is empty); `writable` whether gpuq may write into it; `owner` is the caller's own object.
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


def view(value: Any) -> View | None:
    """The view of an array or NumPy scalar; None if `value` is neither."""
    if value is None or isinstance(value, PLAIN) and not isinstance(value, np.generic):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        return None if isinstance(value, np.ma.MaskedArray) else _view_numpy(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _view_torch(value, torch)
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _view_dlpack(value)
    if hasattr(value, "__cuda_array_interface__"):
        return View(np.empty(0), "unknown", "cuda:0", False, value)
    return None


def readable(view: View) -> npt.NDArray[Any]:
    """The view's elements in native byte order and, for int4 and uint4, without what the unused upper bits hold."""
    array = view.array
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if view.type == "int4":
        return (array << 4) >> 4
    return array & np.uint8(15) if view.type == "uint4" else array


def real_numbers(view: View) -> npt.NDArray[Any]:
    """The elements of a real view (a parameter, not the data) as float32 or float64, exactly."""
    array = readable(view)
    if view.type == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.view(np.float16).astype(np.float32) if view.type == "float16" else array


def empty_like(view: View, shape: tuple[int, ...], type: str) -> npt.NDArray[Any]:
    """New storage for a result of `type`; of x's memory order where it has x's shape."""
    storage = QUANTIZED[type].storage if type in QUANTIZED else REAL[type].storage
    fortran = shape == view.shape and view.array.flags.f_contiguous and not view.array.flags.c_contiguous
    return np.empty(shape, storage, order="F" if fortran else "C")


def like(owner: Any, array: npt.NDArray[Any], type: str) -> Any:
    """A result as the caller's kind of array: torch for torch, the array API namespace of `owner` where it has one,
    else NumPy.

    int4 and uint4 are ml_dtypes arrays in NumPy and int8 or uint8 codes elsewhere.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(owner, torch.Tensor):
        if type in HALF_TYPES:
            return torch.from_numpy(array.view(np.int16)).view(getattr(torch, type))
        return torch.from_numpy(array)
    if isinstance(owner, (np.ndarray, np.generic)) or not hasattr(owner, "__array_namespace__"):
        return array.view(numpy_dtype(type))
    result = array if type in ("int4", "uint4") else array.view(numpy_dtype(type))
    return owner.__array_namespace__().asarray(result, device=owner.device)


def _view_numpy(value: Any) -> View:
    array = np.asarray(value)
    name = dtype_name(array.dtype)
    if name in HALF_TYPES:
        array = array.view(np.dtype(np.uint16).newbyteorder(array.dtype.byteorder))
    elif name in ("int4", "uint4"):
        array = array.view(QUANTIZED[name].storage)
    return View(array, name, "cpu", array.flags.writeable, value)


def _view_torch(value: Any, torch: Any) -> View:
    name = str(value.dtype).removeprefix("torch.")
    if value.device.type == "cuda":
        return View(np.empty(0), name, f"cuda:{value.device.index or 0}", False, value)
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
        return View(np.empty(0), "unknown", f"cuda:{index}", False, value)
    try:
        seen = dlpack.view(value) if int(kind) == dlpack.CPU else None
    except BufferError:  # the exporter has no form of it that a consumer of this version may have
        seen = None
    return None if seen is None else View(*seen, "cpu", False, value)
