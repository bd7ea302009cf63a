"""What is remembered between calls is never taken for another call: the same shapes and numbers with something else
changed, in every order, give what a first call gives.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

import gpuq
from compare import assert_same
from gpuq import dispatch, environment, reference
from gpuq.cpu.isa import available
from gpuq.remembered import remembered
from refusals import GARBAGE, assert_refused
from valid_calls import SHAPE, call, valid_arguments

X = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
VARIANTS: list[dict[str, Any]] = [
    {"x": x, **options}
    for x in (X, X.astype(np.float64), X.astype(np.float16), X.astype(">f4"), X.T.copy().T, X[::-1, ::2])
    for options in (
        {},
        {"dtype": "int8"},
        {"dtype": np.int8, "narrow_range": True},
        {"dtype": "int32"},
        {"rounding": "half_away"},
        {"rounding": "torch"},
        {"zero_point": np.int8(3)},
        {"zero_point": np.uint16(3)},
        {"zero_point": 3},
        {"scale": 0.25},
        {"scale": np.float64([[0.25]])},
    )
]


@pytest.mark.parametrize("operator", ["quantize_linear", "fake_quantize"])
def test_calls_that_differ_in_one_thing(operator: str) -> None:
    for variants in (VARIANTS, VARIANTS[::-1]):
        for variant in variants:
            given = {"scale": 0.5, "zero_point": None, **variant}
            assert_same(getattr(gpuq, operator)(**given), getattr(reference, operator)(**given), repr(variant))


def test_codes_of_the_same_bits_and_other_types() -> None:
    bits = np.arange(16, dtype=np.uint8).reshape(4, 4) * 17
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
        for real in ("float32", np.float32, np.float64, np.float16, np.dtype("float64")):
            q = bits.view(kind)
            assert_same(gpuq.dequantize_linear(q, 0.5, dtype=real), reference.dequantize_linear(q, 0.5, dtype=real))


@pytest.mark.parametrize(("accepted", "refused"), [(True, 1), (False, 0), (False, 0.0), (True, "True")])
def test_what_is_equal_to_an_accepted_flag_is_refused_after_it_too(accepted: bool, refused: object) -> None:
    """1 == True, and both have one hash: a dictionary takes the one for the other."""
    for operator in ("quantize_linear", "fake_quantize", "requantize", "qlinear_matmul"):
        call(operator, narrow_range=accepted)
        assert_refused(operator, TypeError, "narrow_range", type(refused).__name__, "True", narrow_range=refused)
        call(operator, narrow_range=accepted)


@pytest.mark.parametrize("unhashable", [["half_even"], {"half_even": 1}, np.zeros(2)])
def test_options_that_are_no_keys_are_refused_in_words(unhashable: object) -> None:
    kind = type(unhashable).__name__
    for operator in ("quantize_linear", "qlinear_matmul"):
        assert_refused(operator, TypeError, "rounding", kind, "half_even", rounding=unhashable)
    assert_refused("requantize", TypeError, "mode", kind, "fixed_point", mode=unhashable)
    assert_refused("scaled_matmul", TypeError, "activation", kind, "relu", activation=unhashable)


def test_refusals_are_not_remembered() -> None:
    for _ in range(3):
        assert_refused("quantize_linear", ValueError, "rounding", "'up'", "half_up", rounding="up")
        assert_refused("dequantize_linear", TypeError, "dtype", "'int8'", "float32", dtype="int8", out=None)


def test_an_error_inside_a_plan_is_raised_once_and_alone() -> None:
    with pytest.raises(TypeError) as caught:
        call("quantize_linear", rounding=["half_even"])
    assert caught.value.__context__ is None


def test_remembered_tells_types_apart_and_takes_what_is_no_key() -> None:
    seen: list[object] = []

    @remembered
    def note(value: object) -> str:
        seen.append(value)
        return repr(value)

    values: list[object] = [1, True, 1.0, "1", [1], [1]]
    assert [note(value) for value in [*values, *values]] == [repr(value) for value in [*values, *values]]
    assert seen == [1, True, 1.0, "1", [1], [1], [1], [1]]


class Tagged(np.ndarray[Any, np.dtype[Any]]):
    """A subclass that NumPy's functions keep."""


def test_an_array_subclass_after_an_array() -> None:
    plain = valid_arguments("quantize_linear")["x"]
    expected = call("quantize_linear")
    for x in (plain, plain.view(Tagged), plain, plain.view(np.matrix)):
        result = call("quantize_linear", x=x)
        assert type(result) is np.ndarray
        assert_same(result, expected)
    with pytest.raises(TypeError, match="x: got an object of type MaskedArray"):
        call("quantize_linear", x=np.ma.masked_array(plain, plain > 0))


def test_out_of_another_layout_each_time() -> None:
    expected = call("quantize_linear")
    memory = np.full((6, 8), GARBAGE, np.uint8)
    for out in (
        np.empty(SHAPE, np.uint8),
        np.empty(SHAPE, np.uint8, order="F"),
        memory[::2, ::2],
        memory[2::-1, 3::-1],
        np.empty(SHAPE, np.uint8).view(Tagged),
    ):
        assert call("quantize_linear", out=out) is out
        assert_same(np.asarray(out), expected)
        assert_refused("quantize_linear", ValueError, "out", "shape (3,)", "(3, 4)", out=np.zeros(3, np.uint8))


@pytest.mark.parametrize("out", [np.uint8(0), np.float32(0), 0, [0]], ids=repr)
def test_a_scalar_is_no_output(out: object) -> None:
    """NumPy gives a scalar's value as a new array: the result would have gone there, and been lost."""
    with pytest.raises(TypeError, match="out: got an object of type"):
        gpuq.quantize_linear(np.float32(2), 0.5, out=out)
    with pytest.raises(TypeError, match="out: got an object of type"):
        gpuq.fake_quantize(np.float32(2), 0.5, out=out)


def test_products_of_the_same_shapes() -> None:
    rng = np.random.default_rng(3)
    codes = {kind: rng.integers(0, 100, (4, 4)).astype(kind) for kind in ("uint8", "int8")}
    for a in codes.values():
        for b in codes.values():
            for a_point, b_point in ((None, None), (3, None), (0, 4), ([1, 2, 3, 4], 5), (np.array(7, a.dtype), 0)):
                expected = reference.matmul_integer(a, b, _as(a_point, a), _as(b_point, b))
                assert_same(gpuq.matmul_integer(a, b, a_point, b_point), expected)
                if b_point is None or isinstance(b_point, int):
                    packed = gpuq.prepack(b, zero_point=b_point)
                    assert_same(gpuq.matmul_integer(a, packed, a_point), expected)


def _as(point: Any, operand: npt.NDArray[Any]) -> Any:
    return None if point is None else np.asarray(point).astype(operand.dtype)


def test_a_bias_of_negative_zero_after_one_of_zero() -> None:
    """They are equal, and give other bits: −0 + −0 is −0, −0 + 0 is 0."""
    a, b = np.int8([[-1]]), np.int8([[1]])
    tiny = 2.0**-126
    for bias in (0.0, -0.0, None, -0.0):
        expected = reference.scaled_matmul(a - a, b, tiny, 1.0, bias=bias)
        assert_same(gpuq.scaled_matmul(a - a, b, tiny, 1.0, bias=bias), expected)
        assert_same(gpuq.scaled_matmul(a, b, tiny, 1.0, bias=bias), reference.scaled_matmul(a, b, tiny, 1.0, bias=bias))


@pytest.mark.parametrize("scale", [2.0**-149, 2.0**-150 * 1.0001, 3.4028235e38, 3.4028235677973362e38])
def test_scales_that_round_to_the_ends_of_float32(scale: float) -> None:
    for given in (scale, np.float64(scale), [scale], np.float64([[scale]])):
        assert_same(gpuq.dequantize_linear(np.int8([1, 2]), given), reference.dequantize_linear(np.int8([1, 2]), scale))


@pytest.mark.parametrize("scale", [2.0**-150, 3.4028235677973366e38, 1e300, 0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_round_beyond_float32(scale: float) -> None:
    for given in (scale, np.float64(scale), [scale], np.float64([[scale]])):
        assert_refused("quantize_linear", ValueError, "scale", "(as float32)", "finite scales above 0", scale=given)


# ---- the environment ----


def test_a_changed_environment_counts_at_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*available(), *reversed(available())):
        monkeypatch.setenv("GPUQ_ISA", name)
        call("matmul_integer")
        assert gpuq.last_path().isa == name
        os.environ["GPUQ_ISA"] = "altivec"
        with pytest.raises(gpuq.DeviceError, match="altivec"):
            call("matmul_integer")
        del os.environ["GPUQ_ISA"]
        call("matmul_integer")
        assert gpuq.last_path().isa == available()[0]


@pytest.mark.parametrize("name", environment.NAMES)
def test_reading_is_that_of_os_environ(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "0", "cpu", "ä", "a=b"):
        monkeypatch.setenv(name, value)
        assert environment.read(name) == os.environ.get(name) == value
    monkeypatch.delenv(name)
    assert environment.read(name) is None


class Environment(dict[str, str]):
    """Somebody's own environment, with an attribute that os.environ has too."""

    _data: Mapping[Any, Any] = {}


@pytest.mark.parametrize("kind", [dict, Environment])
def test_an_environment_put_in_the_place_of_the_other(kind: Callable[..., Any]) -> None:
    with mock.patch("os.environ", kind({"GPUQ_ISA": "portable"})):
        assert environment.read("GPUQ_ISA") == "portable"
        assert environment.read("GPUQ_DEVICE") is None
        assert environment.choices() == (None, "portable")
        assert dispatch.instruction_set() == "portable"


def test_the_environment_without_the_dictionary_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_STORED", False)
    monkeypatch.setenv("GPUQ_ISA", "portable")
    monkeypatch.delenv("GPUQ_DEVICE", raising=False)
    assert environment.choices() == (None, "portable")
    assert dispatch.instruction_set() == "portable"


# ---- threads ----


def test_many_threads_with_calls_of_many_kinds() -> None:
    """Every thread meets plans that another is just making."""
    expected = [reference.quantize_linear(**{"scale": 0.5, "zero_point": None, **variant}) for variant in VARIANTS]
    failed: list[BaseException] = []
    begin = threading.Barrier(8)

    def work(seed: int) -> None:
        try:
            begin.wait()
            for index in np.random.default_rng(seed).permutation(len(VARIANTS)):
                given = {"scale": 0.5, "zero_point": None, **VARIANTS[index]}
                assert_same(gpuq.quantize_linear(**given), expected[index])
                assert gpuq.last_path().kernel == "quantize_linear"
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed, failed[0]
