"""Arrays with nothing beside them: they end, or begin, exactly where a page begins, or ends, that cannot be touched.

    edge "end":    │ unreadable │ garbage ‥ array │ unreadable │
    edge "start":  │ unreadable │ array ‥ garbage │ unreadable │

One byte read or written outside ends the process with a signal: whatever uses such arrays runs in a process of its
own. An empty array begins in the unreadable page itself. Needs mprotect, which Windows does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import mmap
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from gpuq.cpu import elementwise, fused, pack, products
from gpuq.cpu.kept import run_again
from gpuq.cpu.spread import KEEP
from gpuq.layout import read_only

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Layout = Callable[[Shape, int], Shape]

EDGES = ("start", "end")
GARBAGE = b"\xa5"
NO_ACCESS = 0  # PROT_NONE, which the module mmap does not name

# where the operators take their compiled kernels from
KERNEL_FACTORIES = [
    *((elementwise, f"{name}_kernel") for name in ("quantize", "fake_quantize", "dequantize", "requantize")),
    *((elementwise, f"uniform_{name}_kernel") for name in ("quantize", "dequantize", "requantize")),
    (elementwise, "undivided_quantize_kernel"),
    (elementwise, "dynamic_quantize_kernel"),
    (pack, "pack_kernel"),
    (products, "gemm_kernel"),
]
KEPT: list[Any] = []  # arrays of calls that are kept (kept.py), as long as this process lives


def row_major(shape: Shape, itemsize: int) -> Shape:
    """The strides, in bytes, of an array without gaps; so each layout gives its strides."""
    return tuple(itemsize * math.prod(max(length, 1) for length in shape[axis + 1 :]) for axis in range(len(shape)))


def column_major(shape: Shape, itemsize: int) -> Shape:
    return row_major(shape[::-1], itemsize)[::-1]


def row_major_backwards(shape: Shape, itemsize: int) -> Shape:
    return tuple(-step for step in row_major(shape, itemsize))


def column_major_backwards(shape: Shape, itemsize: int) -> Shape:
    """Negative along the last axis alone."""
    steps = column_major(shape, itemsize)
    return (*steps[:-1], *(-step for step in steps[-1:]))


def every_second(shape: Shape, itemsize: int) -> Shape:
    return tuple(2 * step for step in row_major(tuple(2 * length for length in shape), itemsize))


def gaps_between_rows(shape: Shape, itemsize: int) -> Shape:
    return row_major((*shape[:-1], *(length + 3 for length in shape[-1:])), itemsize)


def records(shape: Shape, itemsize: int) -> Shape:
    """A field of packed records, one byte longer than the field: most elements are misaligned."""
    return tuple(step // itemsize * (itemsize + 1) for step in row_major(shape, itemsize))


LAYOUTS: dict[str, Layout] = {
    layout.__name__: layout
    for layout in (
        row_major, column_major, row_major_backwards, column_major_backwards, every_second, gaps_between_rows, records,
    )
}  # fmt: skip


@functools.cache
def _mprotect() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).mprotect
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _protect(memory: mmap.mmap, first: int, length: int, access: int) -> None:
    """Allow `access` alone to whole pages of `memory`."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + first
    if _mprotect()(address, length, access) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def _between_guards(shape: Shape, dtype: Any, edge: str, strides: Shape) -> tuple[Array, mmap.mmap]:
    itemsize = np.dtype(dtype).itemsize
    reaches = [(length - 1) * step for length, step in zip(shape, strides, strict=True)] if math.prod(shape) else []
    below, size = -sum(min(reach, 0) for reach in reaches), sum(map(abs, reaches)) + itemsize * (math.prod(shape) > 0)
    room = mmap.PAGESIZE * max(1, -(-size // mmap.PAGESIZE))
    memory = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
    memory[mmap.PAGESIZE : mmap.PAGESIZE + room] = GARBAGE * room
    for guard in (0, mmap.PAGESIZE + room):
        _protect(memory, guard, mmap.PAGESIZE, NO_ACCESS)
    if size == 0:
        return np.ndarray(shape, dtype, memory, 0 if edge == "start" else mmap.PAGESIZE + room), memory
    first = mmap.PAGESIZE + (room - size if edge == "end" else 0)
    return np.ndarray(shape, dtype, memory, first + below, strides), memory


def empty(shape: Shape, dtype: Any, layout: str, edge: str) -> Array:
    """An array of garbage."""
    return _between_guards(shape, dtype, edge, LAYOUTS[layout](shape, np.dtype(dtype).itemsize))[0]


def place(values: Array, layout: str, edge: str) -> Array:
    """The same values in another place, for reading alone: writing there ends the process too."""
    return _fill(values, LAYOUTS[layout](values.shape, values.itemsize), edge, read_only=True)


def _fill(values: Array, strides: Shape, edge: str, read_only: bool) -> Array:
    array, memory = _between_guards(values.shape, values.dtype, edge, strides)
    array[...] = values
    if read_only:
        _protect(memory, mmap.PAGESIZE, len(memory) - 2 * mmap.PAGESIZE, mmap.PROT_READ)
    return array


@contextlib.contextmanager
def kernels_between_guards(edge: str) -> Iterator[list[str]]:
    """Within it every array that a kernel gets from gpuq, its own workspace and parameters too, lies between guards.

    Gives the names of the kernels that were called.
    """
    called: list[str] = []

    def wrap(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            called.append(kernel.__name__)
            moved: list[tuple[Array, Array]] = []
            arguments = tuple(_move(argument, edge, moved) for argument in arguments)
            if type(arguments[0]) is tuple and arguments[0][1] == KEEP:
                KEPT.append(arguments)
            result = kernel(*arguments)
            for own, guarded in moved:
                own[...] = guarded
            return result

        return call

    with contextlib.ExitStack() as stack:
        for module, name in KERNEL_FACTORIES:
            factory = getattr(module, name)
            make = lambda *arguments, factory=factory: wrap(factory(*arguments))  # noqa: E731
            stack.enter_context(mock.patch.object(module, name, make))
        whole = _reading_operands(wrap(_pack_and_multiply))
        stack.enter_context(mock.patch.object(products, "pack_and_multiply", whole))
        for module in (pack, products):
            stack.enter_context(mock.patch.object(module, "run_again", _reading_codes(wrap(_run_again))))
        yield called


def _array_of(number: int) -> Array:
    """The array with this id, which the caller keeps alive."""
    array: Array = ctypes.cast(number, ctypes.py_object).value
    return array


def _run_again(kept: int, control: int, workers: int, *arrays: Array) -> None:
    """`run_again` of arrays."""
    run_again(kept, control, workers, *map(id, arrays))


def _pack_and_multiply(crew: Any, arguments: Any, units: int, smallest: int) -> None:
    """`pack_and_multiply` of arrays."""
    matrices, *others = arguments
    fused.pack_and_multiply(crew, (tuple(map(id, matrices)), *others), units, smallest)


def _reading_codes(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run_again`, whose first matrix is the caller's, who may not let it be written."""

    def call(kept: int, control: int, workers: int, *ids: int) -> Any:
        codes, *others = map(_array_of, ids)
        return run(kept, control, workers, read_only(codes), *others)

    return call


def _reading_operands(run: Callable[..., Any]) -> Callable[..., Any]:
    """`pack_and_multiply`, whose operands are the caller's, too."""

    def call(crew: Any, arguments: Any, units: int, smallest: int) -> Any:
        ids, *others = arguments
        b, sums, a, result = map(_array_of, ids)
        return run(crew, ((read_only(b), sums, read_only(a), result), *others), units, smallest)

    return call


def _move(argument: Any, edge: str, moved: list[tuple[Array, Array]]) -> Any:
    """The argument with every array in it moved, as writable as it was; `moved` gets the writable ones."""
    if type(argument) is tuple:
        return tuple(_move(part, edge, moved) for part in argument)
    if not isinstance(argument, np.ndarray):
        return argument
    array = _fill(argument, argument.strides, edge, read_only=not argument.flags.writeable)
    array.flags.writeable = argument.flags.writeable
    if argument.flags.writeable:
        moved.append((argument, array))
    return array
