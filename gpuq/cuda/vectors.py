"""Parameters as kernels take them: a *vector* is one number for all indices, or an array with a number for each.

    (address, step, value)     the number of index p is `value` where address is 0, else what lies at address + p · step

`vector` makes one on the host from an array anywhere: a host array of one element travels as an argument of the
kernel; others are copied to the device, widened and broadcast there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import scalar
from gpuq.cuda import ptx
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.strided import convert
from gpuq.device_array import DeviceArray, address_of


class Vector(NamedTuple):
    """A vector on the host; `step` is in bytes, 0 for an array of one number."""

    address: int
    step: int
    value: Any

    def advanced(self, count: int) -> Vector:
        """The vector of the numbers from index `count` on."""
        return self._replace(address=self.address + count * self.step)


def vector_type(kind: Any) -> Any:
    """The type of a vector of float32, float64, int32 or int64 numbers in a kernel."""
    return types.Tuple((types.int64, types.int32, kind))


def vector(work: Work, values: Any, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Vector:
    """The vector of an array, or a number, broadcast to `shape`, as numbers of a type that holds them."""
    kind: Any = np.dtype(dtype)
    zero = kind.type(0).item()
    if isinstance(values, (int, float)):
        return Vector(0, 0, kind.type(values).item())
    if not isinstance(values, DeviceArray):
        if values.size == 1:
            return Vector(0, 0, values.astype(kind).item())
        return Vector(address_of(work.input(np.broadcast_to(values, shape).astype(kind))), kind.itemsize, zero)
    if values.size == 1:
        return Vector(address_of(convert(work, values, kind, values.shape)), 0, zero)
    return Vector(address_of(convert(work, values, kind, shape)), kind.itemsize, zero)


def make_fetch(kind: Any) -> Callable[..., Any]:
    """`fetch(vector, p)`: the number of index p."""
    load = ptx.load[kind]

    @scalar
    def fetch(vector: Any, p: int) -> Any:
        address, step, value = vector
        return value if address == 0 else load(address + types.int64(p) * step)

    return fetch


def make_fetch4(kind: Any) -> Callable[..., Any]:
    """`fetch4(vector, p)`: the numbers of p … p + 3, where p is a multiple of 4."""
    load4, load, size = ptx.load4[kind], ptx.load[kind], kind.bitwidth // 8

    @scalar
    def fetch4(vector: Any, p: int) -> Any:
        address, step, value = vector
        if address != 0 and step != 0:
            return load4(address + types.int64(p) * size)
        same = value if address == 0 else load(address)
        return same, same, same, same

    return fetch4
