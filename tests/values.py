"""The values that operator tests feed: ties and their neighbours, both saturation bounds, special numbers, noise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

import exact
from gpuq.dtypes import QUANTIZED, numpy_dtype

Array = npt.NDArray[np.generic]
Shape = tuple[int, ...]

# powers of two, whose ties are exact, and others
SCALES = (0.5, 0.125, 2.0, 0.1, 1 / 3, 0.0123, 7.843137255, 3e-5)


def pick(rng: np.random.Generator, pool: Array, shape: Shape) -> Array:
    """An array, of 0 axes too, of elements of `pool`."""
    return pool[rng.integers(0, len(pool), math.prod(shape))].reshape(shape)


def real_values(rng: np.random.Generator, name: str, shape: Shape, scale: float, kind: str) -> Array:
    """Numbers of the real type `name` to be quantized to `kind` with (about) `scale`."""
    reach = 2 ** (QUANTIZED[kind].bits + 1)
    ends = (0, reach // 4, reach // 2, reach)
    around = [end * side + step for end in ends for side in (1, -1) for step in range(-4, 5)]
    halves = np.concatenate([around, rng.integers(-reach, reach, 60)])  # every second multiple of scale/2 is a tie
    with np.errstate(over="ignore", under="ignore"):
        ties = (halves * (scale / 2)).astype(numpy_dtype(name))
        noise = (rng.normal(size=60) * scale * 2.0 ** rng.integers(-8, QUANTIZED[kind].bits, 60)).astype(ties.dtype)
    bits = ties.view(f"u{ties.dtype.itemsize}")
    neighbours = np.concatenate([bits - 1, bits + 1]).view(ties.dtype)  # of 0.0 a NaN and the smallest subnormal
    pool = np.concatenate([ties, neighbours, noise, special_values(name)])
    return pick(rng, pool, shape)


def special_values(name: str) -> Array:
    """NaN, infinities, zeros, subnormals and the ends of a real type."""
    bits, lowest, largest = exact.FORMATS[name]
    positive = [np.inf, 0.0, 2.0**lowest, 3 * 2.0**lowest, 2.0 ** (lowest + bits - 1), 1.0, float(largest)]
    return np.array([np.nan, *positive, *(-value for value in positive)]).astype(numpy_dtype(name))


def codes(rng: np.random.Generator, name: str, shape: Shape, narrow: bool = False) -> Array:
    """Random codes of a quantized type, half of them at its ends or 0."""
    low, high = QUANTIZED[name].lowest(narrow), QUANTIZED[name].qmax
    ends = rng.choice([low, high, 0 if low <= 0 else low], shape)
    return np.where(rng.random(shape) < 0.5, ends, rng.integers(low, high + 1, shape)).astype(numpy_dtype(name))


def scales(rng: np.random.Generator, shape: Shape) -> Array:
    """Scales from `SCALES` as float32."""
    return rng.choice(np.array(SCALES, np.float32), shape)
