"""Quantizing and dequantizing against the reference, bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, strategies

from compare import assert_same
from gpuq import reference
from gpuq.dtypes import QUANTIZED, REAL, numpy_dtype
from layouts import INPUT_LAYOUTS, PLACES
from runner import Runner
from shapes import BLOCKED, ELEMENTWISE, GRANULARITIES_FEW, LAID_OUT, PER_AXIS
from values import codes, real_values, scales, special_values

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
ROUNDINGS = ("half_even", "half_away", "half_up", "torch")
QUANTIZERS = ("quantize_linear", "fake_quantize")
SMALLEST, LARGEST = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)


def parameter_shape(shape: Shape, axis: int | None, block_size: int) -> Shape:
    """The shape of a scale: () per tensor, (length,) per axis, x's with shorter `axis` per block."""
    if axis is None:
        return ()
    if not block_size:
        return (shape[axis],)
    return tuple(math.ceil(length / block_size) if i == axis % len(shape) else length for i, length in enumerate(shape))


def parameter_pairs(shape: Shape) -> list[tuple[Shape, Shape]]:
    """The shapes that a scale and a zero point may have: that of the granularity, or one element of any shape."""
    return [(shape, shape), (shape, ()), ((), shape), ((1,), shape), (shape, (1, 1))]


def where(axis: int | None, block_size: int) -> dict[str, int]:
    return {} if axis is None else {"axis": axis, "block_size": block_size}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_type_and_rounding(run: Runner, name: str, kind: str, real: str, rounding: str) -> None:
    """Every granularity with every mix of parameter shapes, narrow and full range in turn."""
    rng = np.random.default_rng(1)
    turn = QUANTIZERS.index(name) + list(QUANTIZED).index(kind) + list(REAL).index(real) + ROUNDINGS.index(rounding)
    for shape, axis, block_size in GRANULARITIES_FEW:
        pairs = parameter_pairs(parameter_shape(shape, axis, block_size))
        for step, (scale_shape, point_shape) in run.part(enumerate(pairs), turn + len(shape) + block_size, 3):
            narrow = step % 2 == 1
            scale, zero_point = scales(rng, scale_shape), codes(rng, kind, point_shape, narrow)
            x = real_values(rng, real, shape, float(scale.flat[0]), kind)
            options = {**where(axis, block_size), "narrow_range": narrow, "rounding": rounding}
            run.check(name, x, scale, zero_point, what=f"{shape} {scale_shape} {point_shape} {options}", **options)


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("kind", QUANTIZED)
def test_dequantize_every_type(run: Runner, kind: str, real: str) -> None:
    rng = np.random.default_rng(2)
    turn = list(QUANTIZED).index(kind) + list(REAL).index(real)
    for shape, axis, block_size in GRANULARITIES_FEW:
        pairs = parameter_pairs(parameter_shape(shape, axis, block_size))
        for scale_shape, point_shape in run.part(pairs, turn + len(shape) + block_size, 3):
            q, zero_point = codes(rng, kind, shape), codes(rng, kind, point_shape)
            run.check(
                "dequantize_linear", q, scales(rng, scale_shape), zero_point, dtype=real, **where(axis, block_size)
            )


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
def test_dequantize_every_code_with_every_scale(run: Runner, kind: str, real: str) -> None:
    q = np.arange(QUANTIZED[kind].qmin, QUANTIZED[kind].qmax + 1).astype(numpy_dtype(kind))
    for scale in (SMALLEST, 2.0**-126, 1e-7, 0.1, 1.0, 300.0, 2.0**120, LARGEST):
        for zero_point in (q[0], q[len(q) // 3], q[-1]):
            run.check("dequantize_linear", q, scale, zero_point, dtype=real, what=f"{scale} {zero_point}")


def values_for(rng: np.random.Generator, name: str, shape: Shape) -> Array:
    """Input of an operator: codes to dequantize, else float32 numbers to quantize to int8."""
    if name == "dequantize_linear":
        return codes(rng, "int8", shape)
    return real_values(rng, "float32", shape, 0.5, "int8")


@pytest.mark.parametrize("name", [*QUANTIZERS, "dequantize_linear"])
def test_every_shape(run: Runner, name: str) -> None:
    rng = np.random.default_rng(3)
    for shape in ELEMENTWISE:
        run.check(name, values_for(rng, name, shape), 0.5, np.int8(-3), what=str(shape))


@pytest.mark.parametrize("name", [*QUANTIZERS, "dequantize_linear"])
def test_every_axis(run: Runner, name: str) -> None:
    rng = np.random.default_rng(5)
    for shape, axis in PER_AXIS:
        scale, zero_point = scales(rng, (shape[axis],)), codes(rng, "int8", (shape[axis],))
        run.check(name, values_for(rng, name, shape), scale, zero_point, axis=axis, what=f"{shape}, axis {axis}")


@pytest.mark.parametrize("name", [*QUANTIZERS, "dequantize_linear"])
def test_every_block(run: Runner, name: str) -> None:
    rng = np.random.default_rng(6)
    for shape, axis, block_size in BLOCKED:
        expected = parameter_shape(shape, axis, block_size)
        x, scale, zero_point = values_for(rng, name, shape), scales(rng, expected), codes(rng, "int8", expected)
        run.check(name, x, scale, zero_point, axis=axis, block_size=block_size, what=f"{shape} {axis} {block_size}")


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_layouts_of_x(run: Runner, name: str, real: str, layout: str) -> None:
    rng = np.random.default_rng(7)
    for shape in LAID_OUT:
        x = INPUT_LAYOUTS[layout](real_values(rng, real, shape, 0.5, "int8"))
        before = x.copy()
        run.check(name, x, 0.5, np.int8(3), what=f"{shape}")
        for axis in range(len(shape)):
            parameters = scales(rng, (shape[axis],)), codes(rng, "int8", (shape[axis],))
            run.check(name, x, *parameters, axis=axis, what=f"{shape}, axis {axis}")
            blocked = parameter_shape(shape, axis, 2)
            parameters = scales(rng, blocked), codes(rng, "int8", blocked)
            run.check(name, x, *parameters, axis=axis, block_size=2, what=f"{shape}, blocks along {axis}")
        assert_same(x, before, "x changed")


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("kind", QUANTIZED)
def test_layouts_of_q(run: Runner, kind: str, layout: str) -> None:
    rng = np.random.default_rng(8)
    for shape in LAID_OUT:
        q = INPUT_LAYOUTS[layout](codes(rng, kind, shape))
        before = q.copy()
        run.check("dequantize_linear", q, 0.1, codes(rng, kind, ()), what=f"{shape}")
        for axis in range(len(shape)):
            scale, zero_point = scales(rng, (shape[axis],)), codes(rng, kind, (shape[axis],))
            run.check("dequantize_linear", q, scale, zero_point, axis=axis, what=f"{shape}, axis {axis}")
        assert_same(q, before, "q changed")


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
def test_layouts_of_parameters(run: Runner, layout: str) -> None:
    rng = np.random.default_rng(9)
    x = real_values(rng, "float32", (3, 7, 4), 0.5, "int16")
    for shape, axis, block_size in (((7,), 1, 0), ((3, 4, 4), 1, 2)):
        scale = INPUT_LAYOUTS[layout](scales(rng, shape))
        zero_point = INPUT_LAYOUTS[layout](codes(rng, "int16", shape))
        for name in QUANTIZERS:
            run.check(name, x, scale, zero_point, axis=axis, block_size=block_size)


@pytest.mark.parametrize("place", PLACES)
def test_out(run: Runner, place: str) -> None:
    """Every type of result, into every layout of memory full of garbage."""
    rng = np.random.default_rng(10)
    for shape in LAID_OUT:
        axis = len(shape) - 1
        scale, what = (scales(rng, (shape[axis],)), f"{shape}") if shape else (0.5, "()")
        for kind in QUANTIZED:
            x, q = real_values(rng, "float32", shape, 0.5, kind), codes(rng, kind, shape)
            zero_point = codes(rng, kind, ())
            run.check_into(PLACES[place], "quantize_linear", x, scale, zero_point, axis=axis, what=f"{what} {kind}")
            for real in REAL:
                options = {"axis": axis, "dtype": real, "what": f"{what} {kind} {real}"}
                run.check_into(PLACES[place], "dequantize_linear", q, scale, zero_point, **options)
        for real in REAL:
            x = real_values(rng, real, shape, 0.5, "int8")
            run.check_into(PLACES[place], "fake_quantize", x, scale, axis=axis, what=f"{what} {real}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_layouts_of_x_and_out_together(run: Runner, name: str, place: str) -> None:
    rng = np.random.default_rng(11)
    for layout in INPUT_LAYOUTS.values():
        x = layout(real_values(rng, "float32", (3, 4, 5), 0.5, "int8"))
        parameters = scales(rng, (4,)), codes(rng, "int8", (4,))
        run.check_into(PLACES[place], name, x, *parameters, axis=1, what=f"{layout}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("real", REAL)
def test_fake_quantize_in_place(run: Runner, real: str, place: str) -> None:
    rng = np.random.default_rng(12)
    for shape in LAID_OUT:
        for rounding in ROUNDINGS:
            memory, x = PLACES[place](shape, numpy_dtype(real))
            garbage, before = x.copy(), memory.copy()
            x[...] = values = real_values(rng, real, shape, 0.1, "int8")
            expected = reference.fake_quantize(values, 0.1, 3, dtype="int8", rounding=rounding)
            assert run("fake_quantize", x, 0.1, 3, dtype="int8", rounding=rounding, out=x) is x
            assert_same(x, expected, f"{shape} {rounding}")
            x[...] = garbage
            assert_same(memory, before, "the memory around x")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("real", REAL)
def test_special_values(run: Runner, real: str, rounding: str) -> None:
    """NaN gives the zero point, infinities saturate, both zeros give the zero point: in every mode and type.

    torch adds the zero point as a float32, which moves the code of 0.0 where a 32-bit zero point is no float32 number.
    """
    x = np.array([np.nan, -np.inf, np.inf, 0.0, -0.0]).astype(numpy_dtype(real))
    for kind, quantized in QUANTIZED.items():
        for narrow in (False, True):
            low, high = quantized.lowest(narrow), quantized.qmax
            for zero_point in (low, low + 3, high):
                options = {"dtype": kind, "narrow_range": narrow, "rounding": rounding}
                q = run("quantize_linear", x, 0.25, zero_point, **options)
                zero = min(max(int(np.float32(zero_point)), low), high) if rounding == "torch" else zero_point
                assert q.astype(np.int64).tolist() == [zero_point, low, high, zero, zero]
                y = run("fake_quantize", x, 0.25, zero_point, **options).astype(np.float64)
                assert y[[0, 3, 4]].tolist() == [0, 0, 0]
                assert not np.signbit(y[[0, 3, 4]]).any()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("real", REAL)
def test_extreme_scales(run: Runner, real: str, rounding: str) -> None:
    """Scales whose inverse, quotients or products overflow and underflow."""
    rng = np.random.default_rng(13)
    for scale in (SMALLEST, 3 * SMALLEST, 1.1754942e-38, 2.0**-126, 2.0**-120, 1e30, 2.0**127, LARGEST):
        special = special_values(real)
        with np.errstate(over="ignore"):
            scaled = (rng.normal(size=40) * 60 * float(np.float32(scale))).astype(special.dtype)
        x = np.concatenate([special, scaled, real_values(rng, real, (60,), scale, "int8")])
        for kind in ("int8", "uint16", "int32"):
            for name in QUANTIZERS:
                point = codes(rng, kind, ())
                run.check(name, x, scale, point, rounding=rounding, what=f"{name} {scale} {kind} {point}")


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_32_bit_codes_near_their_ends(run: Runner, rounding: str) -> None:
    """Where float32 has no fractions left, and where code and zero point are 2^32 apart."""
    ends = np.array([0, 2**23, 2**24, 2**30, 2**31, 2**32, 2**33], np.float64)
    x = np.concatenate([sign * ends + step for sign in (1, -1) for step in (-1.5, -1, -0.5, 0, 0.5, 1, 1.5)])
    for kind in ("int32", "uint32"):
        low, high = QUANTIZED[kind].qmin, QUANTIZED[kind].qmax
        for zero_point in (low, low + 1, 2**30 + 1, high - 1, high):
            for real in ("float32", "float64"):
                for name in QUANTIZERS:
                    options = {"dtype": kind, "rounding": rounding}
                    run.check(name, x.astype(real), 1.0, zero_point, what=f"{kind} {real} {zero_point}", **options)


def test_kinds_of_parameters(run: Runner) -> None:
    """Scales of every real type, numbers and lists; zero points as ints, lists, NumPy scalars and arrays."""
    rng = np.random.default_rng(14)
    x = real_values(rng, "float32", (5, 4), 0.3, "int8")
    values = np.array([0.3, 0.1, 2.5, 1e-4])
    for scale in (0.3, 2, np.float64(0.3), np.float16(0.3), np.array([[0.3]], np.float32), [0.3]):
        run.check("quantize_linear", x, scale, np.int8(1), what=repr(scale))
    for real in REAL:
        run.check("quantize_linear", x, values.astype(numpy_dtype(real)), np.int8(1), what=real)
    run.check("quantize_linear", x, values.tolist(), [1, -2, 3, -128], dtype="int8")
    for zero_point in (7, np.int8(7), np.array([7], np.int8), np.array([[[7]]], np.int8), [7]):
        run.check("quantize_linear", x, 0.3, zero_point, dtype="int8", what=repr(zero_point))
        run.check("dequantize_linear", codes(rng, "int8", (3, 4)), 0.3, zero_point, what=repr(zero_point))


def test_types_of_results(run: Runner) -> None:
    """`dtype` decides, else the zero point, else uint8; the zero point defaults to 0."""
    x = np.float32([-1, 0, 1, 300])
    assert_same(run("quantize_linear", x, 1.0), np.uint8([0, 0, 1, 255]))
    assert_same(run("quantize_linear", x, 1.0, 1), np.uint8([0, 1, 2, 255]))
    assert_same(run("quantize_linear", x, 1.0, np.int16(-1)), np.int16([-2, -1, 0, 299]))
    for dtype in ("int8", np.int8, np.dtype(np.int8)):
        assert_same(run("quantize_linear", x, 1.0, dtype=dtype), np.int8([-1, 0, 1, 127]))
    assert_same(run("fake_quantize", x, 1.0), np.float32([0, 0, 1, 255]))
    assert_same(run("fake_quantize", x, 1.0, dtype=numpy_dtype("int4")), np.float32([-1, 0, 1, 7]))
    assert_same(run("dequantize_linear", np.uint8([0, 255]), 0.5), np.float32([0, 127.5]))
    for dtype in (np.float64, "float64"):
        assert_same(run("dequantize_linear", np.uint8([255]), 0.5, dtype=dtype), np.float64([127.5]))


def test_numpy_scalars(run: Runner) -> None:
    assert_same(run("quantize_linear", np.float32(2.5), 1.0), np.array(2, np.uint8))
    assert_same(run("dequantize_linear", np.int8(-3), 0.5), np.array(-1.5, np.float32))
    assert_same(run("fake_quantize", np.float64(2.4), 1.0), np.array(2.0))
    run.check("dynamic_quantize_linear", np.float32(2.5))


def test_zero_point_equal_to_the_dropped_code(run: Runner) -> None:
    for name in QUANTIZERS:
        for kind, quantized in QUANTIZED.items():
            zero_point = np.array(quantized.qmin).astype(numpy_dtype(kind))
            with pytest.raises(ValueError, match="zero_point"):
                run(name, np.float32([1]), 1.0, zero_point, narrow_range=True)


@pytest.mark.parametrize("real", REAL)
def test_dynamic_quantize_every_shape(run: Runner, real: str) -> None:
    rng = np.random.default_rng(15)
    for shape in ELEMENTWISE:
        with np.errstate(over="ignore"):
            run.check("dynamic_quantize_linear", rng.normal(1, 3, shape).astype(numpy_dtype(real)), what=str(shape))


DYNAMIC_RANGES = {
    "all zero": [0.0, -0.0, 0.0],
    "one NaN": [math.nan],
    "no finite value": [math.nan, math.inf, -math.inf],
    "finite beside others": [1.0, math.nan, -2.0, math.inf, -math.inf],
    "above 0": [1.0, 2.0, 3.0],
    "below 0": [-1.0, -2.0, -3.5],
    "ties": [-127.5, 0.5, 1.5, 2.5, 127.5],
    "smallest": [SMALLEST, -SMALLEST],
    "no normal scale": [1e-38, 0.0, 5e-39],
    "largest": [LARGEST, 1.0],
    "width overflows": [LARGEST, -LARGEST, 1e38],
    "width overflows on one side": [LARGEST, -1e37],
    "above float32": [1e300, 1.0, -3.0],
    "below float32": [1e-300, -1e-46],
}


@pytest.mark.parametrize("real", REAL)
@pytest.mark.parametrize("values", DYNAMIC_RANGES.values(), ids=DYNAMIC_RANGES.keys())
def test_dynamic_quantize_ranges(run: Runner, values: list[float], real: str) -> None:
    with np.errstate(over="ignore", under="ignore"):
        run.check("dynamic_quantize_linear", np.array(values).astype(numpy_dtype(real)))


@pytest.mark.parametrize("real", REAL)
def test_dynamic_quantize_special_values(run: Runner, real: str) -> None:
    rng = np.random.default_rng(16)
    for length in (1, 2, 3, 5, 8, 13, 40):
        for _ in range(10):
            run.check("dynamic_quantize_linear", real_values(rng, real, (length,), 0.1, "int8"))


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("real", REAL)
def test_dynamic_quantize_layouts(run: Runner, real: str, layout: str) -> None:
    rng = np.random.default_rng(17)
    for shape in LAID_OUT:
        x = INPUT_LAYOUTS[layout](rng.normal(1, 3, shape).astype(numpy_dtype(real)))
        before = x.copy()
        run.check("dynamic_quantize_linear", x, what=str(shape))
        assert_same(x, before, "x changed")


any_float32 = strategies.floats(width=32)
any_scale = strategies.floats(SMALLEST, LARGEST, width=32)


@given(data=strategies.data(), x=strategies.lists(any_float32, max_size=20), scale=any_scale)
def test_any_number_and_scale(run: Runner, data: strategies.DataObject, x: list[float], scale: float) -> None:
    kind = data.draw(strategies.sampled_from(sorted(QUANTIZED)))
    narrow = data.draw(strategies.booleans())
    zero_point = data.draw(strategies.integers(QUANTIZED[kind].lowest(narrow), QUANTIZED[kind].qmax))
    for rounding in ROUNDINGS:
        for name in QUANTIZERS:
            options = {"dtype": kind, "narrow_range": narrow, "rounding": rounding}
            run.check(name, np.array(x, np.float32), scale, zero_point, **options)


@given(scale=strategies.floats(2.0**-100, 2.0**100, width=32), zero_point=strategies.integers(-128, 127))
def test_every_code_survives_the_way_there_and_back(run: Runner, scale: float, zero_point: int) -> None:
    q = np.arange(-128, 128).astype(np.int8)
    real = run("dequantize_linear", q, scale, zero_point)
    assert_same(run("quantize_linear", real, scale, zero_point, dtype="int8"), q)
    assert_same(run("fake_quantize", real, scale, zero_point, dtype="int8"), real)
