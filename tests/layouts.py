"""The memory layouts that tests put arrays in, in one place.

A place makes room for an array: given shape and dtype it returns all the memory it took, as bytes filled with garbage,
and the array within. An input layout turns an array into one of the same shape and dtype that lies differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Place = Callable[[Shape, Any], tuple[Array, Array]]

GUARD = 64  # bytes before and after; a whole cache line, so that the array is as aligned as the memory
GARBAGE = 0xA5


def _framed(shape: Shape, dtype: Any, offset: int = 0) -> tuple[Array, Array]:
    """Garbage, and a C-ordered array within it, `offset` bytes past a cache line."""
    start, size = GUARD + offset, math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.full(start + size + GUARD, GARBAGE, np.uint8)
    return memory, memory[start : start + size].view(dtype).reshape(shape)


def c_order(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    return _framed(shape, dtype)


def misaligned(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    return _framed(shape, dtype, offset=1)


def fortran_order(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    memory, array = _framed(shape[::-1], dtype)
    return memory, array.T


def rotated_axes(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """The first axis innermost, the others in C order: neither C nor Fortran order from three axes on."""
    memory, array = _framed(shape[1:] + shape[:1], dtype)
    return memory, np.moveaxis(array, -1, 0) if shape else array


def every_second(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """Every second element along every axis."""
    memory, array = _framed(tuple(2 * length + 1 for length in shape), dtype)
    return memory, array[(..., *(slice(1, None, 2) for _ in shape))]


def gaps_between_rows(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    memory, array = _framed(tuple(length + 3 * (axis == len(shape) - 1) for axis, length in enumerate(shape)), dtype)
    return memory, array[(..., slice(shape[-1]))] if shape else array


def backwards(shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """Negative strides along every axis."""
    memory, array = _framed(shape, dtype)
    return memory, array[(..., *(slice(None, None, -1) for _ in shape))]


PLACES: dict[str, Place] = {
    place.__name__: place
    for place in (c_order, fortran_order, rotated_axes, every_second, gaps_between_rows, backwards, misaligned)
}


def _laid_out(place: Place) -> Callable[[Array], Array]:
    def lay_out(values: Array) -> Array:
        _, array = place(values.shape, values.dtype)
        array[...] = values
        return array

    return lay_out


def read_only(values: Array) -> Array:
    result = values.copy()
    result.flags.writeable = False
    return result


def byte_swapped(values: Array) -> Array:
    """The other byte order, where NumPy has one for the type: for bfloat16 and types of one byte the array as it is."""
    return values.astype(values.dtype.newbyteorder()) if values.dtype.kind in "fiu" else values


def repeated(values: Array) -> Array:
    """The first element along the first axis for all of them, with stride 0: other values, the only such layout."""
    return np.broadcast_to(values[:1], values.shape) if values.ndim and values.size else values


INPUT_LAYOUTS: dict[str, Callable[[Array], Array]] = {
    **{name: _laid_out(place) for name, place in PLACES.items()},
    **{layout.__name__: layout for layout in (read_only, byte_swapped, repeated)},
}
