"""Arguments for the matrix products: codes, zero points and scales of given shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from values import codes, pick

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
BYTES = ("int8", "uint8")
MIXES = [(a, b) for a in BYTES for b in BYTES]
PRODUCTS = ("matmul_integer", "scaled_matmul", "qlinear_matmul")
ROUNDINGS = ("half_even", "half_away", "half_up")
REAL_RESULTS = ("float32", "float16", "bfloat16")
DEEPEST = 33_025  # the largest k whose sums fit int32 whatever the codes and zero points: floor((2^31 - 1) / 255^2)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
# with a_scale·b_scale/y_scale of 2^-1 … 2^-4 every second product or so is an exact tie
A_SCALES, B_SCALES, Y_SCALES = (0.5, 0.25, 0.1, 1 / 3), (0.5, 1.0, 0.013), (1.0, 4.0, 2.4, 30.0)


def some(rng: np.random.Generator, values: tuple[float, ...], shape: Shape) -> Array:
    return pick(rng, np.array(values, np.float32), shape)


def biases(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.choice(np.array([INT32_MIN, INT32_MAX, 0, -1, 2, 33, -1000, 2**24 + 1], np.int32), shape)


def arguments(
    rng: np.random.Generator, name: str, a: Array, b: Array, rows: Shape = (), columns: Shape = ()
) -> dict[str, Array]:
    """The arguments of a product by name, its parameters of the shapes `rows` and `columns`."""
    values = {
        "a": a,
        "b": b,
        "a_zero_point": codes(rng, a.dtype.name, rows),
        "b_zero_point": codes(rng, b.dtype.name, columns),
    }
    if name != "matmul_integer":
        values |= {"a_scale": some(rng, A_SCALES, rows), "b_scale": some(rng, B_SCALES, columns)}
    if name == "qlinear_matmul":
        values |= {"y_scale": some(rng, Y_SCALES, rows), "y_zero_point": codes(rng, b.dtype.name, rows)}
    return values


def operands(rng: np.random.Generator, mix: tuple[str, str], a_shape: Shape, b_shape: Shape) -> tuple[Array, Array]:
    return codes(rng, mix[0], a_shape), codes(rng, mix[1], b_shape)
