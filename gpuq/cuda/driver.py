"""The CUDA driver as gpuq uses it: devices, streams, memory, copies, launches. Nothing else in gpuq calls the driver.

    device(i) ──► Device: its primary context, shared with torch, CuPy and Numba; its loaded kernels
    with device.current(): …          the calling thread's own current device is restored afterwards

The functions are those of `cuda.bindings.driver`; each gives a tuple of a code and its results. A code other than
success becomes a MemoryError that names the bytes, or a DeviceError.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuq.cuda.arguments import Arguments, types_of
from gpuq.cuda.hardware import Hardware, memory_rate, representative
from gpuq.errors import DeviceError
from gpuq.remembered import Recent

if TYPE_CHECKING:  # numba.cuda takes long to import: only when a kernel is loaded
    from gpuq.cuda.compile import Kernel
    from gpuq.cuda.numba_cuda import Capability

CODE_FORM = "cubin"  # what `load` is given; the emulator in tests/ takes "ptx"
DEFAULT_SHARED_BYTES = 48 * 1024  # more dynamic shared memory than this has to be asked for
EVENT_WITHOUT_TIMING = 2
MOST_RECIPES = 512  # of the calls that came last, and as many of those before
NAME_BYTES = 256
OLDEST = (7, 5)  # the first that CUDA 13 compiles for
_lock = threading.Lock()


@functools.cache
def bindings() -> Any:
    """The module `cuda.bindings.driver`."""
    from cuda.bindings import driver

    return driver


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver and give back its result (a tuple where it has several)."""
    return call_of(bindings(), name, *arguments)


def call_of(api: Any, name: str, *arguments: Any) -> Any:
    """The same, of the bindings that a device was opened with."""
    code, *results = getattr(api, name)(*arguments)
    if int(code) != 0:
        _raise(name, code)
    return results[0] if len(results) == 1 else tuple(results)


def _raise(name: str, code: Any) -> None:
    text = getattr(code, "name", str(code))
    if text == "CUDA_ERROR_OUT_OF_MEMORY":
        raise MemoryError(f"{name}: {text}")
    raise DeviceError(f"{name}: {text}")


class Card(NamedTuple):
    """What the driver says of a device that is not opened."""

    name: str
    capability: Capability


def _card(index: int) -> Card:
    handle, attributes = call("cuDeviceGet", index), bindings().CUdevice_attribute
    major, minor = (
        int(call("cuDeviceGetAttribute", getattr(attributes, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"), handle))
        for part in ("MAJOR", "MINOR")
    )
    name, _, _ = call("cuDeviceGetName", NAME_BYTES, handle).partition(b"\0")  # what follows may be anything
    return Card(name.decode(), (major, minor))


class Launch(NamedTuple):
    """A kernel as a device has loaded it, its blocks and their threads, their dynamic shared memory, and the formats of
    its arguments.
    """

    function: Any
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    kinds: str


class Device:
    """One GPU: its primary context and the kernels loaded there."""

    def __init__(self, index: int) -> None:
        self._api = bindings()
        self._call = functools.partial(call_of, self._api)
        attributes = bindings().CUdevice_attribute
        handle = self._call("cuDeviceGet", index)

        def attribute(name: str) -> int:
            return int(self._call("cuDeviceGetAttribute", getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}"), handle))

        self.index, self._process = index, os.getpid()
        self.name, self.capability = _card(index)
        self.multiprocessors = attribute("MULTIPROCESSOR_COUNT")
        self._pools = bool(attribute("MEMORY_POOLS_SUPPORTED"))
        self.most_shared = attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        self._context = self._call("cuDevicePrimaryCtxRetain", handle)
        self._functions: dict[Kernel, Any] = {}

    @functools.cached_property
    def hardware(self) -> Hardware:
        """What the choice of kernels has to know of it."""
        attributes, handle = bindings().CUdevice_attribute, self._call("cuDeviceGet", self.index)
        shared, cache, kilohertz, bits = (
            int(self._call("cuDeviceGetAttribute", getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}"), handle))
            for name in (
                "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", "L2_CACHE_SIZE", "MEMORY_CLOCK_RATE", "GLOBAL_MEMORY_BUS_WIDTH",
            )
        )  # fmt: skip
        known = representative(self.capability)
        return known._replace(
            name=self.name, multiprocessors=self.multiprocessors, shared_bytes=shared, cache_bytes=cache,
            gigabytes_per_second=memory_rate(kilohertz, bits) or known.gigabytes_per_second,
        )  # fmt: skip

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this the thread's current device, for a while."""
        self.push()
        try:
            yield
        finally:
            self.pop()

    def push(self) -> None:
        """Make this the thread's current device, until `pop`."""
        (code,) = self._api.cuCtxPushCurrent(self._context)
        if code:
            _raise("cuCtxPushCurrent", code)

    def pop(self) -> None:
        """Make that the current device that was it before `push`."""
        code, _ = self._api.cuCtxPopCurrent()
        if code:
            _raise("cuCtxPopCurrent", code)

    def allocate(self, size: int, stream: int) -> int:
        """The address of `size` bytes, to be used in the order of `stream`; a MemoryError names the bytes."""
        return self._allocate("cuMemAllocAsync", size, stream) if self._pools else self.allocate_for_all(size)

    def allocate_for_all(self, size: int) -> int:
        """The address of `size` bytes that any stream may use at once."""
        return self._allocate("cuMemAlloc", size)

    def _allocate(self, function: str, size: int, *stream: int) -> int:
        try:
            return int(self._call(function, size, *stream))
        except MemoryError:
            raise MemoryError(f"{size} bytes on cuda:{self.index} ({self.name})") from None

    def free(self, address: int, stream: int) -> None:
        """Give memory back when `stream` has come so far."""
        if self._pools:
            self._call("cuMemFreeAsync", address, stream)
        else:
            self._call("cuMemFree", address)

    def free_for_all(self, address: int) -> None:
        """Give back what `allocate_for_all` gave, when all work on the device is done; in a forked child nothing."""
        if self._process == os.getpid():
            with self.current():
                self._call("cuMemFree", address)

    def order(self, first: int, second: int) -> None:
        """Let what comes on the second stream wait for what is on the first one now."""
        if first == second:
            return
        event = self._call("cuEventCreate", EVENT_WITHOUT_TIMING)
        self._call("cuEventRecord", event, first)
        self._call("cuStreamWaitEvent", second, event, 0)
        self._call("cuEventDestroy", event)

    def prepared(self, kernel: Kernel, grid: tuple[int, int, int]) -> Launch:
        """A launch of a kernel, which is loaded now if it was not yet."""
        function = self._functions.get(kernel) or self._load(kernel)
        return Launch(function, grid, kernel.threads, kernel.shared_bytes, types_of(kernel))

    def start(self, launch: Launch, arguments: Arguments, stream: int) -> None:
        """Start a kernel."""
        function, grid, threads, shared, _ = launch
        (code,) = self._api.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, arguments.address, 0)
        if code:
            _raise("cuLaunchKernel", code)

    def _load(self, kernel: Kernel) -> Any:
        if kernel.shared_bytes > self.most_shared:
            raise DeviceError(
                f"kernel {kernel.name} needs {kernel.shared_bytes} bytes of shared memory per block; {self.name} has "
                f"{self.most_shared}"
            )
        from gpuq.cuda.compile import compiled_code

        code = compiled_code(kernel, self.capability, CODE_FORM)
        function = self._call("cuModuleGetFunction", self._call("cuModuleLoadData", code.image), code.entry.encode())
        if kernel.shared_bytes > DEFAULT_SHARED_BYTES:
            attribute = bindings().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call("cuFuncSetAttribute", function, attribute, kernel.shared_bytes)
        return self._functions.setdefault(kernel, function)


# ---- the devices of this process ----


class _Process:
    """The driver as this process started it, and the devices opened since; a forked child inherits it and cannot use
    it.
    """

    def __init__(self) -> None:
        self.number = os.getpid()
        self.opened: dict[int, Device] = {}
        self.recipes: Recent[Any, Any] = Recent(MOST_RECIPES)  # repeat.py
        self.cards, self.reason = _start_driver()


_process: _Process | None = None


def usable_process() -> _Process | None:
    """The driver and the devices of this process; None where it can use none."""
    process = _started()
    return process if process.reason is None and process.number == os.getpid() else None


def _started() -> _Process:
    global _process
    if _process is None:
        with _lock:
            _process = _process or _Process()
    return _process


def _forget_lock() -> None:
    """In a forked child the thread that held it is gone."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def _start_driver() -> tuple[list[Card], str | None]:
    """The devices that the driver sees, and why none can be used."""
    if importlib.util.find_spec("numba_cuda") is None:
        return [], "the package numba-cuda is not installed (pip install 'gpuq[cu13]')"
    try:
        call("cuInit", 0)
        supported, built = int(call("cuDriverGetVersion")), int(bindings().CUDA_VERSION)
        cards = [_card(index) for index in range(call("cuDeviceGetCount"))]
    except DeviceError as error:
        return [], f"the NVIDIA driver does not start: {error}"
    except RuntimeError:  # of the bindings, which find no library to load
        return [], "no NVIDIA driver was found on this machine"
    if supported // 1000 < built // 1000:  # it takes no machine code made for a later major version
        return cards, (
            f"the NVIDIA driver supports CUDA {_version(supported)}, the installed compiler is of CUDA "
            f"{_version(built)} (pip install 'gpuq[cu{supported // 1000}]', or a later driver)"
        )
    return cards, None if cards else "the NVIDIA driver sees no device"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def cards() -> list[Card]:
    """The devices that the driver sees; none without a driver, or where it does not start."""
    return list(_started().cards)


def unavailable_reason(index: int = 0) -> str | None:
    """Why this process cannot use a device; None where it can. Starts the driver, once, but opens no device."""
    process = _started()
    if process.reason is not None:
        return process.reason
    if process.number != os.getpid():
        return "this process was forked from one that had opened CUDA; start it by spawn instead"
    if index >= len(process.cards):
        return f"the NVIDIA driver sees {len(process.cards)} device{'s' * (len(process.cards) > 1)}"
    name, capability = process.cards[index]
    if capability < OLDEST:
        return "{} is of compute capability {}.{}; gpuq needs {}.{} or later".format(name, *capability, *OLDEST)
    return None


def device_of(address: int) -> int | None:
    """The index of the device that memory belongs to, None where it is no memory of a device; 0 for the address of an
    empty array, which may be any, and where no device can be used.
    """
    if address == 0 or unavailable_reason():
        return 0
    attribute = bindings().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    code, index = bindings().cuPointerGetAttribute(attribute, address)
    if getattr(code, "name", "") == "CUDA_ERROR_INVALID_VALUE":
        return None
    if int(code) != 0:
        _raise("cuPointerGetAttribute", code)
    return int(index)


def device(index: int) -> Device:
    """A device, opened at its first use.

    Raises
    ------
    DeviceError
        It is absent, or this process was forked from one that had opened CUDA.
    """
    reason = unavailable_reason(index)
    if reason:
        raise DeviceError(f"device 'cuda:{index}' is not available: {reason}")
    opened = _started().opened
    if index in opened:
        return opened[index]
    with _lock:
        if index not in opened:
            opened[index] = Device(index)
        return opened[index]
