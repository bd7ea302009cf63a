"""DLPack: any array that exports a `dltensor` capsule on the CPU, seen as a NumPy array without a copy; and capsules of
gpuq's own memory on a GPU.

NumPy's own `from_dlpack` knows no bfloat16. Structures as in dlpack.h, version 0.8 (DLManagedTensor), which every
exporter gives when it is not asked for a newer one.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
LEGACY_STREAM = 1  # how DLPack and CUDA's array interface name the driver's stream 0
_TYPE_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}
_TYPE_CODES = {"i": 0, "u": 1, "f": 2}  # of NumPy's kinds; bfloat16's is another
_BFLOAT = 4


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _ManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_Delete = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destroy = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_capsule_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destroy)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_exported: dict[int, Any] = {}  # address of each managed tensor: what must live until its consumer deletes it


def _delete(address: int) -> None:
    """The consumer is done with the memory."""
    _exported.pop(address, None)


def _destroy(capsule: int) -> None:
    """The capsule goes; a consumer that took its memory has renamed it."""
    if _capsule_named(capsule, b"dltensor"):
        _exported.pop(_raw_pointer(capsule, b"dltensor"), None)


_DELETE, _DESTROY = _Delete(_delete), _Destroy(_destroy)  # what C calls must stay alive


def capsule(address: int, shape: tuple[int, ...], dtype: np.dtype[Any], index: int, keep: Any) -> Any:
    """A capsule of an array in C order on a GPU; it keeps `keep` alive as long as somebody uses the memory."""
    code = _TYPE_CODES.get(dtype.kind, _BFLOAT)
    extents = (ctypes.c_int64 * len(shape))(*shape)
    tensor = _Tensor(address or None, CUDA, index, len(shape), code, 8 * dtype.itemsize, 1, extents, None, 0)
    managed = _ManagedTensor(tensor, None, ctypes.cast(_DELETE, ctypes.c_void_p))
    place = ctypes.addressof(managed)
    _exported[place] = (managed, extents, keep)
    return _new_capsule(place, b"dltensor", _DESTROY)


def driver_stream(number: int) -> int:
    """The driver's handle of a stream as DLPack and CUDA's array interface name it."""
    return 0 if number == LEGACY_STREAM else number


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def describe(capsule: Any) -> tuple[int, tuple[int, ...], tuple[int, ...] | None, str] | None:
    """Address, shape, strides in bytes (None: C order) and the element type's name of what a capsule holds; None where
    gpuq has no such type.
    """
    tensor = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    if tensor.type_code not in _TYPE_NAMES or tensor.type_lanes != 1 or tensor.type_bits % 8:
        return None
    bits, shape = tensor.type_bits, tuple(tensor.shape[: tensor.ndim])
    strides = tuple(s * bits // 8 for s in tensor.strides[: tensor.ndim]) if tensor.strides else None
    return (tensor.data or 0) + tensor.byte_offset, shape, strides, f"{_TYPE_NAMES[tensor.type_code]}{bits}"


class _Memory:
    """The exporter's memory as NumPy's array interface; the capsule frees it with this object, its last user."""

    def __init__(self, capsule: Any, address: int, interface: dict[str, Any]) -> None:
        self._capsule = capsule
        self.__array_interface__ = {"version": 3, "data": (address, True), **interface}


def view(value: Any) -> tuple[np.ndarray[Any, Any], str] | None:
    """The memory of an exporter on the CPU and its element type's name; None where gpuq has no such type.

    float16 and bfloat16 come as the uint16 of their bits. The array is read-only: a version 0 capsule does not say
    whether its memory may be written.
    """
    capsule = value.__dlpack__()
    described = describe(capsule)
    if described is None:
        return None
    address, shape, strides, name = described
    kind = np.dtype(np.uint16) if name in ("float16", "bfloat16") else np.dtype(name)
    if 0 in shape:  # its address may be NULL, which NumPy before 2.1 takes for none given
        return np.empty(shape, kind), name
    return np.asarray(_Memory(capsule, address, {"shape": shape, "typestr": kind.str, "strides": strides})), name
