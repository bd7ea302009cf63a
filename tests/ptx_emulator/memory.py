"""Global memory: buffers at fake, well separated addresses, with checks on every byte that a kernel touches.

Buffer number i, counted from 1, lies at (i << 36) + 256, so an address that runs out of its buffer meets nothing,
however far it runs, and arithmetic that loses the upper 32 bits shows. Per buffer: which bytes hold a value, which
block wrote a byte in this launch and, where the buffer is read and written, which block read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import LaunchError, UninitializedError
from .syntax import Module

Array = npt.NDArray[Any]
SPAN = 36  # log2 of the distance between two buffers' addresses
LARGEST = 32  # bytes of an access
BASE = 256  # cudaMalloc aligns to 256 bytes, and to no more
NOBODY, SEVERAL, ATOMIC = 0, -1, -2  # who touched a byte, beside single blocks and threads


class Buffer:
    """`size` bytes of global memory named `name`; a read-only one takes no stores from kernels."""

    def __init__(self, memory: Memory, address: int, size: int, name: str, read_only: bool) -> None:
        self.memory, self.address, self.size, self.name, self.read_only = memory, address, size, name, read_only
        padded = -(-size // LARGEST) * LARGEST
        self.data = np.zeros(padded, np.uint8)
        self.initialized = np.zeros(padded, bool)
        self.complete = False
        self.forget()

    def forget(self) -> None:
        """Start a launch: nobody has read or written anything."""
        self.writer: Array | None = None
        self.reader: Array | None = None

    def clear(self) -> None:
        """Forget what the bytes hold."""
        self.initialized[:] = False
        self.complete = False

    def written_by(self) -> Array:
        """Who wrote each byte in this launch: a thread and its time (see Access.threads), NOBODY or ATOMIC."""
        if self.writer is None:
            self.writer = np.zeros(self.data.size, np.int64)
            self.memory.touched.append(self)
        return self.writer

    def read_by(self) -> Array:
        """Who read each byte in this launch: a block, NOBODY or SEVERAL."""
        if self.reader is None:
            self.reader = np.zeros(self.data.size, np.int32)
            self.memory.touched.append(self)
        return self.reader

    def write(self, offset: int, content: Array) -> None:
        """The host's copy to the buffer: any array, as bytes."""
        raw = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
        if offset < 0 or offset + raw.size > self.size:
            raise LaunchError(
                f"a copy of {raw.size} bytes to offset {offset} of buffer {self.name} of {self.size} bytes"
            )
        self.data[offset : offset + raw.size] = raw
        self.initialized[offset : offset + raw.size] = True
        self.complete = self.complete or bool(self.initialized[: self.size].all())

    def read(self, offset: int, size: int) -> Array:
        """The host's copy of `size` bytes; an UninitializedError where nobody has written one of them."""
        if offset < 0 or offset + size > self.size:
            raise LaunchError(f"a copy of {size} bytes from offset {offset} of buffer {self.name} of {self.size} bytes")
        unknown = np.flatnonzero(~self.initialized[offset : offset + size])
        if unknown.size and not self.complete:
            raise UninitializedError(
                f"buffer {self.name}: {unknown.size} of {size} bytes never written, the first at {offset + unknown[0]}"
            )
        return self.data[offset : offset + size].copy()


@dataclass(frozen=True)
class DeviceArray:
    """An array in a buffer, as Numba passes it to a kernel. `offset` and `strides` are in bytes."""

    buffer: Buffer
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0
    strides: tuple[int, ...] | None = None

    def parameters(self) -> tuple[int, ...]:
        """Numba's 5 + 2·ndim parameters: meminfo, parent, items, item size, data, shape, strides."""
        steps = self.strides
        if steps is None:
            inner = [int(np.prod(self.shape[axis + 1 :], dtype=np.int64)) for axis in range(len(self.shape))]
            steps = tuple(each * self.dtype.itemsize for each in inner)
        items = int(np.prod(self.shape, dtype=np.int64))
        return (0, 0, items, self.dtype.itemsize, self.buffer.address + self.offset, *self.shape, *steps)

    def numpy(self) -> Array:
        """A C-contiguous array copied to the host; an UninitializedError where the kernel left bytes unwritten."""
        size = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        return self.buffer.read(self.offset, size).view(self.dtype).reshape(self.shape)


@dataclass
class Memory:
    """All live buffers of a device by number, and the variables of the modules loaded there. Addresses are used
    once."""

    buffers: dict[int, Buffer] = field(default_factory=dict)
    allocated: int = 0
    variables: dict[Module, dict[str, Buffer]] = field(default_factory=dict)
    touched: list[Buffer] = field(default_factory=list)  # since the last launch began
    size: int = 0  # of all live buffers

    def allocate(self, size: int, name: str = "", read_only: bool = False) -> Buffer:
        """A new buffer whose bytes hold nothing yet."""
        if size < 0 or size >= 1 << SPAN - 1:
            raise LaunchError(f"a buffer of {size} bytes")
        self.allocated += 1
        address = (self.allocated << SPAN) + BASE
        buffer = Buffer(self, address, size, name or f"buffer {self.allocated}", read_only)
        self.buffers[self.allocated] = buffer
        self.size += size
        return buffer

    def upload(self, array: Array, name: str = "", read_only: bool = True) -> DeviceArray:
        """An input: a buffer filled with `array`, read-only for kernels unless told otherwise."""
        buffer = self.allocate(array.nbytes, name, read_only)
        buffer.write(0, array)
        return DeviceArray(buffer, array.dtype, array.shape)

    def empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike, name: str = "") -> DeviceArray:
        """An output: a buffer that a kernel must write before anyone may read it."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = np.dtype(dtype)
        buffer = self.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, name)
        return DeviceArray(buffer, dtype, shape)

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back: kernels that still use its address meet an AccessError, the host a LaunchError."""
        if self.buffers.pop(buffer.address >> SPAN, None) is not buffer:
            raise LaunchError(f"buffer {buffer.name} is freed twice")
        self.size -= buffer.size
        buffer.size = -1

    def forget(self) -> None:
        """Start a launch."""
        for buffer in self.touched:
            buffer.forget()
        self.touched = []

    def find(self, address: int) -> Buffer | None:
        """The buffer to whose span an address belongs, None where there is none."""
        return self.buffers.get(address >> SPAN)
