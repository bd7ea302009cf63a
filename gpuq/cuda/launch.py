"""The launch layer: one call's work on one GPU, in the order of one stream. It owns workspace, copies and launches.

    host array   ── input ──► copied to workspace ─┐                 ┌─► workspace, copied by finish ─► host array
    device array ── input ──► as it is ────────────┴─ launch, launch ┴─► as it is ────────────────────► device array

Nothing waits for the GPU except `finish`, where the host gave an array or gets one, and packing. Workspace is freed in
the order of the stream, so a call with device arrays alone returns at once, and may be captured in a graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda import driver
from gpuq.cuda.arguments import Arguments
from gpuq.cuda.driver import Device, Launch
from gpuq.cuda.memory import OwnedMemory
from gpuq.device_array import DeviceArray, address_of, device_array

if TYPE_CHECKING:
    from gpuq.cuda.compile import Kernel

Array = npt.NDArray[Any]


class Work:
    """One operator's work on a device, from `with` to `finish`.

    Used as a context manager: the device is the thread's current one inside, and workspace is freed at its end,
    whatever happens.
    """

    def __init__(self, device: Device, stream: int) -> None:
        self.device, self.stream = device, stream
        self._workspace: list[int] = []
        self._results: list[tuple[Array, DeviceArray]] = []
        self._uploads: list[Array] = []

    def __enter__(self) -> Work:
        self.device.push()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for address in self._workspace:
                self.device.free(address, self.stream)
        finally:
            self.device.pop()

    # ---- memory ----

    def empty(self, shape: tuple[int, ...] | int, dtype: npt.DTypeLike) -> DeviceArray:
        """Workspace for an array in C order, until the end of the work."""
        shape, kind = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size == 0:
            return device_array(0, shape, kind)
        return device_array(self.allocate(size), shape, kind)

    def allocate(self, size: int) -> int:
        """The address of workspace of so many bytes, until the end of the work."""
        address = self.device.allocate(size, self.stream)
        self._workspace.append(address)
        return address

    def keep(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Memory for an array in C order that outlives the work: it is freed with the last header of it."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        memory = OwnedMemory(self.device, size) if size else None
        return device_array(memory.address if memory else 0, shape, kind, owner=memory)

    def input(self, array: Array) -> DeviceArray:
        """An input where kernels can read it: a host array is copied, in C order."""
        if isinstance(array, DeviceArray):
            return array
        self.refuse_capture("arrays on the CPU, whose copies are waited for")
        source = np.ascontiguousarray(array).reshape(array.shape)
        target = self.empty(source.shape, source.dtype)
        if source.size:
            self._uploads.append(source)
            driver.call("cuMemcpyHtoDAsync", address_of(target), address_of(source), source.nbytes, self.stream)
        return target

    def result(self, array: Array) -> DeviceArray:
        """Where kernels write a result: for a host array workspace, which `finish` copies back."""
        if isinstance(array, DeviceArray):
            return array
        target = self.empty(array.shape, array.dtype)
        self._results.append((array, target))
        return target

    def fill(self, array: DeviceArray, byte: int = 0) -> None:
        """Set all bytes of an array in C order."""
        if array.size:
            driver.call("cuMemsetD8Async", address_of(array), byte, array.nbytes, self.stream)

    def read(self, array: DeviceArray) -> Array:
        """A copy on the host of an array in C order; waits for the stream."""
        host = np.empty(array.shape, array.dtype)
        self._copy_back(host, array)
        self.wait()
        return host

    def wait(self) -> None:
        """Wait until the stream has done all that it was asked for."""
        driver.call("cuStreamSynchronize", self.stream)
        self._uploads.clear()

    def finish(self) -> None:
        """Bring results to the host arrays they belong to; waits for the stream if there are any, or if host arrays
        are still to be read.
        """
        staged = [(array, _contiguous(array), source) for array, source in self._results]
        for _, host, source in staged:
            self._copy_back(host, source)
        if staged or self._uploads:
            self.wait()
        for array, host, _ in staged:
            if host is not array:
                array[...] = host

    def _copy_back(self, host: Array, source: DeviceArray) -> None:
        if source.size:
            driver.call("cuMemcpyDtoHAsync", address_of(host), address_of(source), source.nbytes, self.stream)

    # ---- kernels ----

    def launch(self, kernel: Kernel, grid: tuple[int, ...] | int, *arguments: Any) -> None:
        """Start a kernel on `grid` blocks; its arguments are numbers, arrays (their address) and tuples of them."""
        launch, numbers = self.prepared(kernel, grid, arguments)
        self.device.start(launch, Arguments(launch.kinds, numbers), self.stream)

    def prepared(
        self, kernel: Kernel, grid: tuple[int, ...] | int, arguments: Sequence[Any]
    ) -> tuple[Launch, tuple[Any, ...]]:
        """A launch, and the numbers that its kernel takes."""
        x, y, z = (grid, 1, 1) if isinstance(grid, int) else (*grid, 1, 1)[:3]
        numbers: list[Any] = []
        _flatten(arguments, numbers)
        return self.device.prepared(kernel, (x, y, z)), tuple(numbers)

    def refuse_capture(self, what: str) -> None:
        """Raise where the stream records a graph, in which nothing may wait for it."""
        if int(driver.call("cuStreamIsCapturing", self.stream)) != 0:
            raise ValueError(f"stream: got one that captures a graph, for {what}; accepted: one that does not")


def _contiguous(array: Array) -> Array:
    """The array itself, or memory for its elements in C order."""
    return array if array.flags.c_contiguous else np.empty(array.shape, array.dtype)


def _flatten(arguments: Sequence[Any], numbers: list[Any]) -> None:
    """Append what a kernel takes for its arguments; nearly all are Python's own numbers, and looked at first."""
    for argument in arguments:
        kind = type(argument)
        if kind is int or kind is float:
            numbers.append(argument)
        elif isinstance(argument, tuple):
            _flatten(argument, numbers)
        elif kind is DeviceArray:
            numbers.append(address_of(argument))
        else:
            numbers.append(argument.item() if isinstance(argument, np.generic) else argument)
