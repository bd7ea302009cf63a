"""gelu and silu: within half a unit in the last place and a little, over all of float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from compare import assert_within_ulp
from gpuq import reference
from gpuq.arithmetic import GELU, SILU
from gpuq.cpu.compile import jit
from gpuq.curves import curve, exponential


@jit
def curves(v: Any, activation: int, result: Any) -> None:
    for i in range(v.shape[0]):
        result[i] = curve(v[i], activation)


@jit
def exponentials(x: Any, result: Any) -> None:
    for i in range(x.shape[0]):
        result[i] = exponential(x[i])


def numbers() -> Any:
    """Float32 numbers of all sizes and both signs, and, closer together, those where curves bend."""
    everywhere = np.arange(0, 0x7F80_0001, 65_521, np.int64).astype(np.uint32).view(np.float32)
    bends = np.linspace(-16, 16, 100_001, dtype=np.float32)
    edges = np.float32([0, 1e-45, np.finfo(np.float32).tiny, np.finfo(np.float32).max, np.inf, np.nan])
    return np.concatenate([everywhere, -everywhere, bends, edges, -edges])


@pytest.mark.parametrize(("name", "code"), [("gelu", GELU), ("silu", SILU)])
def test_curves(name: str, code: int) -> None:
    v = numbers()
    result = np.empty_like(v)
    curves(v, code, result)
    with np.errstate(all="ignore"):
        expected = reference._activate(v, name)
    assert_within_ulp(result, expected, 1)


def test_exponential() -> None:
    x = np.concatenate([np.linspace(-700, 700, 50_001), np.linspace(-1, 1, 50_001)])
    result = np.empty_like(x)
    exponentials(x, result)
    assert (np.abs(result / np.exp(x) - 1) < 1e-9).all()
    assert exponential.__doc__
    assert math.isclose(float(result[-1]), math.e, rel_tol=1e-9)
