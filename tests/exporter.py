"""Arrays that speak DLPack or CUDA's array interface alone, for tests of what comes from unknown libraries."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

CPU, CUDA, ROCM = (1, 0), (2, 1), (10, 0)  # DLPack's (device type, device index)
TYPE_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
BFLOAT16_CODE = 4


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
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


_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_alive: dict[int, Any] = {}  # address of each managed tensor: all that must live as long as its capsule


@_Destructor
def _free(capsule: int) -> None:
    del _alive[_capsule_pointer(capsule, b"dltensor")]


def capsules_alive() -> int:
    """How many capsules have been handed out and not been freed."""
    return len(_alive)


def make_capsule(
    address: int | None,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    element: tuple[int, int, int],
    device: tuple[int, int],
    offset: int = 0,
    keep: Any = None,
) -> Any:
    """A `dltensor` capsule of memory: strides in elements (None for C order), element as (type code, bits, lanes); it
    keeps `keep` alive.
    """
    ndim = len(shape)
    extents = (ctypes.c_int64 * ndim)(*shape)
    steps = None if strides is None else (ctypes.c_int64 * ndim)(*strides)
    managed = _ManagedTensor(_Tensor(address, device, ndim, *element, extents, steps, offset))
    place = ctypes.addressof(managed)
    _alive[place] = (managed, extents, steps, keep)
    return _new_capsule(place, b"dltensor", _free)


class Exporter:
    """A NumPy array behind DLPack alone. The capsule, not this object, keeps the memory alive."""

    def __init__(self, array: npt.NDArray[Any], *, code: int | None = None, lanes: int = 1, offset: int = 0) -> None:
        self._array, self._lanes, self._offset = array, lanes, offset
        self._code = TYPE_CODES[array.dtype.kind] if code is None else code

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU

    def __dlpack__(self, **options: Any) -> Any:
        array = self._array
        strides = None if array.flags.c_contiguous else tuple(step // array.itemsize for step in array.strides)
        data = array.ctypes.data - self._offset if array.size else None  # NULL for no elements
        element = (self._code, 8 * array.itemsize, self._lanes)
        return make_capsule(data, array.shape, strides, element, CPU, self._offset, array)


class OnDevice:
    """An array that says it lies on a device and must not be asked for more where that device is absent."""

    def __init__(self, device: tuple[int, int]) -> None:
        self._device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("its memory was asked for")


class CudaArray:
    """An array of CUDA's array interface."""

    __cuda_array_interface__ = {"shape": (3, 4), "typestr": "<f4", "data": (256, False), "version": 3}


class _Namespace:
    """An array API namespace with the one function that results need."""

    @staticmethod
    def asarray(values: Any, device: Any = None) -> NamespaceArray:
        return NamespaceArray(np.asarray(values), device)


class NamespaceArray(Exporter):
    """An array of a library that follows the array API standard."""

    def __init__(self, array: npt.NDArray[Any], device: Any = "its own") -> None:
        super().__init__(array)
        self.array, self.device = array, device

    def __array_namespace__(self) -> type[_Namespace]:
        return _Namespace
