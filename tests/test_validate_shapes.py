"""Shapes that do not fit: of products, of parameters, of blocks; each is refused in words, and nothing is touched."""

from __future__ import annotations

import numpy as np
import pytest

import gpuq
from compare import assert_same
from refusals import HUGE, assert_refused
from valid_calls import INTEGER_ARRAYS, PRODUCTS, SHAPE, call, valid_arguments


@pytest.mark.parametrize("operator", PRODUCTS)
@pytest.mark.parametrize(
    ("a_shape", "b_shape"), [((3, 5), (4, 4)), ((3, 5), (6,)), ((4,), (5, 4)), ((2, 3, 5), (3, 5, 4)), ((3, 0), (1, 4))]
)
def test_shapes_that_do_not_multiply(operator: str, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    a, b = np.zeros(a_shape, np.uint8), np.zeros(b_shape, np.int8)
    assert_refused(operator, ValueError, "b", f"{b_shape} with a of shape {a_shape}", "multiply", a=a, b=b)
    assert_refused(operator, ValueError, "b", str(b_shape), "multiply", a=a, b=gpuq.prepack(b), b_zero_point=None)


@pytest.mark.parametrize(("operator", "argument"), [pair for pair in INTEGER_ARRAYS if pair[1] in ("a", "b")])
def test_products_take_no_scalars(operator: str, argument: str) -> None:
    value = np.array(3, valid_arguments(operator)[argument].dtype)
    assert_refused(operator, ValueError, argument, "0 dimensions", "1 dimension", **{argument: value})


# ---- shapes of parameters ----


@pytest.mark.parametrize("operator", ["quantize_linear", "fake_quantize", "dequantize_linear"])
@pytest.mark.parametrize("argument", ["scale", "zero_point"])
@pytest.mark.parametrize(
    ("shape", "axis", "block_size", "accepted"),
    [
        ((3,), 1, 0, "(4,)"),
        ((4,), 0, 0, "(3,)"),
        ((4,), -2, 0, "(3,)"),
        ((1, 4), 1, 0, "(4,)"),
        ((3, 4), 1, 0, "(4,)"),
        ((0,), 1, 0, "(4,)"),
        ((3, 4), 1, 2, "(3, 2)"),
        ((3, 2), 0, 2, "(2, 4)"),
        ((2,), 1, 2, "(3, 2)"),
        ((3, 2), 1, 3 * HUGE, "(3, 1)"),
    ],
)
def test_parameters_of_another_shape(
    operator: str, argument: str, shape: tuple[int, ...], axis: int, block_size: int, accepted: str
) -> None:
    value = np.ones(shape, np.float32 if argument == "scale" else np.uint8)
    changes = {argument: value, "axis": axis, "block_size": block_size}
    assert_refused(operator, ValueError, argument, f"shape {shape}", accepted, **changes)


@pytest.mark.parametrize(
    ("operator", "argument", "dtype", "length"),
    [
        *((name, "a_zero_point", "uint8", 3) for name in PRODUCTS),
        *((name, "b_zero_point", "int8", 4) for name in PRODUCTS),
        *((name, "a_scale", "float32", 3) for name in ("scaled_matmul", "qlinear_matmul")),
        *((name, "b_scale", "float32", 4) for name in ("scaled_matmul", "qlinear_matmul")),
        ("scaled_matmul", "bias", "float32", 4),
        ("qlinear_matmul", "bias", "int32", 4),
        ("qlinear_matmul", "y_scale", "float32", 3),
        ("qlinear_matmul", "y_zero_point", "uint8", 3),
        ("prepack", "zero_point", "int8", 4),
    ],
)
def test_parameters_of_rows_and_columns_of_another_shape(operator: str, argument: str, dtype: str, length: int) -> None:
    """A longer, shorter or empty vector, one along the wrong axis, and one that would enlarge the result."""
    per_row = length == SHAPE[0]
    wrong = [(length + 1,), (length - 1,), (0,), (1, length) if per_row else (length, 1), (5, 5), (2, *SHAPE)]
    if operator != "prepack":
        wrong.append((2, length, 1) if per_row else (2, 1, length))
    for shape in wrong:
        value = np.ones(shape, dtype)
        assert_refused(operator, ValueError, argument, f"shape {shape}", f"({length},)", **{argument: value})


@pytest.mark.parametrize("operator", ["matmul_integer", "scaled_matmul"])
def test_vectors_take_one_parameter_alone(operator: str) -> None:
    row, column = np.zeros(5, np.uint8), np.zeros(5, np.int8)
    points = np.zeros(5, np.uint8)
    assert_refused(operator, ValueError, "a_zero_point", "(5,)", "one element", a=row, a_zero_point=points)
    points = np.zeros(5, np.int8)
    assert_refused(operator, ValueError, "b_zero_point", "(5,)", "one element", b=column, b_zero_point=points)


@pytest.mark.parametrize("argument", ["multiplier", "zero_point", "bias", "y_scale"])
def test_parameters_of_requantize_of_another_shape(argument: str) -> None:
    dtype = {"zero_point": "int8", "bias": "int32"}.get(argument, "float32")
    for shape in ((3,), (5,), (0,), (1, 4), (3, 4)):
        value = np.ones(shape, dtype)
        assert_refused("requantize", ValueError, argument, f"shape {shape}", "(4,)", **{argument: value})


# ---- axis and block size ----


@pytest.mark.parametrize("operator", ["quantize_linear", "fake_quantize", "dequantize_linear", "requantize"])
@pytest.mark.parametrize("axis", [2, -3, HUGE, -HUGE])
def test_an_axis_outside_the_array(operator: str, axis: int) -> None:
    parameter = {"multiplier" if operator == "requantize" else "scale": np.ones(4, np.float32)}
    assert_refused(operator, ValueError, "axis", str(axis), "-2 … 1", axis=axis, **parameter)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scalar_has_no_axis(axis: int) -> None:
    x = np.array(1, np.float32)
    scale = np.ones(2, np.float32)
    assert_refused("quantize_linear", ValueError, "axis", "0 dimensions", "", x=x, scale=scale, axis=axis)


def test_the_default_axis_is_1_also_for_vectors() -> None:
    x = np.ones(4, np.float32)
    scale = np.ones(4, np.float32)
    assert_refused("quantize_linear", ValueError, "axis", "1 dimension", "-1 … 0", x=x, scale=scale)


@pytest.mark.parametrize("value", [None, 1.0, "1", True, np.True_, [1], np.float32(1)], ids=repr)
@pytest.mark.parametrize(
    ("operator", "argument"),
    [
        *((name, "axis") for name in ("quantize_linear", "fake_quantize", "dequantize_linear", "requantize")),
        *((name, "block_size") for name in ("quantize_linear", "fake_quantize", "dequantize_linear")),
    ],
)
def test_what_is_no_integer(operator: str, argument: str, value: object) -> None:
    assert_refused(operator, TypeError, argument, type(value).__name__, "an integer", **{argument: value})


@pytest.mark.parametrize("operator", ["quantize_linear", "fake_quantize", "dequantize_linear"])
def test_a_negative_block_size(operator: str) -> None:
    for value in (-1, -HUGE):
        assert_refused(operator, ValueError, "block_size", str(value), "at least 0", block_size=value)


@pytest.mark.parametrize("block_size", [5, 2**31, 2**62, 2**63 - 1, 2**63, HUGE])
def test_a_block_longer_than_the_axis_is_one_block(block_size: int) -> None:
    scale = np.array([[0.5], [0.25], [0.125]], np.float32)
    expected = call("quantize_linear", scale=scale[:, 0], axis=0)
    assert_same(call("quantize_linear", scale=scale, axis=1, block_size=block_size), expected)
