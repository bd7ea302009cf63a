"""The activations that are curves, gelu and silu, as scalar functions for all devices, of operations that vectors have.

    gelu(v) = v/2 · erfc(−v/√2)      erfc(z) = e^(−z²) · t · P(t) for z ≥ 0, t = 1/(1 + z/2); 2 − erfc(−z) below
    silu(v) = v / (1 + e^(−v))       e^x = 2^n · e^r, n = round(x / ln 2), |r| ≤ ln 2 / 2: e^r by its series

All in float64, whose error, below 1e-8, is a sixth of what rounding to float32 adds. math.erfc and math.exp would be as
right; but no compiler makes vectors of them, and the CPU took 23 ns for each.

Sources: gelu and silu, Hendrycks and Gimpel, arXiv 1606.08415; the form of erfc, Press et al., Numerical Recipes, 3rd
edition, section 6.2.2. P is the Chebyshev interpolant of degree 11 of e^(z²)·erfc(z)/t for t from 1/14 to 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuq.arithmetic import GELU, GRID64, scalar

ERFC = (
    0.28209540016760565, 0.28206711862355044, 0.2473575736563589, 0.1708149882464273, 0.11926775410747846,
    -0.1540091291118634, 0.3625612322250717, -0.8291665035400926, 0.8951995988566199, -0.5077481298437568,
    0.1497205768621495, -0.018160479377482996,
)  # fmt: skip
SERIES = tuple(1 / math.factorial(k) for k in range(9))
FARTHEST = 26.0  # e^(−26²) is 1e-294: no float32 times that is above 0 in float32
LARGEST = 700.0  # e^±700 are normal
LN2, SQRT_HALF = math.log(2), math.sqrt(0.5)


def _lower_power_of_two(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    word = ir.IntType(64)
    exponent = builder.add(builder.bitcast(arguments[0], word), word(1023))
    return builder.bitcast(builder.shl(exponent, word(52)), ir.DoubleType())


@intrinsic
def _power_of_two(typing_context: Any, shifted: Any) -> Any:
    """2^n for n + GRID64, on which the lowest bits are n."""
    return types.float64(types.float64), _lower_power_of_two


@scalar
def exponential(x: Any) -> Any:
    """e^x in float64 for |x| ≤ LARGEST."""
    shifted = x * (1 / LN2) + GRID64
    r = x - (shifted - GRID64) * LN2
    c0, c1, c2, c3, c4, c5, c6, c7, c8 = SERIES
    series = c0 + r * (c1 + r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * (c7 + r * c8)))))))
    return series * _power_of_two(shifted)


@scalar
def gelu(v: Any) -> Any:
    """v·Φ(v), rounded to float32."""
    wide = np.float64(v)
    far = abs(wide) * SQRT_HALF
    z = far if far < FARTHEST else FARTHEST
    t = 1.0 / (1.0 + 0.5 * z)
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = ERFC
    upper = c6 + t * (c7 + t * (c8 + t * (c9 + t * (c10 + t * c11))))
    p = c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * (c5 + t * upper)))))
    tail = exponential(-z * z) * t * p
    result = np.float32(0.5 * wide * (tail if wide < 0 else 2.0 - tail))
    return np.float32(-0.0) if v == -math.inf else result


@scalar
def silu(v: Any) -> Any:
    """v·sigmoid(v), rounded to float32."""
    wide = np.float64(v)
    x = LARGEST if -wide > LARGEST else -wide
    result = np.float32(wide / (1.0 + exponential(-LARGEST if x < -LARGEST else x)))
    return np.float32(-0.0) if v == -math.inf else result


@scalar
def curve(v: Any, activation: int) -> Any:
    """The activation of that number, if it is gelu or silu."""
    return gelu(v) if activation == GELU else silu(v)
