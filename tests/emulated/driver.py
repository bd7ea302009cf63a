"""The functions of `cuda.bindings.driver` that gpuq calls, on emulated devices: same names, same arguments, same codes.

Every function gives a tuple of a CUresult and its results, as the bindings do. What a program must not do is an
AssertionError here, not a code that it could overlook.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cuda.bindings import driver as bindings

from ptx_emulator import Counters, Memory, Module, NoCounters, launch, parse
from ptx_emulator.layout import SHARED_LIMIT, dtype_of
from ptx_emulator.memory import SPAN
from ptx_emulator.syntax import Variable

from .streams import Graph, Stream, Streams, Task, finish, in_a_task

SUCCESS = bindings.CUresult.CUDA_SUCCESS
GROUPS = (1, 1, 1, 3)  # of warps, launch by launch: orders enough, and time for many launches
DEVICE_BITS = 20  # a device's buffers are numbered from index << DEVICE_BITS on
Capability = tuple[int, int]


def _arguments_at(address: int, parameters: list[Variable]) -> list[Any]:
    """A kernel's arguments, of its parameters' types: each lies where a pointer in a row of them says."""
    pointers = (ctypes.c_void_p * len(parameters)).from_address(address)
    kinds = [dtype_of(each.type) for each in parameters]
    return [
        np.frombuffer(ctypes.string_at(pointer, kind.itemsize), kind)[0]
        for pointer, kind in zip(pointers, kinds, strict=True)
    ]


@functools.cache
def _parsed(text: str) -> Module:
    """Every kernel is parsed and compiled once, whoever loads it."""
    return parse(text)


@dataclass(eq=False)
class Device:
    """An emulated device: its memory of `bytes`, and its streams. It is also the handle of its primary context."""

    index: int
    capability: Capability
    bytes: int
    memory: Memory = field(init=False)
    streams: Streams = field(default_factory=Streams)

    def __post_init__(self) -> None:
        self.memory = Memory(allocated=self.index << DEVICE_BITS)


@dataclass(eq=False)
class Function:
    """A kernel of a loaded module."""

    device: Device
    module: Module
    name: str
    most_shared: int = 48 * 1024


class Driver:
    """Emulated devices of some compute capabilities, each with so many bytes of memory; the module that
    `gpuq.cuda.driver.bindings` gives. `launches` names the entries of all kernels that were launched; with `counting`
    `costs` has the counters of each launch that was executed.
    """

    CUresult = bindings.CUresult
    CUdevice_attribute = bindings.CUdevice_attribute
    CUfunction_attribute = bindings.CUfunction_attribute
    CUpointer_attribute = bindings.CUpointer_attribute
    CUDA_VERSION = bindings.CUDA_VERSION
    memory_clock = 0  # unknown: its rate is that of the table

    def __init__(self, *capabilities: Capability, bytes: int = 1 << 32, counting: bool = False) -> None:
        self.devices = [Device(index, capability, bytes) for index, capability in enumerate(capabilities)]
        self.launches: list[str] = []
        self.counting, self.costs = counting, list[tuple[str, Counters]]()
        self._contexts = threading.local()
        self._streams: dict[int, Device] = {}
        self._launched = 0

    # ---- devices and contexts ----

    def cuInit(self, flags: int) -> Any:
        return (SUCCESS,)

    def cuDriverGetVersion(self) -> Any:
        return SUCCESS, bindings.CUDA_VERSION

    def cuDeviceGetCount(self) -> Any:
        return SUCCESS, len(self.devices)

    def cuDeviceGet(self, index: int) -> Any:
        if not 0 <= index < len(self.devices):
            return bindings.CUresult.CUDA_ERROR_INVALID_DEVICE, None
        return SUCCESS, self.devices[index]

    def cuDeviceGetName(self, size: int, device: Device) -> Any:
        name = "Emulated {}.{}".format(*device.capability).encode()
        return SUCCESS, (name + b"\0").ljust(size)  # a driver was seen to leave blanks behind the end

    def cuDeviceGetAttribute(self, attribute: Any, device: Device) -> Any:
        known = {
            "COMPUTE_CAPABILITY_MAJOR": device.capability[0],
            "COMPUTE_CAPABILITY_MINOR": device.capability[1],
            "MULTIPROCESSOR_COUNT": 4,
            "MEMORY_POOLS_SUPPORTED": 1,
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": self._most_shared(device),
            "L2_CACHE_SIZE": 4 << 20,
            "MEMORY_CLOCK_RATE": self.memory_clock,
            "GLOBAL_MEMORY_BUS_WIDTH": 256,
        }
        return SUCCESS, known[attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")]

    def _most_shared(self, device: Device) -> int:
        """Bytes that a block can have where its kernel asks for them."""
        return SHARED_LIMIT.get(device.capability[0] * 10 + device.capability[1], 48) * 1024

    def cuDevicePrimaryCtxRetain(self, device: Device) -> Any:
        return SUCCESS, device

    def cuCtxPushCurrent(self, context: Device) -> Any:
        self._stack().append(context)
        return (SUCCESS,)

    def cuCtxPopCurrent(self) -> Any:
        return SUCCESS, self._stack().pop()

    def cuCtxGetCurrent(self) -> Any:
        return SUCCESS, self._stack()[-1] if self._stack() else None

    def cuCtxSynchronize(self) -> Any:
        device = self._current()
        if any(stream.capturing for stream in device.streams.streams.values()):
            return (bindings.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        device.streams.finish(device.streams.streams.values())
        return (SUCCESS,)

    def _stack(self) -> list[Device]:
        if not hasattr(self._contexts, "stack"):
            self._contexts.stack = []
        stack: list[Device] = self._contexts.stack
        return stack

    def _current(self) -> Device:
        assert self._stack(), "no device is current"
        return self._stack()[-1]

    # ---- streams and events ----

    def cuStreamCreate(self, flags: int) -> Any:
        device = self._current()
        number = 0x1000 * (len(self._streams) + 1)
        device.streams.streams[number], self._streams[number] = Stream(blocking=flags == 0), device
        return SUCCESS, number

    def cuStreamSynchronize(self, number: int) -> Any:
        device, stream = self._stream(number)
        if stream.capturing is not None:
            return (bindings.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        device.streams.finish([stream])
        return (SUCCESS,)

    def cuStreamIsCapturing(self, number: int) -> Any:
        active = self._stream(number)[1].capturing is not None
        status = bindings.CUstreamCaptureStatus
        name = "CU_STREAM_CAPTURE_STATUS_ACTIVE" if active else "CU_STREAM_CAPTURE_STATUS_NONE"
        return SUCCESS, getattr(status, name)

    def cuEventCreate(self, flags: int) -> Any:
        return SUCCESS, []

    def cuEventRecord(self, event: list[Task], number: int) -> Any:
        last = self._stream(number)[1].last
        event[:] = [] if last is None else [last]
        return (SUCCESS,)

    def cuStreamWaitEvent(self, number: int, event: list[Task], flags: int) -> Any:
        stream = self._stream(number)[1]
        if stream.capturing is not None:  # no event of work outside the graph
            return (bindings.CUresult.CUDA_ERROR_STREAM_CAPTURE_ISOLATION,)
        stream.waits.extend(event)
        return (SUCCESS,)

    def cuEventSynchronize(self, event: list[Task]) -> Any:
        for task in event:
            finish(task)
        return (SUCCESS,)

    def cuEventDestroy(self, event: list[Task]) -> Any:
        return (SUCCESS,)

    def cuStreamBeginCapture(self, number: int, mode: Any) -> Any:
        self._stream(number)[1].capturing = Graph()
        return (SUCCESS,)

    def cuStreamEndCapture(self, number: int) -> Any:
        stream = self._stream(number)[1]
        graph, stream.capturing = stream.capturing, None
        assert graph is not None
        return SUCCESS, graph

    def cuGraphInstantiate(self, graph: Graph, flags: int) -> Any:
        return SUCCESS, graph

    def cuGraphLaunch(self, graph: Graph, number: int) -> Any:
        device, stream = self._stream(number)
        device.streams.replay(graph, stream)
        return (SUCCESS,)

    def _stream(self, number: int) -> tuple[Device, Stream]:
        device = self._streams[number] if number else self._current()
        assert device is self._current(), "a stream of another device than the current one"
        return device, device.streams.streams[number]

    def _later(self, number: int, run: Callable[[], None]) -> Any:
        device, stream = self._stream(number)
        device.streams.add(stream, run)
        return (SUCCESS,)

    # ---- memory ----

    def cuMemAlloc(self, size: int) -> Any:
        device = self._current()
        assert size > 0, "the driver allocates no empty memory"
        if device.memory.size + size > device.bytes:
            device.streams.finish(device.streams.streams.values())  # memory may be about to be freed
        if device.memory.size + size > device.bytes:
            return bindings.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        return SUCCESS, device.memory.allocate(size).address

    def cuMemAllocAsync(self, size: int, number: int) -> Any:
        self._stream(number)
        return self.cuMemAlloc(size)

    def cuMemFree(self, address: int) -> Any:
        device, buffer = self.device_of(address), self._buffer(address)
        if in_a_task():
            device.streams.add_after_all(lambda: device.memory.free(buffer))
        else:
            device.streams.finish(device.streams.streams.values())
            device.memory.free(buffer)
        return (SUCCESS,)

    def cuMemFreeAsync(self, address: int, number: int) -> Any:
        device, stream = self._stream(number)
        assert device is self.device_of(address)
        if stream.capturing is not None:  # a graph's memory lives as long as the graph, its contents do not
            return self._later(number, lambda: self._buffer(address).clear())
        return self._later(number, lambda: device.memory.free(self._buffer(address)))

    def cuMemcpyHtoDAsync(self, address: int, host: int, size: int, number: int) -> Any:
        def copy() -> None:
            buffer = self._buffer(address)
            content = np.frombuffer(ctypes.string_at(host, size), np.uint8)
            buffer.write(address - buffer.address, content)

        return self._later(number, copy)

    def cuMemcpyDtoHAsync(self, host: int, address: int, size: int, number: int) -> Any:
        def copy() -> None:
            buffer = self._buffer(address)
            content = buffer.read(address - buffer.address, size)
            ctypes.memmove(host, content.ctypes.data, size)

        return self._later(number, copy)

    def cuMemcpyDtoDAsync(self, to: int, address: int, size: int, number: int) -> Any:
        def copy() -> None:
            source, target = self._buffer(address), self._buffer(to)
            target.write(to - target.address, source.read(address - source.address, size))

        return self._later(number, copy)

    def cuMemsetD8Async(self, address: int, value: int, count: int, number: int) -> Any:
        def fill() -> None:
            buffer = self._buffer(address)
            buffer.write(address - buffer.address, np.full(count, value, np.uint8))

        return self._later(number, fill)

    def cuPointerGetAttribute(self, attribute: Any, address: int) -> Any:
        assert attribute is self.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        index = address >> SPAN + DEVICE_BITS
        if index >= len(self.devices) or self.devices[index].memory.find(address) is None:
            return bindings.CUresult.CUDA_ERROR_INVALID_VALUE, None
        return SUCCESS, index

    def device_of(self, address: int) -> Device:
        """The device whose memory an address belongs to."""
        return self.devices[address >> SPAN + DEVICE_BITS]

    def _buffer(self, address: int) -> Any:
        buffer = self.device_of(address).memory.find(address)
        assert buffer is not None, f"address {address:#x} belongs to no buffer"
        return buffer

    # ---- kernels ----

    def cuModuleLoadData(self, image: bytes) -> Any:
        return SUCCESS, (self._current(), _parsed(image.decode()))

    def cuModuleGetFunction(self, module: tuple[Device, Module], name: bytes) -> Any:
        device, parsed = module
        assert name.decode() in parsed.functions
        return SUCCESS, Function(device, parsed, name.decode())

    def cuFuncSetAttribute(self, function: Function, attribute: Any, value: int) -> Any:
        assert attribute is self.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        if value > self._most_shared(function.device):
            return (bindings.CUresult.CUDA_ERROR_INVALID_VALUE,)
        function.most_shared = value
        return (SUCCESS,)

    def cuLaunchKernel(
        self, function: Function, x: int, y: int, z: int, threads: int, threads_y: int, threads_z: int,
        shared: int, number: int, parameters: int, extra: int,
    ) -> Any:  # fmt: skip
        device = self._stream(number)[0]
        assert device is function.device, "a kernel loaded on another device"
        if shared > function.most_shared or min(x, y, z) < 1:
            return (bindings.CUresult.CUDA_ERROR_INVALID_VALUE,)
        arguments = _arguments_at(parameters, function.module.functions[function.name].parameters)
        self.launches.append(function.name)
        self._launched += 1
        seed, groups = self._launched, GROUPS[self._launched % len(GROUPS)]

        def run() -> None:
            counters = Counters() if self.counting else NoCounters()
            launch(
                function.module, function.name, (x, y, z), (threads, threads_y, threads_z), arguments, shared, seed,
                device.capability, memory=device.memory, counters=counters, groups=groups,
            )  # fmt: skip
            if self.counting:
                self.costs.append((function.name, counters))

        return self._later(number, run)
