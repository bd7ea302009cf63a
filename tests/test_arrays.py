"""NumPy arrays, scalars and lists as any argument: they all mean the same."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import gpuq
from compare import assert_all_same, assert_same
from valid_calls import SHAPE, call, valid_arguments


@pytest.mark.parametrize(
    "scale",
    [
        0.5,
        np.float64(0.5),
        np.float32(0.5),
        np.float16(0.5),
        ml_dtypes.bfloat16(0.5),
        np.array(0.5),
        np.float32([0.5]),
        np.array([[0.5]]),
        [0.5],
        (0.5,),
        [[0.5]],
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "point", [3, np.uint8(3), np.array(3, np.uint8), np.uint8([3]), np.uint8([[3]]), [3], ((3,),)], ids=repr
)
def test_one_element_of_any_kind_is_per_tensor(scale: object, point: object) -> None:
    expected = call("quantize_linear")
    assert_same(call("quantize_linear", scale=scale, zero_point=point), expected)
    assert_same(call("fake_quantize", scale=scale, zero_point=point), call("fake_quantize"))
    assert_same(call("dequantize_linear", scale=scale, zero_point=point), call("dequantize_linear"))
    products = {"a_scale": scale, "b_scale": scale, "a_zero_point": point, "b_zero_point": [3]}
    expected = call("scaled_matmul", a_scale=0.5, b_scale=0.5, b_zero_point=3)
    assert_same(call("scaled_matmul", **products), expected)
    changes = {"y_scale": scale, "y_zero_point": point}
    assert_same(call("qlinear_matmul", **changes), call("qlinear_matmul", y_scale=0.5, y_zero_point=np.uint8(3)))


@pytest.mark.parametrize(
    "convert", [list, tuple, np.float64, np.float16, lambda values: np.array(values, ml_dtypes.bfloat16)]
)
def test_vectors_of_scales_of_any_kind(convert: Any) -> None:
    values = [0.5, 0.25, 2.0, 1.0]
    expected = call("quantize_linear", scale=np.float32(values))
    assert_same(call("quantize_linear", scale=convert(values)), expected)


class Code(enum.IntEnum):
    """A named zero point."""

    MIDDLE = 3


def test_an_enumerated_int_is_an_int() -> None:
    assert_same(call("quantize_linear", zero_point=Code.MIDDLE), call("quantize_linear", zero_point=3))
    assert_same(call("requantize", bias=[Code.MIDDLE] * 4), call("requantize", bias=3))


def test_python_ints_as_scales_and_multipliers() -> None:
    assert_same(call("quantize_linear", scale=2), call("quantize_linear", scale=2.0))
    assert_same(call("requantize", multiplier=2), call("requantize", multiplier=2.0))
    assert_same(call("scaled_matmul", bias=[1, 2, 3, 4]), call("scaled_matmul", bias=np.float32([1, 2, 3, 4])))
    assert gpuq.choose_qparams(-1, 1) == gpuq.choose_qparams(-1.0, 1.0)
    assert gpuq.quantize_multiplier(1) == gpuq.quantize_multiplier(1.0)


@pytest.mark.parametrize(
    "bias", [7, np.int32(7), np.array(7, np.int32), np.int32([7]), [7], [7] * 4, np.int32([7] * 4)], ids=repr
)
@pytest.mark.parametrize("operator", ["qlinear_matmul", "requantize"])
def test_an_integer_bias_of_any_kind(operator: str, bias: object) -> None:
    assert_same(call(operator, bias=bias), call(operator, bias=np.int32([[7]])))


def test_fixed_point_pairs_of_any_kind() -> None:
    expected = call("requantize", multiplier=(2**30, -1), mode="fixed_point")
    for pair in (
        [2**30, -1],
        (np.int32(2**30), np.int32(-1)),
        (np.int32([2**30] * 4), -1),
        ([2**30] * 4, [-1] * 4),
        gpuq.quantize_multiplier(0.25),
    ):
        assert_same(call("requantize", multiplier=pair, mode="fixed_point"), expected)


@pytest.mark.parametrize(
    "x", [np.float32(2), np.float64(2), np.float16(2), ml_dtypes.bfloat16(2), np.array(2, np.float32)], ids=repr
)
def test_scalars_give_arrays_without_axes(x: Any) -> None:
    assert_same(gpuq.quantize_linear(x, 0.5, 3), np.array(7, np.uint8))
    assert_same(gpuq.fake_quantize(x, 0.5, 3), np.array(2, x.dtype))
    assert_all_same(gpuq.dynamic_quantize_linear(x), (np.array(255, np.uint8), np.float32(2 / 255), np.uint8(0)))
    assert_same(gpuq.dequantize_linear(np.int8(7), 0.5, np.int8(3)), np.array(2, np.float32))
    assert_same(gpuq.requantize(np.int32(8), 0.5, 3), np.array(7, np.int8))
    out = np.zeros((), np.uint8)
    assert gpuq.quantize_linear(x, 0.5, 3, out=out) is out
    assert out == 7


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_4_bit_arrays_of_numpy_are_those_of_ml_dtypes(dtype: str) -> None:
    kind = getattr(ml_dtypes, dtype)
    x = np.linspace(-20, 20, 33, dtype=np.float32)
    codes = gpuq.quantize_linear(x, 1.0, dtype=dtype)
    limits = (-8, 7) if dtype == "int4" else (0, 15)
    assert_same(codes, np.clip(np.rint(x), *limits).astype(kind))
    assert_same(gpuq.quantize_linear(x, 1.0, kind(0)), codes)
    assert_same(gpuq.dequantize_linear(codes, 0.5, kind(1)), (codes.astype(np.float32) - 1) / 2)
    out = np.zeros(33, kind)
    assert gpuq.quantize_linear(x, 1.0, dtype=dtype, out=out) is out
    assert_same(out, codes)


def test_what_the_unused_bits_of_4_bit_codes_hold_does_not_matter() -> None:
    stored = np.arange(256, dtype=np.uint8)
    for dtype in (ml_dtypes.int4, ml_dtypes.uint4):
        expected = gpuq.dequantize_linear((stored & 15).view(dtype), 0.5)
        assert_same(gpuq.dequantize_linear(stored.view(dtype), 0.5), expected)


def test_an_array_on_disk(tmp_path: Path) -> None:
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=SHAPE)
    x[...] = valid_arguments("quantize_linear")["x"]
    out = np.memmap(tmp_path / "q", np.uint8, "w+", shape=SHAPE)
    assert call("quantize_linear", x=x, out=out) is out
    assert_same(out, call("quantize_linear"))
    assert type(call("quantize_linear", x=x)) is np.ndarray
