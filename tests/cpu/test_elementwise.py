"""The elementwise kernels, piece by piece, against plain Python; and what makes Numba compile one."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import exact
import gpuq
from compare import assert_all_same, assert_same
from gpuq import reference
from gpuq.arithmetic import BFLOAT16, FLOAT16, FLOAT32, GRID32, HALF_EVEN
from gpuq.cpu import elementwise, operators
from gpuq.cpu.spread import ALONE
from gpuq.cpu.tiles import CHUNK
from gpuq.dtypes import REAL, numpy_dtype
from gpuq.layout import Granularity, Runs, read_only
from guarded import EDGES, empty, place
from layouts import INPUT_LAYOUTS
from shapes import BLOCKED, PER_AXIS
from values import codes, real_values, scales, special_values

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

# kernels are not called for empty arrays
GRAINS: list[tuple[Shape, Granularity]] = [
    *((shape, Granularity("tensor")) for shape in ((), (7,), (3, 5))),
    *((shape, Granularity("axis", axis)) for shape, axis in PER_AXIS if axis >= 0 and 0 not in shape),
    *(
        (shape, Granularity("block", axis % len(shape), block_size))
        for shape, axis, block_size in BLOCKED
        if 0 not in shape
    ),
]


def owner(index: Shape, grain: Granularity) -> Shape:
    """The index of an element's parameter."""
    if grain.kind == "tensor":
        return ()
    if grain.kind == "axis":
        return (index[grain.axis],)
    return tuple(i // grain.block_size if axis == grain.axis else i for axis, i in enumerate(index))


@pytest.mark.parametrize(("shape", "grain"), GRAINS)
def test_the_walk_gives_every_element_its_parameters(shape: Shape, grain: Granularity) -> None:
    """Dequantizing 1 with zero point -z and scale s gives (1 + z)·s: each parameter has its own s and z."""
    parameter_shape = grain.parameter_shape(shape)
    numbers = np.arange(math.prod(parameter_shape))
    parameters = read_only(numbers + 0.5), read_only(-numbers.astype(np.int32))
    y = np.full(math.prod(shape), np.nan)
    ones = read_only(np.ones(y.size, np.uint8))
    elementwise.dequantize_kernel()(*ALONE, 1, ones, y, False, parameters, grain.runs(shape), (np.int32(0), FLOAT32))
    owned = [int(numbers.reshape(parameter_shape)[owner(index, grain)]) for index in np.ndindex(shape)]
    assert y.tolist() == [(1 + number) * (number + 0.5) for number in owned]


def test_the_walk_stays_within_its_runs() -> None:
    y = np.full(10, -1.0)
    runs = Runs(outer=1, length=2, inner=3, group=1, outer_step=0, varying=False)
    parameters = read_only(np.array([1.0, 2.0])), read_only(np.zeros(2, np.int32))
    ones = read_only(np.ones(10, np.uint8))
    elementwise.dequantize_kernel()(*ALONE, 1, ones, y, False, parameters, runs, (np.int32(0), FLOAT32))
    assert y.tolist() == [1, 1, 1, 2, 2, 2, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("name", "code"), [("float32", FLOAT32), ("float64", FLOAT32), ("float16", FLOAT16), ("bfloat16", BFLOAT16)]
)
def test_finite_range(name: str, code: int) -> None:
    """Order keys of the lowest and highest of 0 and the values that are finite as float32."""
    rng = np.random.default_rng(1)
    for length in (0, 1, 2, 5, 30):
        for _ in range(20):
            x = np.concatenate([real_values(rng, name, (length,), 0.1, "int8"), rng.permutation(special_values(name))])
            x = x[-length:] if length % 2 else x[:length]
            with np.errstate(invalid="ignore"):  # widening a signalling NaN
                numbers = [exact.convert(float(value), "float32") for value in x.astype(np.float64)]
            finite = [0.0, *(value for value in numbers if math.isfinite(value))]
            stored = read_only(x.view(REAL[name].storage))
            keys = np.int32(elementwise.finite_range(stored, code))
            low, high = (keys ^ keys >> 31 & 0x7FFFFFFF).view(np.float32).tolist()
            assert (low, high) == (min(finite), max(finite))


def compiled() -> int:
    kernels = [
        elementwise.quantize_kernel(HALF_EVEN),
        elementwise.fake_quantize_kernel(HALF_EVEN),
        elementwise.dequantize_kernel(),
        elementwise.uniform_quantize_kernel(False, HALF_EVEN, False, False),
        elementwise.uniform_quantize_kernel(True, HALF_EVEN, False, False),
        elementwise.undivided_quantize_kernel(False),
        elementwise.undivided_quantize_kernel(True),
        elementwise.uniform_dequantize_kernel(False, False),
    ]
    return sum(len(kernel.signatures) for kernel in kernels)


def test_kernels_are_compiled_for_types_alone() -> None:
    """Layout, shape, granularity, writability, sign and parameter shapes change the arguments, not the machine code."""
    rng = np.random.default_rng(2)
    x, q = real_values(rng, "float32", (6, 5), 0.5, "int8"), codes(rng, "int8", (6, 5))
    for scale in (0.5, scales(rng, (5,))):  # one parameter for all, which has a kernel of its own, and several
        gpuq.quantize_linear(x, scale, dtype="int8")
        gpuq.fake_quantize(x, scale, dtype="int8")
        gpuq.dequantize_linear(q, scale)
    before = compiled()
    for layout in INPUT_LAYOUTS.values():
        for axis, block_size, shape in ((0, 0, (6,)), (1, 0, (5,)), (0, 4, (2, 5)), (1, 0, ())):
            for point_shape in (shape, ()):
                scale, point = layout(scales(rng, shape)), layout(codes(rng, "int8", point_shape))
                options = {"axis": axis, "block_size": block_size}
                gpuq.quantize_linear(layout(x), scale, point, **options)
                gpuq.fake_quantize(layout(x), scale, point, **options)
                gpuq.dequantize_linear(layout(q), scale, point, **options)
    gpuq.quantize_linear(x[0], 0.5, dtype="uint8")
    gpuq.quantize_linear(x, 0.5, dtype="uint4")
    gpuq.dequantize_linear(q.astype(numpy_dtype("int4")), 0.5)
    assert compiled() == before


# ---- results that go around the caches ----


@pytest.mark.parametrize("start", [0, 1, 7, 31])
@pytest.mark.parametrize("count", [1, CHUNK // 4 - 1, CHUNK // 4, CHUNK // 2 + 40])
def test_streamed_results_are_the_same(start: int, count: int) -> None:
    """Wherever the target begins and ends: what lies before and behind it stays."""
    q = read_only(codes(np.random.default_rng(count), "uint8", (count,)))
    arguments = ((read_only(np.float32([0.5])), read_only(np.int32([3]))), Granularity("tensor").runs((count,)))
    room = np.full(start + count + 16, -7.0, np.float32)
    elementwise.dequantize_kernel()(*ALONE, 1, q, room[start : start + count], True, *arguments, (np.int32(0), FLOAT32))
    assert room[start : start + count].tolist() == ((q.astype(int) - 3) * 0.5).tolist()
    assert set(room[:start]) | set(room[start + count :]) == {-7.0}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.skipif(sys.platform == "win32", reason="mprotect: Windows has none")
def test_streamed_results_stay_inside_their_array(edge: str) -> None:
    """Between pages that cannot be touched; a violation would end the process."""
    for count in (CHUNK, CHUNK + 1, 2 * CHUNK + 63):
        out = empty((count,), np.uint8, "row_major", edge)
        q = place(codes(np.random.default_rng(0), "uint8", (count,)), "row_major", edge)
        runs = Granularity("tensor").runs((count,))
        parameters = read_only(np.ones(1, np.float32)), read_only(np.zeros(1, np.float32))
        settings = (np.float32(0), np.float32(255), GRID32, FLOAT32, HALF_EVEN)
        x = place(q.astype(np.float32), "row_major", edge)
        elementwise.quantize_kernel(HALF_EVEN)(*ALONE, 1, read_only(x), out, True, parameters, runs, settings)
        assert (out == q).all()


def test_large_calls_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator and granularity, as if all calls were large."""
    monkeypatch.setattr(operators, "STREAMED", 0)
    rng = np.random.default_rng(7)
    x, q = rng.normal(0, 30, (3, 9000)).astype(np.float32), codes(rng, "int8", (3, 9000))
    for axis, block_size, shape in ((0, 0, ()), (0, 0, (3,)), (1, 0, (9000,)), (1, 8500, (3, 2)), (0, 2, (2, 9000))):
        given = scales(rng, shape), codes(rng, "int8", shape)
        options = {"axis": axis, "block_size": block_size}
        for name, array in (("quantize_linear", x), ("fake_quantize", x), ("dequantize_linear", q)):
            expected = getattr(reference, name)(array, *given, **options)
            assert_same(getattr(gpuq, name)(array, *given, **options), expected)
    accumulators = rng.integers(-9999, 9999, (3, 9000)).astype(np.int32)
    assert_same(gpuq.requantize(accumulators, 0.01, 3), reference.requantize(accumulators, 0.01, 3))
    assert_all_same(gpuq.dynamic_quantize_linear(x), reference.dynamic_quantize_linear(x))
