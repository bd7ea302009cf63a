"""Copies on the device between arrays of any strides, and parameters brought to the type kernels compute with.

    source ── any strides, any alignment ──► the same elements, strided otherwise     `copy`, `contiguous`
    source ── any strides, any accepted type ──► float32, float64, int32 or int64     `convert`

The host sorts the axes by the target's strides and joins those that lie in one line in both arrays. A copy sees its
elements as an axis of bytes, joined like any other, and then moves pieces of up to 16 bytes that are aligned in both
arrays: a misaligned array is copied in smaller pieces, nothing else is special about it. Where neighbours of one array
are rows apart in the other, transpose.py copies by tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import scalar, widen_half
from gpuq.cuda import ptx
from gpuq.cuda.compile import Kernel
from gpuq.cuda.indexing import DIVISOR, divide, divisor
from gpuq.cuda.launch import Work
from gpuq.cuda.numba_cuda import cuda, types
from gpuq.cuda.tiles import COPY_AXES, COPY_TILE, COPY_UNROLL, MOST_ELEMENTS, THREADS, TRANSPOSED_LINES
from gpuq.cuda.transpose import Axis, crossing, launch_tiles
from gpuq.device_array import DeviceArray, address_of

REALS = ("float32", "float16", "bfloat16", "float64")  # in the order of arithmetic.py's numbers
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
SOURCES = {"float32": REALS, "float64": REALS, "int32": INTEGERS, "int64": INTEGERS}


def contiguous(work: Work, array: DeviceArray, alignment: int = 1) -> DeviceArray:
    """The array itself if it is in C order, its elements aligned and its address a multiple of `alignment`; else a
    copy.
    """
    if array.flags.c_contiguous and array.flags.aligned and address_of(array) % alignment == 0:
        return array
    target = work.empty(array.shape, array.dtype)
    target.type = array.type
    copy(work, array, target)
    return target


def copy(work: Work, source: DeviceArray, target: DeviceArray) -> None:
    """Bring the elements of `source` to `target`, an array of the same shape and item size elsewhere."""
    steps = zip(source.shape, source.strides, target.strides, strict=True)
    outer, size = _bytes_apart(_joined([*steps, (source.itemsize, 1, 1)]))
    crossed = crossing(outer, size, address_of(source) | address_of(target))
    if crossed is not None:
        for source_address, target_address, part in _launches(address_of(source), address_of(target), crossed):
            launch_tiles(work, source_address, target_address, part, size)
        return
    steps_and_addresses = [step for axis in outer for step in axis[1:]] + [address_of(source), address_of(target)]
    piece = math.gcd(ptx.VECTOR_BYTES, size, *steps_and_addresses)
    _walk(work, copy_kernel(), source, target, _joined([*outer, (size // piece, piece, piece)]), piece)


def convert(work: Work, array: DeviceArray, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> DeviceArray:
    """The array broadcast to `shape`, in C order, aligned to 16 bytes, as float32 or float64 (of real types), int32 or
    int64 (of integer types); the array itself where it is that already.

    Numbers are rounded as NumPy rounds them: half to even from float64 to float32.
    """
    kind = np.dtype(dtype)
    if array.type == kind.name and array.shape == shape:
        return contiguous(work, array, ptx.VECTOR_BYTES)
    source = array if array.flags.aligned else contiguous(work, array)
    target = work.empty(shape, kind)
    wide = np.broadcast_to(source, shape)
    axes = _joined(list(zip(shape, wide.strides, target.strides, strict=True)))
    _walk(work, convert_kernel(kind.name), source, target, axes, SOURCES[kind.name].index(array.type))
    return target


def kernels() -> list[Kernel]:
    """All kernels of this module."""
    return [copy_kernel(), *(convert_kernel(name) for name in SOURCES)]


# ---- the walk, on the host ----


def _joined(axes: list[Axis]) -> list[Axis]:
    """The axes from the target's widest step to its narrowest; those of one element dropped, neighbours joined."""
    joined: list[Axis] = []
    for extent, source, target in sorted((axis for axis in axes if axis[0] != 1), key=lambda axis: -abs(axis[2])):
        if joined and joined[-1][1:] == (extent * source, extent * target):
            joined[-1] = (joined[-1][0] * extent, source, target)
        else:
            joined.append((extent, source, target))
    return joined


def _bytes_apart(axes: list[Axis]) -> tuple[list[Axis], int]:
    """Axes of bytes, but for the innermost one where it is a run of neighbours in both arrays; and how long that is."""
    if axes and axes[-1][1:] == (1, 1):
        return axes[:-1], axes[-1][0]
    return axes, 1


def _walk(work: Work, kernel: Kernel, source: DeviceArray, target: DeviceArray, axes: list[Axis], kind: int) -> None:
    if target.size == 0:
        return
    for source_address, target_address, part in _launches(address_of(source), address_of(target), axes):
        full = [(1, 0, 0)] * (COPY_AXES - len(part)) + part
        count = math.prod(extent for extent, _, _ in part)
        work.launch(
            kernel,
            -(-count // COPY_TILE),
            source_address,
            target_address,
            count,
            tuple(divisor(extent) for extent, _, _ in full),
            tuple(step for _, step, _ in full),
            tuple(step for _, _, step in full),
            kind,
        )


def _launches(source: int, target: int, axes: list[Axis]) -> Iterator[tuple[int, int, list[Axis]]]:
    """The walk in parts of at most COPY_AXES axes and MOST_ELEMENTS elements."""
    count = math.prod(extent for extent, _, _ in axes)
    if len(axes) <= COPY_AXES and count <= MOST_ELEMENTS:
        yield source, target, axes
        return
    (extent, source_step, target_step), inner = axes[0], axes[1:]
    most = max(1, MOST_ELEMENTS * extent // count) if len(axes) <= COPY_AXES else 1
    most -= most % TRANSPOSED_LINES if most > TRANSPOSED_LINES else 0  # parts are aligned as the whole is
    for first in range(0, extent, most):
        part = min(most, extent - first)
        rest = inner if most == 1 else [(part, source_step, target_step), *inner]
        yield from _launches(source + first * source_step, target + first * target_step, rest)


# ---- kernels ----


def _make_walk(move: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel that moves one element after the other: `move(source address, target address, kind)`."""

    def walk(
        source: int, target: int, count: int, extents: Any, source_steps: Any, target_steps: Any, kind: int
    ) -> None:
        """Thread t of a block moves elements t, t + THREADS, … of the block's COPY_TILE: neighbours in the target."""
        first = types.int32(cuda.blockIdx.x) * COPY_TILE + types.int32(cuda.threadIdx.x)
        for turn in range(COPY_UNROLL):
            index = types.int32(first + turn * THREADS)
            if index < count:
                source_offset = target_offset = types.int64(0)
                rest = index
                for axis in range(COPY_AXES - 1, -1, -1):
                    rest, position = divide(rest, extents[axis])
                    source_offset += position * source_steps[axis]
                    target_offset += position * target_steps[axis]
                move(source + source_offset, target + target_offset, kind)

    return walk


def _make_copy() -> Callable[..., Any]:
    load, store = ptx.load, ptx.store
    load1, load2, load4, load8 = (load[kind] for kind in (types.uint8, types.uint16, types.uint32, types.int64))
    store1, store2, store4, store8 = (store[kind] for kind in (types.uint8, types.uint16, types.uint32, types.int64))
    load16, store16 = ptx.load16, ptx.store16

    @scalar
    def move(source: int, target: int, size: int) -> None:
        """One piece of `size` bytes; all threads take the same branch."""
        if size == 16:
            words = cuda.local.array(4, types.uint32)
            load16(source, words, 0)
            store16(target, words, 0)
        elif size == 8:
            store8(target, load8(source))
        elif size == 4:
            store4(target, load4(source))
        elif size == 2:
            store2(target, load2(source))
        else:
            store1(target, load1(source))

    return move


def _make_convert_real(target_type: Any) -> Callable[..., Any]:
    load_float32, load_half, load_float64 = (ptx.load[kind] for kind in (types.float32, types.uint16, types.float64))
    store, number = ptx.store[target_type], _number(target_type)

    @scalar
    def move(source: int, target: int, kind: int) -> None:
        """One number of the real type REALS[kind]."""
        if kind == 0:
            store(target, number(load_float32(source)))
        elif kind == 3:
            store(target, number(load_float64(source)))
        else:
            store(target, number(widen_half(load_half(source), kind)))

    return move


def _make_convert_integer(target_type: Any) -> Callable[..., Any]:
    load_int8, load_uint8, load_int16, load_uint16, load_int32, load_uint32 = (
        ptx.load[getattr(types, name)] for name in INTEGERS
    )
    store, number = ptx.store[target_type], _number(target_type)

    @scalar
    def move(source: int, target: int, kind: int) -> None:
        """One number of the integer type INTEGERS[kind]."""
        if kind == 0:
            store(target, number(load_int8(source)))
        elif kind == 1:
            store(target, number(load_uint8(source)))
        elif kind == 2:
            store(target, number(load_int16(source)))
        elif kind == 3:
            store(target, number(load_uint16(source)))
        elif kind == 4:
            store(target, number(load_int32(source)))
        else:
            store(target, number(load_uint32(source)))

    return move


def _number(kind: Any) -> Any:
    """NumPy's conversion to a Numba type."""
    return np.dtype(str(kind)).type


def _kernel(name: str, move: Callable[..., Any]) -> Kernel:
    steps = types.UniTuple(types.int64, COPY_AXES)
    arguments = (types.int64, types.int64, types.int32, types.UniTuple(DIVISOR, COPY_AXES), steps, steps, types.int32)
    return Kernel(name, "copy", _make_walk(move), arguments, THREADS, (COPY_TILE,))


@functools.cache
def copy_kernel() -> Kernel:
    """The kernel of `copy`: kind is the size of a piece."""
    return _kernel("copy", _make_copy())


@functools.cache
def convert_kernel(name: str) -> Kernel:
    """The kernel of `convert` to a type: kind is the index of the source's type in SOURCES."""
    kind = getattr(types, name)
    move = _make_convert_real(kind) if name.startswith("float") else _make_convert_integer(kind)
    return _kernel(f"convert_{name}", move)
