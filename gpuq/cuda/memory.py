"""Memory on a device that belongs to gpuq: packed matrices, and results for callers whose library can make no array."""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any

import numpy as np

from gpuq.cuda import driver
from gpuq.cuda.driver import Device
from gpuq.dtypes import numpy_dtype


class OwnedMemory:
    """Memory on a device that is freed when nothing refers to it any more."""

    def __init__(self, device: Device, size: int) -> None:
        with device.current():
            self.address = device.allocate_for_all(size)
        self._end = weakref.finalize(self, device.free_for_all, self.address)
        self._end.atexit = False  # the process gives it back


class OwnedArray:
    """A result on a device for callers whose arrays say no more than `__cuda_array_interface__`; so does this one.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(self, device: Device, shape: tuple[int, ...], name: str) -> None:
        self.shape, self.dtype = shape, numpy_dtype(name)
        size = math.prod(shape) * self.dtype.itemsize
        self._memory = OwnedMemory(device, size) if size else None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self._memory.address if self._memory else 0, False),
            "strides": None,
        }

    def __repr__(self) -> str:
        return f"OwnedArray(shape={self.shape}, dtype={self.dtype.name})"


def new_array(value: Any, index: int, shape: tuple[int, ...], name: str) -> Any:
    """An array for a result beside `value` on a device: Numba's own kind, or gpuq's."""
    numba_arrays = sys.modules.get("numba.cuda.cudadrv.devicearray")
    if numba_arrays is not None and isinstance(value, numba_arrays.DeviceNDArrayBase):
        from numba import cuda

        with driver.device(index).current():
            return cuda.device_array(shape, numpy_dtype(name))
    return OwnedArray(driver.device(index), shape, name)
