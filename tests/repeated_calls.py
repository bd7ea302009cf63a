"""Calls of every operator, each with arrays that a seed makes anew, for tests of calls that come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

POINT = np.int8(3)


def reals(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).uniform(-50, 50, shape).astype(np.float32)


def codes(seed: int, *shape: int, dtype: Any = np.int8) -> Any:
    low = np.iinfo(dtype).min
    return np.random.default_rng(seed).integers(low, low + 256, shape).astype(dtype)


def positive(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).uniform(0.1, 2, shape).astype(np.float32)


def integers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(-9000, 9000, shape).astype(np.int32)


# each: the arrays of a call from a seed, then what is not an array
CALLS: dict[str, tuple[str, Callable[[int], dict[str, Any]], dict[str, Any]]] = {
    "quantize": ("quantize_linear", lambda seed: {"x": reals(seed, 7, 30)}, {"scale": 0.5, "zero_point": POINT}),
    "quantize per axis": (
        "quantize_linear",
        lambda seed: {"x": reals(seed, 7, 30), "scale": positive(seed, 30), "zero_point": codes(seed, 30)},
        {"axis": 1},
    ),
    "quantize strided": (
        "quantize_linear",
        lambda seed: {"x": reals(seed, 7, 60)[:, ::2], "scale": positive(seed, 1)},
        {"rounding": "torch"},
    ),
    "dequantize": (
        "dequantize_linear",
        lambda seed: {"q": codes(seed, 9, 40).T, "scale": positive(seed, 9)},
        {"dtype": "float16"},
    ),
    "fake_quantize": ("fake_quantize", lambda seed: {"x": reals(seed, 64)}, {"scale": 0.25, "zero_point": 7}),
    "requantize": (
        "requantize",
        lambda seed: {"acc": integers(seed, 5, 21), "multiplier": positive(seed, 21) / 99, "bias": integers(seed, 21)},
        {"zero_point": 4, "activation": "relu"},
    ),
    "dynamic": ("dynamic_quantize_linear", lambda seed: {"x": reals(seed, 3, 50)}, {}),
    "integer": ("matmul_integer", lambda seed: {"a": codes(seed, 6, 32), "b": codes(seed + 1, 32, 9)}, {}),
    "integer, odd, points": (
        "matmul_integer",
        lambda seed: {
            "a": codes(seed, 2, 20, 33),
            "b": codes(seed + 1, 33, 19, dtype=np.uint8),
            "b_zero_point": codes(seed, 19, dtype=np.uint8),
        },
        {"a_zero_point": POINT},
    ),
    "scaled": (
        "scaled_matmul",
        lambda seed: {
            "a": codes(seed, 5, 16),
            "b": codes(seed + 1, 16, 8),
            "b_scale": positive(seed, 8),
            "bias": reals(seed, 8),
        },
        {"a_scale": np.float32(0.1), "activation": "relu"},
    ),
    "quantized": (
        "qlinear_matmul",
        lambda seed: {"a": codes(seed, 4, 18), "b": codes(seed + 1, 18, 6)},
        {
            "a_scale": 0.1,
            "a_zero_point": 1,
            "b_scale": 0.2,
            "b_zero_point": None,
            "y_scale": 0.7,
            "y_zero_point": np.uint8(9),
        },
    ),
}
