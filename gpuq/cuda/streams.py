"""The caller's stream as a number: what `stream=` may be, and which stream a call without it uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuq import device_views
from gpuq.cuda.driver import Device

ATTRIBUTES = ("cuda_stream", "ptr", "handle")  # torch, CuPy, Numba


def stream_number(stream: Any) -> int | None:
    """The driver's handle of a stream: an integer, an object with `__cuda_stream__`, a stream of torch, CuPy or Numba;
    None for anything else.
    """
    if isinstance(stream, bool):
        return None
    if isinstance(stream, int):
        return stream if stream >= 0 else None
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    handle = next((getattr(stream, name) for name in ATTRIBUTES if hasattr(stream, name)), None)
    number = getattr(handle, "value", handle)  # Numba has a ctypes pointer there, None for stream 0
    return int(number or 0) if handle is not None else None


def choose_stream(stream: int | None, owners: Iterable[Any], index: int) -> int:
    """The stream of a call: the one given, else the one that the first argument's library works on."""
    if stream is not None:
        return stream
    last = None
    for owner in owners:
        if type(owner) is not last and (number := device_views.current_stream(owner, index)):
            return number
        last = type(owner)
    return 0


def order_after_writers(device: Device, stream: int, owners: Iterable[Any]) -> None:
    """Let `stream` wait for what still writes the arguments."""
    for owner in owners:
        writer = device_views.make_ready(owner, stream)
        if writer is not None:
            with device.current():
                device.order(writer, stream)
