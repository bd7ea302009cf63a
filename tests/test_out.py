"""`out`: of the result's shape and type, writable, of memory of its own; else refused before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same
from refusals import GARBAGE, assert_refused
from valid_calls import PRODUCTS, RESULT_TYPES, SHAPE, call, valid_arguments

Array = npt.NDArray[Any]

ELEMENTWISE = ("quantize_linear", "fake_quantize", "dequantize_linear")
# every argument of every operator with `out`, as an array: vectors where the operator takes them
ARRAYS: dict[tuple[str, str], Array] = {
    **{(name, "zero_point"): np.uint8([3, 4, 5, 6]) for name in ELEMENTWISE},
    **{(name, "scale"): np.float32([1, 2, 3, 4]) for name in ELEMENTWISE},
    **{(name, "a_zero_point"): np.uint8([3, 4, 5]) for name in PRODUCTS},
    **{(name, "b_zero_point"): np.int8([-3, 4, 5, 6]) for name in PRODUCTS},
    **{(name, "a_scale"): np.float32([1, 2, 3]) for name in ("scaled_matmul", "qlinear_matmul")},
    **{(name, "b_scale"): np.float32([1, 2, 3, 4]) for name in ("scaled_matmul", "qlinear_matmul")},
    ("scaled_matmul", "bias"): np.float32([1, 2, 3, 4]),
    ("qlinear_matmul", "bias"): np.int32([1, 2, 3, 4]),
    ("qlinear_matmul", "y_scale"): np.float32([1, 2, 3]),
    ("qlinear_matmul", "y_zero_point"): np.uint8([1, 2, 3]),
    ("requantize", "multiplier"): np.float64([1, 2, 3, 4]),
    ("requantize", "zero_point"): np.int8([1, 2, 3, 4]),
    ("requantize", "bias"): np.int32([1, 2, 3, 4]),
    ("requantize", "y_scale"): np.float32([1, 2, 3, 4]),
}  # fmt: skip
DATA = [
    (operator, argument)
    for operator in RESULT_TYPES
    for argument in ("x", "q", "a", "b", "acc")
    if argument in valid_arguments(operator)
]


def argument_array(operator: str, argument: str) -> Array:
    """The argument as an array that the operator accepts."""
    if (operator, argument) in ARRAYS:
        return ARRAYS[operator, argument]
    return valid_arguments(operator)[argument]


def side_by_side(values: Array, dtype: str, distance: int) -> tuple[Array, Array]:
    """A copy of `values`, and a result array that begins `distance` bytes after it in the same memory."""
    memory = np.full(1024, GARBAGE, np.uint8)
    start = 512
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    first = start + distance
    size = np.dtype(dtype).itemsize * SHAPE[0] * SHAPE[1]
    return copy, memory[first : first + size].view(dtype).reshape(SHAPE)


def overlapping_distances(values: Array, dtype: str) -> Iterator[int]:
    """The same start, one byte shared at the argument's end, one byte shared at its beginning, and the midst."""
    size = np.dtype(dtype).itemsize * SHAPE[0] * SHAPE[1]
    yield from (0, values.nbytes - 1, 1 - size, values.nbytes // 2)


@pytest.mark.parametrize(("operator", "argument"), [*DATA, *ARRAYS])
def test_out_that_overlaps_an_argument(operator: str, argument: str) -> None:
    """Fully or by a single byte, data and parameters alike: what is read must not depend on what is written."""
    values, dtype = argument_array(operator, argument), RESULT_TYPES[operator]
    for distance in overlapping_distances(values, dtype):
        shared, out = side_by_side(values, dtype, distance)
        if (operator, argument, distance) == ("fake_quantize", "x", 0):
            continue  # in place
        came = f"overlaps {argument}"
        assert_refused(operator, ValueError, "out", came, "memory of its own", **{argument: shared, "out": out})


@pytest.mark.parametrize(("operator", "argument"), [*DATA, *ARRAYS])
def test_out_right_beside_an_argument(operator: str, argument: str) -> None:
    values, dtype = argument_array(operator, argument), RESULT_TYPES[operator]
    size = np.dtype(dtype).itemsize * SHAPE[0] * SHAPE[1]
    expected = call(operator, **{argument: values})
    for distance in (values.nbytes, -size):
        beside, out = side_by_side(values, dtype, distance)
        call(operator, **{argument: beside, "out": out})
        assert_same(out, expected)
        assert_same(beside, values)


@pytest.mark.parametrize(("operator", "argument"), DATA)
def test_out_interleaved_with_an_argument(operator: str, argument: str) -> None:
    """Fields of one array of records: the same stretch of memory, no byte in common."""
    values, dtype = argument_array(operator, argument), RESULT_TYPES[operator]
    records = np.zeros((5, 5), [("argument", values.dtype), ("out", dtype)])
    shared = records["argument"][tuple(slice(length) for length in values.shape)]
    shared[...] = values
    out = records["out"][tuple(slice(length) for length in SHAPE)]
    expected = call(operator, **{argument: values})
    assert call(operator, **{argument: shared, "out": out}) is out
    assert_same(out, expected)
    assert_same(shared, values)


@pytest.mark.parametrize("operator", RESULT_TYPES)
@pytest.mark.parametrize("shape", [(), (12,), (4, 3), (3, 5), (1, 3, 4), (3, 1), (0, 4)])
def test_out_of_another_shape(operator: str, shape: tuple[int, ...]) -> None:
    """No broadcasting: NumPy's ufuncs do, but half of a result would be lost in silence."""
    out = np.full(shape, GARBAGE, RESULT_TYPES[operator])
    assert_refused(operator, ValueError, "out", f"shape {shape}", f"shape {SHAPE}", out=out)


@pytest.mark.parametrize("operator", RESULT_TYPES)
@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "int32", "float16", "float32", "float64", "bool", "object"]
)
def test_out_of_another_type(operator: str, dtype: str) -> None:
    if dtype != RESULT_TYPES[operator]:
        out = np.full(SHAPE, GARBAGE, dtype)
        assert_refused(operator, TypeError, "out", dtype, RESULT_TYPES[operator], out=out)


@pytest.mark.parametrize("operator", ["fake_quantize", "dequantize_linear", "matmul_integer", "scaled_matmul"])
def test_out_in_the_other_byte_order(operator: str) -> None:
    dtype = np.dtype(RESULT_TYPES[operator]).newbyteorder()
    assert_refused(operator, TypeError, "out", str(dtype), "native", out=np.full(SHAPE, GARBAGE, dtype))


@pytest.mark.parametrize("operator", RESULT_TYPES)
def test_out_that_is_read_only(operator: str) -> None:
    out = np.full(SHAPE, GARBAGE, RESULT_TYPES[operator])
    out.flags.writeable = False
    assert_refused(operator, ValueError, "out", "read-only", "writable", out=out)


@pytest.mark.parametrize("operator", RESULT_TYPES)
@pytest.mark.parametrize("strides", [(0, 1), (1, 0), (0, 0), (1, 1), (3, 1), (-1, 1)])
def test_out_whose_elements_overlap(operator: str, strides: tuple[int, int]) -> None:
    """Strides in elements: rows or columns on top of each other, or one row reaching into the next."""
    dtype = np.dtype(RESULT_TYPES[operator])
    memory = np.full(64, GARBAGE, dtype)[16:]
    steps = tuple(step * dtype.itemsize for step in strides)
    out = np.lib.stride_tricks.as_strided(memory, SHAPE, steps)
    assert_refused(operator, ValueError, "out", "overlap", "distinct", out=out)


@pytest.mark.parametrize("operator", RESULT_TYPES)
@pytest.mark.parametrize(
    "value", [[0], 0, "out", True, object(), np.ma.zeros(SHAPE)], ids=lambda value: type(value).__name__
)
def test_out_that_is_no_array(operator: str, value: object) -> None:
    assert_refused(operator, TypeError, "out", type(value).__name__, f"an array of {RESULT_TYPES[operator]}", out=value)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "view",
    [np.s_[:, :], np.s_[::2, 1::3], np.s_[::-1, ::-1], np.s_[:, 2]],
    ids=["all", "strided", "backwards", "column"],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_fake_quantize_in_place(dtype: str, view: Any, order: Any) -> None:
    memory = np.linspace(-3, 3, 48).astype(dtype).reshape(6, 8).copy(order)
    expected = memory.copy()
    expected[view] = gpuq.fake_quantize(memory[view].copy(), 0.5, 3)
    x = memory[view]
    assert gpuq.fake_quantize(x, 0.5, 3, out=x) is x
    assert_same(memory, expected)


def test_fake_quantize_into_another_view_of_the_same_elements() -> None:
    """The same start and strides are in place too, whichever object they come as."""
    x = np.linspace(-3, 3, 12, dtype=np.float32)
    expected = gpuq.fake_quantize(x, 0.5)
    gpuq.fake_quantize(x, 0.5, out=x[:])
    assert_same(x, expected)


def test_fake_quantize_half_in_place() -> None:
    """Shifted, backwards or transposed, an element may be overwritten before it is read."""
    memory = np.linspace(-3, 3, 16, dtype=np.float32)
    square = memory.reshape(4, 4)
    for x, out in [(memory[:-1], memory[1:]), (memory, memory[::-1]), (square, square.T), (memory[::2], memory[:8])]:
        before = memory.copy()
        with pytest.raises(ValueError, match=r"out: got an array that overlaps x; accepted: memory of its own"):
            gpuq.fake_quantize(x, 0.5, out=out)
        assert_same(memory, before)


def test_fake_quantize_in_place_over_its_own_scale() -> None:
    x = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="out: got an array that overlaps scale"):
        gpuq.fake_quantize(x, x, axis=0, out=x)


def test_nothing_overlaps_an_empty_array() -> None:
    memory = np.zeros(8, np.uint8)
    out = memory[:0]
    assert gpuq.quantize_linear(memory.view(np.float32)[:0], 0.5, out=out) is out


def test_a_result_that_overflows_leaves_the_inputs_alone() -> None:
    a, b = np.full((1, 40_000), 255, np.uint8), np.full((40_000, 1), 255, np.uint8)
    with pytest.raises(OverflowError, match=r"int32 .*40000"):
        gpuq.matmul_integer(a, b, out=np.zeros((1, 1), np.int32))
    assert (a == 255).all()
    assert (b == 255).all()
