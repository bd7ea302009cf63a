"""Arguments that are neither arrays nor their parameters: names, flags, integers, element types, devices, streams."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from gpuq.arrays import NOWHERE, View
from gpuq.dtypes import QUANTIZED, REAL, type_name
from gpuq.validate.refusal import kind_of, refuse

T = TypeVar("T")
DEVICE_NAME = re.compile(r"cpu|cuda(:[0-9]+)?")


def choice(argument: str, value: object, accepted: Mapping[str | None, T]) -> T:
    """One of a few names."""
    if not (value is None or isinstance(value, str)):
        refuse(TypeError, argument, kind_of(value), ", ".join(map(repr, accepted)))
    if value not in accepted:
        refuse(ValueError, argument, repr(value), ", ".join(map(repr, accepted)))
    return accepted[value]


def flag(argument: str, value: object) -> bool:
    """A truth value, and nothing that merely has one."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(TypeError, argument, kind_of(value), "True, False")
    return bool(value)


def integer(argument: str, value: Any, lowest: int | None = None) -> int:
    """An integer, at least `lowest`."""
    if type(value) is int and (lowest is None or value >= lowest):
        return value
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        refuse(TypeError, argument, kind_of(value), "an integer")
    if lowest is not None and operator.index(value) < lowest:
        refuse(ValueError, argument, value, f"an integer of at least {lowest}")
    return operator.index(value)


def device_name(argument: str, value: object) -> str | None:
    """None or the name of a device, present or not."""
    if value is None or value == "cpu" and type(value) is str:
        return value
    accepted = "None, 'cpu', 'cuda', 'cuda:N'"
    if not isinstance(value, str):
        refuse(TypeError, argument, kind_of(value), accepted)
    if not DEVICE_NAME.fullmatch(value):
        refuse(ValueError, argument, repr(value), accepted)
    return value


def one_device(forced: str | None, array_devices: Mapping[str, str], packed: str | None = None) -> str | None:
    """The device that a call is bound to by where its arrays lie: a GPU's arrays, or a packed matrix; None where only
    arrays on the CPU are given, which can be copied anywhere.
    """
    first, where = next(iter(array_devices.items()), ("", "cpu"))
    for argument, other in array_devices.items():
        if other == NOWHERE:
            refuse(ValueError, argument, f"an array {other}", "memory of a GPU")
        if other != where:
            refuse(ValueError, argument, f"an array on {other}, but {first} is on {where}", "arrays on one device")
    bound = where if where != "cpu" else packed
    if packed is not None and bound != packed:
        refuse(ValueError, "b", f"a matrix packed on {packed}, but {first} is on {where}", "arrays on one device")
    if bound is not None and forced not in (None, bound, bound.partition(":")[0]):
        refuse(ValueError, "device", f"{forced!r}, but {first or 'b'} is on {bound}", "the device of the arrays")
    return bound


def dtype(argument: str, value: object, accepted: Iterable[str]) -> str:
    """The name of an element type."""
    name = type_name(value)
    if name is None or name not in (*QUANTIZED, *REAL) or name not in accepted:
        refuse(TypeError, argument, repr(value), ", ".join(accepted))
    return name


def absent(argument: str, value: object, accepted: str) -> None:
    """An argument that must not be given here."""
    if value is not None:
        refuse(ValueError, argument, repr(value.owner if isinstance(value, View) else value), accepted)


def stream(value: object, device: str) -> int | None:
    """The driver's handle of a stream; only CUDA has streams."""
    if value is None:
        return None
    if device == "cpu":
        refuse(ValueError, "stream", repr(value), "None on the CPU")
    from gpuq.cuda.streams import stream_number

    number = stream_number(value)
    if number is None:
        refuse(TypeError, "stream", kind_of(value), "a stream of torch, CuPy or Numba, or its handle")
    return number
