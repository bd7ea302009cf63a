"""One call of every operator that is right, for tests that change one thing about it: its arguments and its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import gpuq

SHAPE = (3, 4)  # of every result
RESULT_TYPES = {
    "quantize_linear": "uint8",
    "fake_quantize": "float32",
    "dequantize_linear": "float32",
    "matmul_integer": "int32",
    "scaled_matmul": "float32",
    "qlinear_matmul": "uint8",
    "requantize": "int8",
}
PRODUCTS = ("matmul_integer", "scaled_matmul", "qlinear_matmul")
WITHOUT_OUT = ("dynamic_quantize_linear", "prepack")
OPERATORS = (*RESULT_TYPES, *WITHOUT_OUT)

# (operator, argument) of each kind of argument
SCALES = [
    *((name, "scale") for name in ("quantize_linear", "fake_quantize", "dequantize_linear")),
    *((name, scale) for name in ("scaled_matmul", "qlinear_matmul") for scale in ("a_scale", "b_scale")),
    ("qlinear_matmul", "y_scale"),
    ("requantize", "y_scale"),
]
UINT8_ZERO_POINTS = [
    *((name, "zero_point") for name in ("quantize_linear", "fake_quantize", "dequantize_linear")),
    *((name, "a_zero_point") for name in PRODUCTS),
    ("qlinear_matmul", "y_zero_point"),
]
INT8_ZERO_POINTS = [
    *((name, "b_zero_point") for name in PRODUCTS),
    ("requantize", "zero_point"),
    ("prepack", "zero_point"),
]
REAL_ARRAYS = [(name, "x") for name in ("quantize_linear", "fake_quantize", "dynamic_quantize_linear")]
INTEGER_ARRAYS = [
    ("dequantize_linear", "q"),
    *((name, operand) for name in PRODUCTS for operand in ("a", "b")),
    ("requantize", "acc"),
    ("prepack", "b"),
]


def valid_arguments(operator: str) -> dict[str, Any]:
    """Fresh arguments that the operator accepts; every parameter is per tensor and of the type its array asks for."""
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(SHAPE)
    a, b = np.arange(15, dtype=np.uint8).reshape(3, 5), np.arange(-10, 10, dtype=np.int8).reshape(5, 4)
    quantizer = {"x": x, "scale": 0.5, "zero_point": np.uint8(3), "dtype": "uint8"}
    product = {"a": a, "b": b, "a_zero_point": np.uint8(3), "b_zero_point": np.int8(-2)}
    scales = {"a_scale": 0.5, "b_scale": 0.25}
    return {
        "quantize_linear": quantizer,
        "fake_quantize": quantizer,
        "dequantize_linear": {"q": np.arange(12, dtype=np.uint8).reshape(SHAPE), "scale": 0.5, "zero_point": 3},
        "dynamic_quantize_linear": {"x": x},
        "matmul_integer": product,
        "scaled_matmul": {**product, **scales},
        "qlinear_matmul": {**product, **scales, "y_scale": 8.0, "y_zero_point": np.uint8(7)},
        "requantize": {"acc": np.arange(12, dtype=np.int32).reshape(SHAPE), "multiplier": 0.5, "zero_point": 3},
        "prepack": {"b": b, "zero_point": np.int8(-2)},
    }[operator]


def call(operator: str, **changes: Any) -> Any:
    """The operator on its valid arguments, some of them changed or added."""
    return getattr(gpuq, operator)(**{**valid_arguments(operator), **changes})


def converted(operator: str, convert: Callable[[Any], Any]) -> dict[str, Any]:
    """The valid arguments, each array among them as another kind of array."""
    arguments = valid_arguments(operator)
    return {name: convert(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
