"""Bad arrays, scales and zero points: each is refused in words, and nothing is touched."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import gpuq
from compare import assert_same
from gpuq.dtypes import numpy_dtype
from refusals import GARBAGE, HUGE, INF, NAN, assert_refused, assert_says
from valid_calls import (
    INT8_ZERO_POINTS,
    INTEGER_ARRAYS,
    OPERATORS,
    PRODUCTS,
    REAL_ARRAYS,
    RESULT_TYPES,
    SCALES,
    SHAPE,
    UINT8_ZERO_POINTS,
    call,
    valid_arguments,
)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_unchanged_call_is_accepted(operator: str) -> None:
    """So that a case below fails for the one thing it changes."""
    expected = call(operator)
    if operator in RESULT_TYPES:
        out = np.full(SHAPE, GARBAGE, RESULT_TYPES[operator])
        assert call(operator, out=out) is out
        assert_same(out, expected)


# ---- arrays ----


@pytest.mark.parametrize(
    ("value", "came"),
    [([1.0, 2.0], "list"), ((1, 2), "tuple"), (3, "int"), (3.0, "float"), (None, "None"), ("x", "str")],
    ids=str,
)
@pytest.mark.parametrize(("operator", "argument"), REAL_ARRAYS + INTEGER_ARRAYS)
def test_what_is_no_array(operator: str, argument: str, value: object, came: str) -> None:
    assert_refused(operator, TypeError, argument, came, "an array of", **{argument: value})


@pytest.mark.parametrize("dtype", ["int8", "int32", "bool", "complex64", "object", "S3", "M8[s]", "f4,f4"])
@pytest.mark.parametrize(("operator", "argument"), REAL_ARRAYS)
def test_an_array_that_is_not_real(operator: str, argument: str, dtype: str) -> None:
    value = np.zeros(SHAPE, dtype)
    assert_refused(operator, TypeError, argument, value.dtype.name, "float32", **{argument: value})


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "complex64", "object", ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize(("operator", "argument"), INTEGER_ARRAYS)
def test_an_array_of_no_quantized_type(operator: str, argument: str, dtype: Any) -> None:
    value = np.zeros(valid_arguments(operator)[argument].shape, dtype)
    assert_refused(operator, TypeError, argument, value.dtype.name, "int", **{argument: value})


@pytest.mark.parametrize("dtype", ["int16", "uint32", ml_dtypes.int4])
@pytest.mark.parametrize(("operator", "argument"), [pair for pair in INTEGER_ARRAYS if pair[1] in ("a", "b")])
def test_products_take_8_bit_alone(operator: str, argument: str, dtype: Any) -> None:
    value = np.zeros(valid_arguments(operator)[argument].shape, dtype)
    assert_refused(operator, TypeError, argument, value.dtype.name, "int8, uint8", **{argument: value})


@pytest.mark.parametrize(("operator", "argument"), REAL_ARRAYS + INTEGER_ARRAYS)
def test_a_masked_array(operator: str, argument: str) -> None:
    """Its masked elements would be computed with: the caller must say what they are."""
    value = np.ma.masked_array(valid_arguments(operator)[argument])
    assert_refused(operator, TypeError, argument, "MaskedArray", "an array of", **{argument: value})


@pytest.mark.parametrize("operator", PRODUCTS)
def test_a_packed_matrix_has_its_own_zero_point(operator: str) -> None:
    packed = gpuq.prepack(valid_arguments(operator)["b"], zero_point=3)
    for value in (0, 3, np.int8(3)):
        assert_refused(operator, ValueError, "b_zero_point", repr(value), "None", b=packed, b_zero_point=value)


@pytest.mark.parametrize("operator", PRODUCTS)
def test_only_b_may_be_packed(operator: str) -> None:
    packed = gpuq.prepack(np.zeros((3, 5), np.uint8))
    assert_refused(operator, TypeError, "a", "PackedMatrix", "an array of int8, uint8", a=packed)


# ---- scales ----


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (0, "0.0"),
        (0.0, "0.0"),
        (-0.5, "-0.5"),
        (NAN, "nan"),
        (INF, "inf"),
        (-INF, "-inf"),
        (1e-46, "0.0"),
        (1e39, "inf"),
        (10**39, "inf"),
        (np.float64(-1), "-1.0"),
        (np.float32(NAN), "nan"),
        (np.float16(0), "0.0"),
        (ml_dtypes.bfloat16(-2), "-2.0"),
        ([-1], "-1.0"),
        (np.array([[NAN]]), "nan"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(("operator", "argument"), SCALES)
def test_a_scale_that_is_no_positive_float32(operator: str, argument: str, value: object, came: str) -> None:
    assert_refused(operator, ValueError, argument, came, "above 0", **{argument: value})


@pytest.mark.parametrize("bad", [0.0, -1.0, NAN, INF, 1e-46, 1e39])
@pytest.mark.parametrize(("operator", "argument"), SCALES)
def test_one_bad_scale_of_many(operator: str, argument: str, bad: float) -> None:
    count = SHAPE[0] if argument == "a_scale" or (operator, argument) == ("qlinear_matmul", "y_scale") else SHAPE[1]
    values = np.ones(count)
    values[-1] = bad
    assert_refused(operator, ValueError, argument, "value", "above 0", **{argument: values})


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        b"0.5",
        True,
        1j,
        np.int32(1),
        np.True_,
        np.complex64(1),
        {},
        np.array("0.5"),
        np.array([1], object),
        np.ma.masked_array([0.5]),
        ["0.5"],
        [True],
        [0.5, "a"],
        [[0.5], [0.5, 0.5]],
        [None],
    ],
    ids=repr,
)
@pytest.mark.parametrize(("operator", "argument"), SCALES)
def test_a_scale_of_another_type(operator: str, argument: str, value: object) -> None:
    assert_refused(operator, TypeError, argument, "", "a float or an array of float32", **{argument: value})


@pytest.mark.parametrize(("operator", "argument"), [pair for pair in SCALES if pair != ("requantize", "y_scale")])
def test_no_scale(operator: str, argument: str) -> None:
    assert_refused(operator, TypeError, argument, "None", "a float", **{argument: None})


@pytest.mark.parametrize("operator", ["scaled_matmul", "qlinear_matmul"])
@pytest.mark.parametrize(
    ("a_scale", "b_scale"),
    [(1e-30, 1e-30), (1e30, 1e30), (2.0**-100, 2.0**-27), ([1.0, 1e-20, 1.0], 1e-20), (1e20, [1.0, 1.0, 1.0, 1e20])],
    ids=str,
)
def test_a_product_of_scales_that_is_not_normal(operator: str, a_scale: object, b_scale: object) -> None:
    """2^-127 is subnormal: a machine that flushes would give other bits."""
    changes = {"a_scale": a_scale, "b_scale": b_scale}
    assert_refused(operator, ValueError, "a_scale, b_scale", "product", "normal float32", **changes)


@pytest.mark.parametrize("y_scale", [1e-40, 1e38, [1.0, 1e-40, 1.0]], ids=str)
def test_a_multiplier_that_is_not_normal(y_scale: object) -> None:
    assert_refused("qlinear_matmul", ValueError, "a_scale, b_scale, y_scale", "multiplier", "normal", y_scale=y_scale)


def test_the_last_normal_product_is_accepted() -> None:
    call("scaled_matmul", a_scale=2.0**-100, b_scale=2.0**-26)
    call("qlinear_matmul", a_scale=2.0**-100, b_scale=2.0**-26, y_scale=1.0)


def test_scales_of_rows_that_vary_together_are_accepted() -> None:
    """Every multiplier is 0.25, whatever the smallest a_scale over the largest y_scale would be."""
    scales = np.float32([1e-20, 1.0, 1e20])
    expected = call("qlinear_matmul", a_scale=1.0, y_scale=1.0)
    assert_same(call("qlinear_matmul", a_scale=scales, y_scale=scales), expected)


# ---- zero points ----


@pytest.mark.parametrize("value", [-1, 256, HUGE, -HUGE, [256], np.array([[256]], object).tolist()], ids=repr)
@pytest.mark.parametrize(("operator", "argument"), UINT8_ZERO_POINTS)
def test_a_zero_point_outside_uint8(operator: str, argument: str, value: Any) -> None:
    came = str(value).strip("[]")
    assert_refused(operator, ValueError, argument, came, "0 … 255", **{argument: value})


@pytest.mark.parametrize("value", [-129, 128, HUGE, -HUGE, [128]], ids=repr)
@pytest.mark.parametrize(("operator", "argument"), INT8_ZERO_POINTS)
def test_a_zero_point_outside_int8(operator: str, argument: str, value: Any) -> None:
    came = str(value).strip("[]")
    assert_refused(operator, ValueError, argument, came, "-128 … 127", **{argument: value})


@pytest.mark.parametrize(
    "value",
    [
        True,
        1.0,
        "1",
        1j,
        np.int16(1),
        np.float32(1),
        np.True_,
        ml_dtypes.int4(1),
        np.array(1, object),
        [1.0],
        [True],
        ["1"],
        [None],
        [[1], [1, 2]],
        np.ma.masked_array([1], dtype=np.uint8),
        {},
    ],
    ids=repr,
)
@pytest.mark.parametrize(("operator", "argument"), UINT8_ZERO_POINTS + INT8_ZERO_POINTS)
def test_a_zero_point_of_another_type(operator: str, argument: str, value: object) -> None:
    assert_refused(operator, TypeError, argument, "", "int8", **{argument: value})


@pytest.mark.parametrize(
    ("operator", "argument", "value"),
    [
        *((operator, argument, np.int8(1)) for operator, argument in UINT8_ZERO_POINTS if argument != "y_zero_point"),
        *((operator, argument, np.uint8(1)) for operator, argument in INT8_ZERO_POINTS),
    ],
)
def test_a_zero_point_of_the_other_8_bit_type(operator: str, argument: str, value: object) -> None:
    came, accepted = ("int8", "uint8") if isinstance(value, np.int8) else ("uint8", "int8")
    assert_refused(operator, TypeError, argument, f"array of {came}", f"array of {accepted}", **{argument: value})


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int8", -127, 127),
        ("uint8", 1, 255),
        ("int16", -32767, 32767),
        ("uint16", 1, 65535),
        ("int4", -7, 7),
        ("uint4", 1, 15),
        ("int32", -(2**31) + 1, 2**31 - 1),
        ("uint32", 1, 2**32 - 1),
    ],
)
@pytest.mark.parametrize("operator", ["quantize_linear", "fake_quantize"])
def test_narrow_range_drops_the_lowest_zero_point(operator: str, dtype: str, low: int, high: int) -> None:
    x = valid_arguments(operator)["x"]
    for value in (low - 1, np.array([low - 1]).astype(numpy_dtype(dtype)), high + 1):
        with pytest.raises(ValueError, match="zero_point: got the value") as caught:
            getattr(gpuq, operator)(x, 0.5, value, dtype=dtype, narrow_range=True)
        assert_says(str(caught.value), "zero_point", str(np.ravel(value)[0]), f"{low} … {high}")
    getattr(gpuq, operator)(x, 0.5, low, dtype=dtype, narrow_range=True)


@pytest.mark.parametrize(
    ("operator", "argument", "value"),
    [
        ("qlinear_matmul", "y_zero_point", np.uint8(0)),
        ("qlinear_matmul", "y_zero_point", np.int8(-128)),
        ("requantize", "zero_point", -128),
        ("quantize_linear", "zero_point", None),
    ],
)
def test_the_dropped_code_as_zero_point(operator: str, argument: str, value: object) -> None:
    came = str(0 if value is None else value)
    assert_refused(operator, ValueError, argument, came, "narrow range", narrow_range=True, **{argument: value})
