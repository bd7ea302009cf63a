"""Which device and instruction set a call runs on: argument, then `with gpuq.device`, `set_device`, GPUQ_DEVICE,
detection.

A device that was forced and is absent is a `DeviceError` that says why; an automatic choice never is.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

from gpuq import validate
from gpuq.cpu import threads
from gpuq.cpu.isa import available


class DeviceError(RuntimeError):
    """A device or instruction set was asked for that this machine, or this installation, does not have."""


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


def pick_device(argument: object, array_devices: dict[str, str]) -> str:
    """The device of one call.

    Parameters
    ----------
    argument : str or None
        The call's own `device`.
    array_devices : dict
        Name of each array argument and the device it lies on.

    Raises
    ------
    ValueError
        Arrays on two devices, or `device` not the one an array is on.
    DeviceError
        The chosen device is absent.
    """
    forced = validate.device_name("device", argument)
    own = validate.one_device(forced, array_devices)
    chosen = forced or own or _context_device.get() or _process_device or _environment_device()
    _require(chosen)
    return chosen or "cpu"


def _environment_device() -> str | None:
    return validate.device_name("GPUQ_DEVICE", os.environ.get("GPUQ_DEVICE") or None)


def _require(device: str | None) -> None:
    if device is not None and device != "cpu":
        raise DeviceError(f"device {device!r} is not available: {cuda_unavailable_reason()}")


def cuda_unavailable_reason() -> str:
    """Why nothing can run on a GPU here: no driver, no numba-cuda, or no CUDA kernels in this version."""
    reasons = []
    if not _driver_present():
        reasons.append("no NVIDIA driver was found on this machine")
    if importlib.util.find_spec("numba_cuda") is None:
        reasons.append("the package numba-cuda is not installed (pip install 'gpuq[cu13]')")
    return "; ".join([*reasons, "this version of gpuq has no CUDA kernels yet"])


def _driver_present() -> bool:
    name = {"win32": "nvcuda.dll"}.get(sys.platform, "libcuda.so.1")
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def instruction_set() -> str:
    """The instruction set of the CPU's GEMM: `GPUQ_ISA` if set, else the best one this machine has.

    Raises
    ------
    DeviceError
        `GPUQ_ISA` names one that is absent.
    """
    forced = os.environ.get("GPUQ_ISA")
    if forced and forced not in available():
        raise DeviceError(f"GPUQ_ISA: got {forced!r}; this machine has {', '.join(available())}")
    return forced or available()[0]


def record_path(device: str, kernel: str, isa: str | None = None) -> None:
    """Note what this thread is about to run."""
    _thread.path = Path(device, kernel, isa or instruction_set())


def last_path() -> Path | None:
    """Device, kernel and instruction set of this thread's last call; None before the first."""
    return getattr(_thread, "path", None)
