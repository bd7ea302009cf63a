"""Arrays on emulated devices, as libraries hand them over: by CUDA's array interface, or by DLPack alone.

`upload` keeps strides and alignment: the memory that a NumPy array spans is copied as it lies, and the array made of
it on the device has the same strides and the same address modulo 256.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter import BFLOAT16_CODE, TYPE_CODES, make_capsule
from gpuq.arrays import view
from gpuq.device_array import address_of
from gpuq.dtypes import numpy_dtype
from ptx_emulator.memory import Buffer

from .driver import Driver

Array = npt.NDArray[Any]
ALIGNMENT = 256
DLPACK_CUDA = 2


class EmulatedArray:
    """The header `like` of an array whose first element lies `offset` bytes into a buffer, which it owns: with it the
    buffer goes, once all work is done.
    """

    def __init__(self, driver: Driver, buffer: Buffer, offset: int, like: Array) -> None:
        self.driver, self.address = driver, buffer.address + offset
        self.dtype, self.shape, self.strides, self.writable = like.dtype, like.shape, like.strides, like.flags.writeable
        device = driver.device_of(buffer.address)
        self.index = device.index
        weakref.finalize(self, device.streams.add_after_all, lambda: device.memory.free(buffer))


class InterfaceArray(EmulatedArray):
    """An array behind `__cuda_array_interface__`, version 3; `stream` is what wrote it, None for nobody."""

    stream: int | None = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = self.address if 0 not in self.shape else 0
        known = {"shape": self.shape, "typestr": self.dtype.str, "strides": self.strides, "version": 3}
        return {**known, "data": (data, not self.writable), "stream": self.stream}


class DlpackArray(EmulatedArray):
    """An array behind DLPack alone, as JAX's are; `asked` lists the streams that it was asked to be ready on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, self.index

    def __dlpack__(self, stream: int | None = None, **options: Any) -> Any:
        self.asked.append(stream)
        size = self.dtype.itemsize
        code = BFLOAT16_CODE if self.dtype.name == "bfloat16" else TYPE_CODES[self.dtype.kind]
        strides = tuple(step // size for step in self.strides)
        return make_capsule(self.address, self.shape, strides, (code, 8 * size, 1), (DLPACK_CUDA, self.index), 0, self)


def upload(driver: Driver, array: Array, device: int = 0, kind: Any = InterfaceArray, read_only: bool = False) -> Any:
    """An array on a device with the strides and the alignment of a NumPy array, its memory copied as it lies; kernels
    may not write to it if it is `read_only`, whatever it says of itself.
    """
    low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
    start = low % ALIGNMENT
    buffer = driver.devices[device].memory.allocate(start + high - low, read_only=read_only)
    if not array.size:
        return kind(driver, buffer, start, array)
    buffer.write(start, np.frombuffer(ctypes.string_at(low, high - low), np.uint8))
    return kind(driver, buffer, start + array.__array_interface__["data"][0] - low, array)


def download(driver: Driver, array: Any) -> Array:
    """A copy of a result on a device, once all work there is done."""
    seen = view(array)
    assert seen is not None
    shape, kind = seen.shape, numpy_dtype(seen.type)
    if 0 in shape:
        return np.empty(shape, kind)
    address = address_of(seen.array)
    device = driver.device_of(address)
    device.streams.finish(device.streams.streams.values())
    buffer = device.memory.find(address)
    assert buffer is not None
    place, strides = address - buffer.address, seen.array.strides
    known = np.ndarray((*shape, kind.itemsize), bool, buffer.initialized, place, (*strides, 1))
    assert known.all(), "an element was never written"
    return np.ndarray(shape, kind, buffer.data, place, strides).copy()


def download_memory(driver: Driver, array: EmulatedArray, memory: Array) -> None:
    """Bring all that an uploaded array's memory holds back to the NumPy array that it was uploaded from."""
    if not memory.size:
        return
    device = driver.devices[array.index]
    device.streams.finish(device.streams.streams.values())
    buffer = device.memory.find(array.address)
    assert buffer is not None
    low, high = np.lib.array_utils.byte_bounds(memory)
    start = low % ALIGNMENT
    assert not buffer.initialized[:start].any(), "bytes before the array were written"
    content = buffer.read(start, high - low)
    ctypes.memmove(low, content.ctypes.data, content.size)
