"""Memory on a device that belongs to gpuq: packed matrices, and results for callers whose library can make no array."""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any

from gpuq import dlpack
from gpuq.cuda import driver
from gpuq.cuda.driver import Device
from gpuq.dtypes import numpy_dtype


class OwnedMemory:
    """Memory on a device that is freed when nothing refers to it any more."""

    def __init__(self, device: Device, size: int) -> None:
        device.push()
        try:
            self.address = device.allocate_for_all(size)
        finally:
            device.pop()
        self._end = weakref.finalize(self, device.free_for_all, self.address)
        self._end.atexit = False  # the process gives it back


class OwnedArray:
    """A result on a device for callers whose library makes no arrays that gpuq knows of. Any library takes it: by
    `__cuda_array_interface__`, which bfloat16 does not have, or by DLPack. It names the stream that writes it; none
    where that is done before anybody has it.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    device : Device
    stream : int or None
        That of what writes it.
    address : int
    """

    def __init__(self, device: Device, shape: tuple[int, ...], name: str, stream: int | None) -> None:
        self.shape, self.dtype = shape, numpy_dtype(name)
        self.device, self.stream = device, stream
        size = math.prod(shape) * self.dtype.itemsize
        self._memory = OwnedMemory(device, size) if size else None
        self.address = self._memory.address if self._memory else 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.isbuiltin != 1:
            raise AttributeError(f"CUDA's array interface has no {self.dtype.name}")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None if self.stream is None else self.stream or dlpack.LEGACY_STREAM,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device.index

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"asked for {'a copy' if copy else f'device {dl_device}'}; gives its memory as it is")
        if stream != -1 and self.stream is not None:
            with self.device.current():
                self.device.order(self.stream, dlpack.driver_stream(stream or dlpack.LEGACY_STREAM))
        return dlpack.capsule(self.address, self.shape, self.dtype, self.device.index, keep=self)

    def __repr__(self) -> str:
        return f"OwnedArray(shape={self.shape}, dtype={self.dtype.name}, device='cuda:{self.device.index}')"


def new_array(value: Any, index: int, shape: tuple[int, ...], name: str, stream: int) -> Any:
    """An array for a result beside `value` on a device, written on `stream`: Numba's own kind, or gpuq's."""
    numba_arrays = sys.modules.get("numba.cuda.cudadrv.devicearray")
    if numba_arrays is not None and isinstance(value, numba_arrays.DeviceNDArrayBase):
        from numba import cuda

        with driver.device(index).current():
            return cuda.device_array(shape, numpy_dtype(name))
    return OwnedArray(driver.device(index), shape, name, stream)
