"""The pure shape rules against NumPy's own indexing and broadcasting."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from gpuq.layout import (
    SHORT,
    Granularity,
    Runs,
    aligned,
    batch_map,
    broadcast_flat,
    expand_together,
    matmul_shape,
    read_only,
)
from shapes import BATCHED, BLOCKED, ELEMENTWISE, MISFITS, PER_AXIS

Shape = tuple[int, ...]
IndexArray = npt.NDArray[np.int64]

GRAINS: list[tuple[Shape, Granularity]] = [
    *((shape, Granularity("tensor")) for shape in ELEMENTWISE if math.prod(shape) < 1000),
    *((shape, Granularity("axis", axis)) for shape, axis in PER_AXIS if axis >= 0),
    *((shape, Granularity("block", axis % len(shape), block_size)) for shape, axis, block_size in BLOCKED),
]


def walk(runs: Runs, size: int) -> IndexArray:
    """For each element of a flat array the index of its parameter: the definition of `Runs`, one element at a time."""
    owner = np.full(size, -1, np.int64)
    for outer in range(runs.outer):
        for along in range(runs.length):
            p = outer * runs.outer_step + along // runs.group
            for inner in range(runs.inner):
                i = (outer * runs.length + along) * runs.inner + inner
                assert owner[i] == -1, f"element {i} comes twice"
                owner[i] = p * runs.inner + inner if runs.varying else p
    return owner


def owners(shape: Shape, grain: Granularity) -> IndexArray:
    """The same by NumPy: a block's parameter is that of its index along the axis, divided by the block size."""
    parameters = np.arange(math.prod(grain.parameter_shape(shape))).reshape(grain.parameter_shape(shape))
    if grain.kind == "tensor":
        return np.zeros(shape, np.int64)
    if grain.kind == "block":
        return parameters.take(np.arange(shape[grain.axis]) // grain.block_size, grain.axis)
    others = (*shape[: grain.axis], *shape[grain.axis + 1 :])
    return np.moveaxis(np.broadcast_to(parameters, (*others, parameters.size)), -1, grain.axis)


@pytest.mark.parametrize(("shape", "grain"), GRAINS)
def test_runs_reach_every_element_once_with_its_own_parameter(shape: Shape, grain: Granularity) -> None:
    assert walk(grain.runs(shape), math.prod(shape)).tolist() == owners(shape, grain).ravel().tolist()


@pytest.mark.parametrize(("shape", "grain"), GRAINS)
def test_runs_of_the_transposed_array(shape: Shape, grain: Granularity) -> None:
    """An array in Fortran order is walked as the transposed one, its parameters transposed with it."""
    parameter_shape = grain.parameter_shape(shape)
    transposed = grain.transposed(len(shape))
    assert transposed.parameter_shape(shape[::-1]) == parameter_shape[::-1]
    numbers = np.arange(math.prod(parameter_shape)).reshape(parameter_shape).T.ravel()
    reached = numbers[walk(transposed.runs(shape[::-1]), math.prod(shape))]
    assert reached.tolist() == owners(shape, grain).T.ravel().tolist()


def test_shapes_of_parameters() -> None:
    assert Granularity("tensor").parameter_shape((3, 4)) == ()
    assert Granularity("axis", 0).parameter_shape((3, 4)) == (3,)
    assert Granularity("axis", 1).parameter_shape((3, 0)) == (0,)
    assert Granularity("block", 1, 4).parameter_shape((2, 8, 3)) == (2, 2, 3)
    assert Granularity("block", 1, 4).parameter_shape((2, 9, 3)) == (2, 3, 3)
    assert Granularity("block", 0, 100).parameter_shape((5,)) == (1,)
    assert Granularity("block", 0, 2).parameter_shape((0, 4)) == (0, 4)


@pytest.mark.parametrize(("a", "b"), BATCHED)
def test_matmul_shapes_are_those_of_numpy(a: Shape, b: Shape) -> None:
    shape = matmul_shape(a, b)
    assert shape.result == np.matmul(np.zeros(a), np.zeros(b)).shape
    assert (*shape.a_batch, *a[-2:]) == a
    assert (*shape.b_batch, *b[-2:]) == b
    assert shape.batch == np.broadcast_shapes(shape.a_batch, shape.b_batch)
    assert shape.k == a[-1]
    assert math.prod(shape.result) == math.prod(shape.batch) * shape.m * shape.n


@pytest.mark.parametrize(("a", "b"), MISFITS)
def test_shapes_that_do_not_multiply(a: Shape, b: Shape) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (validate words it)
        matmul_shape(a, b)


@pytest.mark.parametrize(
    ("source", "batch"),
    [
        *(((), ()), ((), (3,)), ((1,), (3,)), ((3,), (2, 3)), ((2, 1), (2, 3))),
        *(((2, 3), (2, 3)), ((1, 2), (4, 3, 2)), ((1,), (0,)), ((0,), (2, 0))),
    ],
)
def test_batch_map(source: Shape, batch: Shape) -> None:
    """Matrix t of the batch takes the matrix of the source that NumPy's broadcasting puts there."""
    rng = np.random.default_rng(1)
    matrices = rng.integers(0, 100, (*source, 1, 1))
    taken = matrices.reshape(-1)[batch_map(source, batch)]
    assert taken.tolist() == np.broadcast_to(matrices, (*batch, 1, 1)).ravel().tolist()


def test_expand_together() -> None:
    """Vectors of one element or of full length, for one matrix or for many, become rows of a common length."""
    per_batch, shared, single = np.arange(8).reshape(2, 1, 4), np.arange(3).reshape(3, 1), np.array([7])
    expanded, sets = expand_together([per_batch, shared, single], 4)
    owner = batch_map(sets, (5, 2, 3))
    assert [values.shape for values in expanded] == [(6, 4)] * 3
    assert owner.tolist() == list(range(6)) * 5
    for t, (_, i, j) in enumerate(np.ndindex(5, 2, 3)):
        assert expanded[0][owner[t]].tolist() == per_batch[i, 0].tolist()
        assert expanded[1][owner[t]].tolist() == [j] * 4
        assert expanded[2][owner[t]].tolist() == [7] * 4


def test_expand_together_of_nothing() -> None:
    (rows, single), sets = expand_together([np.zeros((2, 0)), np.ones(1)], 0)
    assert rows.shape == single.shape == (2, 0)
    assert sets == (2,)
    (rows,), sets = expand_together([np.ones(1)], 3)
    assert rows.tolist() == [[1, 1, 1]]
    assert sets == ()
    assert batch_map(sets, (0,)).tolist() == []


def test_broadcast_flat() -> None:
    values = np.arange(3)[:, np.newaxis]
    flat = broadcast_flat(values, (3, 2))
    assert flat.tolist() == [0, 0, 1, 1, 2, 2]
    assert flat.flags.c_contiguous
    assert not flat.flags.writeable


@pytest.mark.parametrize("count", [1, SHORT, SHORT + 1])
def test_a_repeated_number_keeps_its_bits(count: int) -> None:
    """0.0, −0.0 and 0 are equal, and must not be taken for each other where what was made is kept."""
    for number in (np.float32(0.0), np.float32(-0.0), np.int64(0), np.int32(0), np.float32(np.nan)):
        flat = broadcast_flat(np.array([number]), (count,))
        assert flat.dtype == number.dtype
        assert flat.tobytes() == number.tobytes() * count
        assert not flat.flags.writeable


def test_read_only_leaves_the_array_itself_writable() -> None:
    array = np.zeros(3)
    assert np.shares_memory(read_only(array), array)
    assert not read_only(array).flags.writeable
    assert array.flags.writeable


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_aligned_memory(dtype: str) -> None:
    for shape in ((), (0,), (1,), (3, 0, 2), (7, 5)):
        for boundary in (16, 32, 64):
            made = aligned(shape, dtype, boundary)
            assert (made.shape, made.dtype) == (shape, np.dtype(dtype))
            assert made.size == 0 or made.ctypes.data % boundary == 0
            made[...] = 1
