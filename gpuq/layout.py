"""Pure shape rules, shared by all devices: which parameter belongs to which element, which matrix meets which.

Elementwise operators see an array in memory order as runs of neighbours that share one parameter, or that have one
each:

    per tensor          one run of everything
    per axis            a run of `inner` elements for each index along the axis
    per axis, last      one row of parameters, walked beside each row of x (`varying`)
    per block           a run of `group · inner` elements; `varying` where the axis is not the last

Matrix products see a batch as a list of index triples (which a, which b, which row and column parameters).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
SHORT = 2048  # elements of a repeated number that are worth keeping: a parameter of all rows or columns of a product


class Runs(NamedTuple):
    """How a kernel walks a C-contiguous array: `outer` × `length` × `inner`, parameters in groups of `group` along
    `length`.
    """

    outer: int
    length: int
    inner: int
    group: int
    outer_step: int
    varying: bool


class Part(NamedTuple):
    """A part of such a walk: a slice of the flat array, the slice of the parameters that belongs to it, and its own
    runs.
    """

    elements: slice
    parameters: slice
    runs: Runs


def part_of(runs: Runs, first: int, last: int) -> Part:
    """The part first … last of the units that `count_units` counts."""
    if runs.outer > 1:
        row, step = runs.length * runs.inner, runs.outer_step * (runs.inner if runs.varying else 1)
        parameters = slice(first * step, last * step) if step else slice(None)
        return Part(slice(first * row, last * row), parameters, runs._replace(outer=last - first))
    if runs.length > 1:
        start, stop = first * runs.group, min(last * runs.group, runs.length)
        step = runs.inner if runs.varying else 1
        elements, parameters = slice(start * runs.inner, stop * runs.inner), slice(first * step, last * step)
        return Part(elements, parameters, runs._replace(length=stop - start, outer_step=0))
    return Part(
        slice(first, last), slice(first, last) if runs.varying else slice(None), runs._replace(inner=last - first)
    )


def count_units(runs: Runs) -> int:
    """Into how many pieces a walk can be cut: its rows, or the groups of its only row, or the elements of its only
    group.
    """
    if runs.outer > 1:
        return runs.outer
    return -(-runs.length // runs.group) if runs.length > 1 else runs.inner


@dataclass(frozen=True)
class Granularity:
    """Which elements of an array share a parameter: all ("tensor"), those of one index ("axis") or those of one
    block.
    """

    kind: str
    axis: int = 0
    block_size: int = 0

    def parameter_shape(self, shape: Shape) -> Shape:
        """The shape parameters of an array of that shape have."""
        if self.kind == "tensor":
            return ()
        if self.kind == "axis":
            return (shape[self.axis],)
        return (*shape[: self.axis], -(-shape[self.axis] // self.block_size), *shape[self.axis + 1 :])

    def transposed(self, ndim: int) -> Granularity:
        """The same for the array with its axes reversed."""
        return self if self.kind == "tensor" else Granularity(self.kind, ndim - 1 - self.axis, self.block_size)

    def runs(self, shape: Shape) -> Runs:
        """The walk over a C-contiguous array of that shape."""
        if self.kind == "tensor":
            return Runs(1, 1, math.prod(shape), 1, 0, False)
        outer, length, inner = math.prod(shape[: self.axis]), shape[self.axis], math.prod(shape[self.axis + 1 :])
        if self.kind == "block":
            return Runs(outer, length, inner, self.block_size, -(-length // self.block_size), inner > 1)
        if inner == 1:
            return Runs(outer, 1, length, 1, 0, True)
        return Runs(outer, length, inner, 1, 0, False)


PER_TENSOR = Granularity("tensor")


@dataclass(frozen=True)
class MatmulShape:
    """The shapes of one product after NumPy's matmul rules; a 1-D operand counts as one row (a) or one column (b)."""

    m: int
    k: int
    n: int
    a_batch: Shape
    b_batch: Shape
    batch: Shape
    result: Shape


def matmul_shape(a: Shape, b: Shape) -> MatmulShape:
    """Shapes of a @ b; ValueError where they do not multiply (its text is for validate to word)."""
    k, b_rows = a[-1], b[-2] if len(b) > 1 else b[0]
    if k != b_rows:
        raise ValueError
    m, n = a[-2] if len(a) > 1 else 1, b[-1] if len(b) > 1 else 1
    batch = _broadcast_shapes({a[:-2], b[:-2]})
    result = batch + ((m,) if len(a) > 1 else ()) + ((n,) if len(b) > 1 else ())
    return MatmulShape(m, k, n, a[:-2], b[:-2], batch, result)


def _broadcast_shapes(shapes: set[Shape]) -> Shape:
    """NumPy's rule; one shape, as of matrices without a batch, is its own result."""
    return next(iter(shapes)) if len(shapes) == 1 else np.broadcast_shapes(*shapes)


def broadcast_flat(values: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """`values` broadcast to `shape`, flat, contiguous and read-only; short runs of one number are kept."""
    if values.size == 1:
        repeat = _keep_repeated if (count := math.prod(shape)) <= SHORT else _repeat
        return repeat(values.tobytes(), values.dtype, count)
    return read_only(np.ascontiguousarray(np.broadcast_to(values, shape)).reshape(-1))


def _repeat(number: bytes, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """One number so many times, by its bytes: equal numbers need not be the same, as 0.0 and −0.0."""
    return read_only(np.full(count, np.frombuffer(number, dtype)[0], dtype))


_keep_repeated = functools.lru_cache(256)(_repeat)


def as_array(values: float | int | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A parameter as an array: a number becomes one without axes, of float32 or int64."""
    if isinstance(values, np.ndarray):
        return values
    return np.array(values, np.float32 if isinstance(values, float) else np.int64)


def one_element(value: float | int) -> npt.NDArray[Any]:
    """A parameter of one element as an array (1,) of float32 or int64, read-only; kept, as most come again."""
    return _kept(value) if value else _make_one(value)  # 0.0 == −0.0: they would be taken for each other


def _make_one(value: float | int) -> npt.NDArray[Any]:
    return read_only(np.array((value,), np.float32 if isinstance(value, float) else np.int64))


_kept = functools.lru_cache(1024, typed=True)(_make_one)


def aligned(shape: Shape, dtype: npt.DTypeLike, boundary: int) -> npt.NDArray[Any]:
    """New memory in C order whose address is a multiple of `boundary` bytes."""
    kind = np.dtype(dtype)
    return aligned_bytes(math.prod(shape) * kind.itemsize, boundary).view(kind).reshape(shape)


def aligned_bytes(size: int, boundary: int) -> npt.NDArray[np.uint8]:
    """So many bytes of new memory, whose address is a multiple of `boundary`."""
    memory = np.empty(size + boundary, np.uint8)
    start = -memory.__array_interface__["data"][0] % boundary  # .ctypes takes three times as long
    return memory[start : start + size]


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory as an array that may not be written.

    Numba compiles a kernel anew for arrays that differ in this flag, so inputs of kernels always have it.
    """
    view = array.view()
    view.setflags(write=False)
    return view


_FIRST = read_only(np.zeros(1, np.int64))


def batch_map(source: Shape, batch: Shape) -> npt.NDArray[np.int64]:
    """For each matrix of `batch`, in C order, the index of the matrix of `source` that broadcasting puts there."""
    if not batch:
        return _FIRST
    indices = np.arange(math.prod(source), dtype=np.int64).reshape(source)
    return broadcast_flat(indices, batch)


def expand_together(vectors: list[npt.NDArray[Any]], length: int) -> tuple[list[npt.NDArray[Any]], Shape]:
    """Bring parameter vectors of shape (…, 1 or length) to one (count, length), and give the shape that count is of."""
    common = _broadcast_shapes({vector.shape[:-1] for vector in vectors})
    count = math.prod(common)
    return [broadcast_flat(vector, (*common, length)).reshape(count, length) for vector in vectors], common
