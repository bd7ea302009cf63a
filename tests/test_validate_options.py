"""Bad names, flags, types, biases and multipliers: each is refused in words, and nothing is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuq
from refusals import HUGE, INF, NAN, assert_refused, assert_says
from valid_calls import OPERATORS, call, valid_arguments

# ---- names and flags ----


@pytest.mark.parametrize(
    ("operator", "argument", "value", "accepted"),
    [
        *(
            (name, "rounding", value, "'torch'")
            for name in ("quantize_linear", "fake_quantize")
            for value in ("", "floor", None)
        ),
        *(("qlinear_matmul", "rounding", value, "'half_up'") for value in ("torch", "HALF_EVEN", None)),
        *(("scaled_matmul", "activation", value, "'silu'") for value in ("", "tanh", "None")),
        *(
            (name, "activation", value, "'relu6'")
            for name in ("qlinear_matmul", "requantize")
            for value in ("gelu", "silu")
        ),
        *(("requantize", "mode", value, "'fixed_point_half_up'") for value in ("", "double", None)),
        *(
            (name, "device", value, "'cuda:N'")
            for name in OPERATORS
            if name != "prepack"
            for value in ("", "gpu", "cuda:", "CPU")
        ),
        *(
            (name, "device", value, "'cpu'")
            for name in ("quantize_linear",)
            for value in ("cuda:-1", "cpu\n", "cuda:٣")
        ),
    ],
)
def test_an_unknown_name(operator: str, argument: str, value: object, accepted: str) -> None:
    assert_refused(operator, ValueError, argument, repr(value), accepted, **{argument: value})


@pytest.mark.parametrize("value", [3, True, ["relu"], b"relu", np.float32(1)], ids=repr)
@pytest.mark.parametrize(
    ("operator", "argument"),
    [
        ("quantize_linear", "rounding"),
        ("fake_quantize", "rounding"),
        ("qlinear_matmul", "rounding"),
        ("scaled_matmul", "activation"),
        ("qlinear_matmul", "activation"),
        ("requantize", "activation"),
        ("requantize", "mode"),
        ("quantize_linear", "device"),
        ("matmul_integer", "device"),
    ],
)
def test_a_name_that_is_no_string(operator: str, argument: str, value: object) -> None:
    assert_refused(operator, TypeError, argument, type(value).__name__, "'", **{argument: value})


@pytest.mark.parametrize("value", [1, 0, None, "True", 1.0], ids=repr)
@pytest.mark.parametrize("operator", ["quantize_linear", "fake_quantize", "qlinear_matmul", "requantize"])
def test_a_flag_is_a_bool(operator: str, value: object) -> None:
    assert_refused(operator, TypeError, "narrow_range", type(value).__name__, "True, False", narrow_range=value)


@pytest.mark.parametrize(
    ("operator", "accepted"),
    [
        ("quantize_linear", "int8"),
        ("fake_quantize", "int8"),
        ("dequantize_linear", "float64"),
        ("scaled_matmul", "bfloat16"),
        ("requantize", "uint16"),
    ],
)
@pytest.mark.parametrize("value", ["", "int64", "float8", int, 3, bool, "complex64", object, ["int8"], "i3"], ids=repr)
def test_an_unknown_dtype(operator: str, accepted: str, value: object) -> None:
    arguments = {**valid_arguments(operator), "dtype": value}
    with pytest.raises(TypeError) as caught:
        getattr(gpuq, operator)(**arguments)
    assert_says(str(caught.value), "dtype", repr(value), accepted)


@pytest.mark.parametrize(
    ("operator", "dtype"),
    [
        ("quantize_linear", "float32"),
        ("dequantize_linear", "int8"),
        ("dequantize_linear", None),
        ("requantize", "int32"),
        ("requantize", "int4"),
        ("requantize", None),
        ("scaled_matmul", "float64"),
        ("scaled_matmul", None),
    ],
)
def test_a_dtype_of_another_operator(operator: str, dtype: str | None) -> None:
    with pytest.raises(TypeError) as caught:
        call(operator, dtype=dtype)
    assert_says(str(caught.value), "dtype", repr(dtype), "")


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "prepack"])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_cpu_has_no_streams(operator: str, device: str | None) -> None:
    for value in (0, 7, object()):
        assert_refused(operator, ValueError, "stream", repr(value), "None on the CPU", stream=value, device=device)


# ---- bias, multipliers, activation ----


@pytest.mark.parametrize("operator", ["qlinear_matmul", "requantize"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1.5, TypeError),
        (True, TypeError),
        ("1", TypeError),
        ([1.5], TypeError),
        (np.int64(1), TypeError),
        (np.float32(1), TypeError),
        (np.uint32(1), TypeError),
        (2**31, ValueError),
        (-(2**31) - 1, ValueError),
        (HUGE, ValueError),
        ([0, 0, 0, 2**31], ValueError),
    ],
    ids=repr,
)
def test_an_integer_bias_is_int32(operator: str, value: Any, error: type[Exception]) -> None:
    came = str(np.ravel(np.array(value, object))[-1]) if error is ValueError else ""
    assert_refused(operator, error, "bias", came, "int32" if error is TypeError else "2147483647", bias=value)


@pytest.mark.parametrize("value", [True, "1", 1j, [True], ["1"], [None], np.int32(1), np.bool_(1)], ids=repr)
def test_the_bias_of_scaled_matmul_is_real(value: object) -> None:
    assert_refused("scaled_matmul", TypeError, "bias", "", "a float or an array of", bias=value)


@pytest.mark.parametrize("mode", ["float", "float64"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-0.5, ValueError),
        (NAN, ValueError),
        (INF, ValueError),
        (1e39, ValueError),
        (10**39, ValueError),
        ([1.0, 1.0, -1.0, 1.0], ValueError),
        (None, TypeError),
        ("1", TypeError),
        (True, TypeError),
        (np.int32(1), TypeError),
        (["1"], TypeError),
    ],
    ids=repr,
)
def test_a_bad_real_multiplier(mode: str, value: object, error: type[Exception]) -> None:
    assert_refused("requantize", error, "multiplier", "", "", multiplier=value, mode=mode)


@pytest.mark.parametrize("mode", ["fixed_point", "fixed_point_half_up"])
@pytest.mark.parametrize(
    ("value", "error", "argument"),
    [
        (0.5, TypeError, "multiplier"),
        (2**30, TypeError, "multiplier"),
        (None, TypeError, "multiplier"),
        (np.array([2**30, 0], np.int32), TypeError, "multiplier"),
        ((2**30,), TypeError, "multiplier"),
        ((2**30, 0, 0), TypeError, "multiplier"),
        ((0.5, 0), TypeError, "multiplier"),
        ((True, 0), TypeError, "multiplier"),
        ((np.int64(2**30), 0), TypeError, "multiplier"),
        ((2**30, 0.0), TypeError, "shift"),
        ((2**30, None), TypeError, "shift"),
        ((2**30, np.int8(0)), TypeError, "shift"),
        ((2**31, 0), ValueError, "multiplier"),
        ((-1, 0), ValueError, "multiplier"),
        ((HUGE, 0), ValueError, "multiplier"),
        ((2**30, 31), ValueError, "shift"),
        ((2**30, -32), ValueError, "shift"),
        ((2**30, HUGE), ValueError, "shift"),
    ],
    ids=repr,
)
def test_a_bad_fixed_point_multiplier(mode: str, value: object, error: type[Exception], argument: str) -> None:
    assert_refused("requantize", error, argument, "", "", multiplier=value, mode=mode)


def test_relu6_needs_the_scale_of_the_result() -> None:
    assert_refused("requantize", ValueError, "y_scale", "None", "'relu6'", activation="relu6")


# ---- choosing parameters ----


@pytest.mark.parametrize(
    ("rmin", "rmax", "error", "argument", "came"),
    [
        (NAN, 1.0, ValueError, "rmin", "nan"),
        (-1.0, NAN, ValueError, "rmax", "nan"),
        (-INF, 1.0, ValueError, "rmin", "-inf"),
        (-1.0, INF, ValueError, "rmax", "inf"),
        (1.0, -1.0, ValueError, "rmin", "1.0"),
        ([-1.0, 2.0], [1.0, 1.0], ValueError, "rmin", "2.0"),
        ([-1.0, -2.0], [1.0] * 3, ValueError, "rmax", "(3,)"),
        ("1", 1.0, TypeError, "rmin", "str"),
        (True, 1.0, TypeError, "rmin", "bool"),
        (-1.0, None, TypeError, "rmax", "None"),
        (np.int32(-1), 1.0, TypeError, "rmin", "int32"),
        (-1.0, ["1"], TypeError, "rmax", "'1'"),
        (-1.0, np.ma.masked_array([1.0]), TypeError, "rmax", "MaskedArray"),
    ],
)
def test_a_bad_range(rmin: object, rmax: object, error: type[Exception], argument: str, came: str) -> None:
    with pytest.raises(error) as caught:
        gpuq.choose_qparams(rmin, rmax)
    assert_says(str(caught.value), argument, came, "")


@pytest.mark.parametrize("flag", ["symmetric", "narrow_range"])
def test_flags_of_choose_qparams(flag: str) -> None:
    with pytest.raises(TypeError) as caught:
        gpuq.choose_qparams(-1.0, 1.0, **{flag: 1})
    assert_says(str(caught.value), flag, "int", "True, False")


@pytest.mark.parametrize("dtype", ["float32", None, "int64", 8])
def test_the_dtype_of_choose_qparams(dtype: object) -> None:
    with pytest.raises(TypeError) as caught:
        gpuq.choose_qparams(-1.0, 1.0, dtype)
    assert_says(str(caught.value), "dtype", repr(dtype), "int4")


@pytest.mark.parametrize(
    ("real", "error", "came"),
    [
        (-1.0, ValueError, "-1.0"),
        (NAN, ValueError, "nan"),
        (INF, ValueError, "inf"),
        (2**30, ValueError, "1073741824"),
        (np.nextafter(2.0**30, 0), ValueError, "1073741823.99"),
        ([0.5, -0.5], ValueError, "-0.5"),
        (HUGE, ValueError, "1e+30"),
        ("1", TypeError, "str"),
        (True, TypeError, "bool"),
        (None, TypeError, "None"),
        (np.int32(1), TypeError, "int32"),
        ([True], TypeError, "True"),
        (["0.5"], TypeError, "'0.5'"),
    ],
)
def test_a_bad_real_of_quantize_multiplier(real: object, error: type[Exception], came: str) -> None:
    with pytest.raises(error) as caught:
        gpuq.quantize_multiplier(real)
    assert_says(str(caught.value), "real", came, "")


def test_a_huge_number_is_not_printed_in_full() -> None:
    """10**400 is no float; 5000 digits are more than Python turns into text."""
    for value in (10**400, 10**5000):
        with pytest.raises((TypeError, ValueError)) as caught:
            call("quantize_linear", scale=value)
        assert_says(str(caught.value), "scale", "", "")
        assert len(str(caught.value)) < 300
