"""`explain` gives what the operators give, and says what is special about a number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import reference
from refusals import assert_says

NAMES = ("half_even", "half_away", "half_up", "torch", "torch per channel", "torch fake")


def codes_of(*arguments: Any, **options: Any) -> dict[str, int]:
    return {each.name: each.code for each in gpuq.explain(*arguments, **options).conventions}


def test_the_worked_example() -> None:
    """−1000 in 2000 / 255: the tie that docs/arithmetic.md tells of."""
    found = gpuq.explain(-1000, 2000 / 255, np.uint8(128))
    assert codes_of(-1000, 2000 / 255, np.uint8(128)) == dict(zip(NAMES, (0, 0, 1, 1, 0, 0), strict=True))
    text = "\n".join(found.reasons)
    assert "x / S = -127.5 is a tie: to even gives 0, away from zero 0, upward 1" in text
    assert "only in float32" in text
    assert "torch.quantize_per_tensor adds the zero point before it rounds: x · f32(1/S) + z = 0.500002384" in text
    assert str(found).splitlines()[0].split() == ["convention", "as", "in", "rounded", "code", "real"]
    assert "torch.quantize_per_tensor" in str(found)
    assert found.conventions[0].real == float(np.float32(-128) * np.float32(2000 / 255))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int4", "uint4"])
def test_the_codes_are_those_of_the_operators(dtype: str) -> None:
    rng = np.random.default_rng(0)
    for scale in (0.5, 0.1, 2000 / 255):
        special = (1e9, -1e9, math.nan, math.inf, -math.inf)
        for x in (*np.arange(-4.5, 5) * scale, *rng.normal(0, 50 * scale, 10), *special):
            for z in (0, 3):
                value = np.full(2, x, np.float32)
                found = codes_of(x, scale, z, dtype=dtype)
                for name in NAMES[:4]:
                    expected = reference.quantize_linear(value, scale, z, dtype=dtype, rounding=name)
                    assert found[name] == expected[0], name
                options: dict[str, Any] = {"axis": 0, "dtype": dtype, "rounding": "torch"}
                assert found[NAMES[4]] == reference.quantize_linear(value, [scale] * 2, [z] * 2, **options)[0]
                real = reference.fake_quantize(value, scale, z, dtype=dtype, rounding="torch")[0]
                assert real == np.float32(found[NAMES[5]] - z) * np.float32(scale)


def test_reasons() -> None:
    assert gpuq.explain(1.2, 0.5).reasons == ()
    assert gpuq.explain(math.nan, 0.5, 3).reasons == ("NaN becomes the zero point, 3.",)
    assert gpuq.explain(math.inf, 0.5).reasons == ("Infinities saturate.",)
    assert "saturates" in gpuq.explain(1e6, 0.5).reasons[0]
    found = gpuq.explain(-38.5 * 0.7, 0.7, np.int8(0))
    assert "torch multiplies by f32(1/S), others divide by S: -38.5000038, not -38.5" in "".join(found.reasons)
    assert "adds the zero point before it rounds" in "".join(gpuq.explain(0.25, 0.5, 1).reasons)


@pytest.mark.parametrize(
    ("arguments", "error", "argument"),
    [
        (("a", 1.0), TypeError, "x"),
        ((np.zeros(2, np.float32), 1.0), ValueError, "x"),
        ((1.0, 0.0), ValueError, "scale"),
        ((1.0, 1.0, 300), ValueError, "zero_point"),
        ((1.0, 1.0, np.int32(3)), TypeError, "dtype"),
    ],
)
def test_refusals(arguments: Any, error: type[Exception], argument: str) -> None:
    with pytest.raises(error) as caught:
        gpuq.explain(*arguments)
    assert_says(str(caught.value), argument, "", "")
