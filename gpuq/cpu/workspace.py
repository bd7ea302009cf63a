"""Workspace of compiled code: one piece of memory for all that a block needs, from which it cuts its arrays.

    room = np.empty(bytes + LINE, np.uint8)
    strip = array_at(first_line(room), (rows, STRIP), np.int8)        knows no owner: views of it count no references
    …
    keep(room)                                                        the memory is there until here

An array of Numba's own costs an allocation, and each view of it two atomic operations, which a block of a few
microseconds feels.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuq.arithmetic import scalar
from gpuq.cpu.atomics import I64
from gpuq.cpu.tiles import LINE


@scalar
def first_line(room: Any) -> int:
    """The address of the first cache line of an array."""
    return (room.ctypes.data + LINE - 1) // LINE * LINE


@scalar
def whole_lines(size: int) -> int:
    """So many bytes, up to whole cache lines."""
    return (size + LINE - 1) // LINE * LINE


@intrinsic
def array_at(typing_context: Any, address: Any, shape: Any, dtype: Any) -> Any:
    """The array of that shape (a tuple) and type whose elements lie at an address, in C order."""
    kind = types.Array(dtype.dtype, shape.count, "C")

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = cgutils.create_struct_proxy(kind)(context, builder)
        lengths = cgutils.unpack_tuple(builder, values[1], kind.ndim)
        itemsize = stride = I64(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        strides: list[Any] = []
        for length in reversed(lengths):
            strides.insert(0, stride)
            stride = builder.mul(stride, length)
        array.data = builder.inttoptr(values[0], array.data.type)
        array.shape, array.strides = (cgutils.pack_array(builder, part, I64) for part in (lengths, strides))
        array.itemsize, array.nitems = itemsize, builder.sdiv(stride, itemsize)
        return array._getvalue()

    return kind(types.intp, shape, dtype), generate


@intrinsic
def keep(typing_context: Any, room: Any) -> Any:
    """Use an array, and no more: until then its memory is not given back."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_dummy_value()

    return types.void(room), generate
