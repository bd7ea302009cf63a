"""Which device and instruction set a call runs on: argument, then `with gpuq.device`, `set_device`, GPUQ_DEVICE,
detection.

A device that was forced and is absent is a `DeviceError` that says why; an automatic choice never is.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from typing import NamedTuple

from gpuq import environment, validate
from gpuq.cpu import threads
from gpuq.cpu.isa import available
from gpuq.errors import DeviceError


class Path(NamedTuple):
    """What really ran: the device, the kernel's name and the instruction set."""

    device: str
    kernel: str
    isa: str  # of the micro-kernel; elementwise kernels, compiled for the processor as it is, tell the one in force


_process_device: str | None = None
_context_device: contextvars.ContextVar[str | None] = contextvars.ContextVar("gpuq_device", default=None)
_thread = threading.local()


def set_num_threads(n: int) -> None:
    """Let one call use at most n threads of the CPU, the calling one included, in this process.

    Parameters
    ----------
    n : int
        At least 1. Before the first call of this function the limit is `GPUQ_NUM_THREADS`, else the number of
        processors this process may use.

    Raises
    ------
    TypeError, ValueError
        n is no integer, or below 1.
    """
    threads.set_limit(validate.integer("n", n, 1))


def set_device(device: str | None) -> None:
    """Choose the device of all later calls in this process; None returns to the automatic choice.

    Parameters
    ----------
    device : str or None
        "cpu", "cuda", "cuda:N" or None.

    Raises
    ------
    DeviceError
        The device is absent.
    """
    global _process_device
    _require(validate.device_name("device", device))
    _process_device = device


@contextlib.contextmanager
def device(device: str | None) -> Iterator[None]:
    """`with gpuq.device("cpu"):` chooses the device of the calls inside, in this thread or task alone."""
    _require(validate.device_name("device", device))
    token = _context_device.set(device)
    try:
        yield
    finally:
        _context_device.reset(token)


def pick_device(
    argument: object, array_devices: dict[str, str], packed: str | None = None, prefers_gpu: bool = False
) -> str:
    """The device of one call.

    Parameters
    ----------
    argument : str or None
        The call's own `device`.
    array_devices : dict
        Name of each array argument and the device it lies on.
    packed : str or None
        The device of a packed matrix among the arguments.
    prefers_gpu : bool
        Whether arrays on the CPU are worth copying to a GPU, if there is one.

    Raises
    ------
    ValueError
        Arrays on two devices, or `device` not the one an array is on.
    DeviceError
        The chosen device is absent.
    """
    forced = None if argument is None else validate.device_name("device", argument)
    bound = validate.one_device(forced, array_devices, packed) if array_devices or forced else packed
    chosen = bound or forced or _context_device.get() or _process_device or _environment_device()
    if chosen is None:
        return "cuda" if prefers_gpu and cuda_unavailable_reason() is None else "cpu"
    _require(chosen)
    return chosen


def asked_for() -> tuple[object, object, tuple[object, object]]:
    """All by which a call that names no device, and whose arrays lie on none, gets its device and instruction set."""
    return _context_device.get(), _process_device, environment.choices()


def _environment_device() -> str | None:
    device = environment.read("GPUQ_DEVICE")
    return validate.device_name("GPUQ_DEVICE", device) if device else None


def _require(device: str | None) -> None:
    if device is None or device == "cpu":
        return
    reason = cuda_unavailable_reason(int(device.partition(":")[2] or 0))
    if reason is not None:
        raise DeviceError(f"device {device!r} is not available: {reason}")


def cuda_unavailable_reason(index: int = 0) -> str | None:
    """Why nothing can run on that GPU here; None if it can. Opens no device."""
    from gpuq.cuda import driver

    return driver.unavailable_reason(index)


def instruction_set() -> str:
    """The instruction set of the CPU's GEMM: `GPUQ_ISA` if set, else the best one this machine has.

    Raises
    ------
    DeviceError
        `GPUQ_ISA` names one that is absent.
    """
    forced = environment.read("GPUQ_ISA")
    if not forced:
        return available()[0]
    if forced not in available():
        raise DeviceError(f"GPUQ_ISA: got {forced!r}; this machine has {', '.join(available())}")
    return forced


def record_path(path: Path) -> None:
    """Note what this thread is about to run."""
    _thread.path = path


def last_path() -> Path | None:
    """Device, kernel and instruction set of this thread's last call; None before the first."""
    return getattr(_thread, "path", None)
