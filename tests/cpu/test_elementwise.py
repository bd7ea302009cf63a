"""The elementwise kernels, piece by piece, against plain Python; and what makes Numba compile one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import exact
import gpuq
from gpuq.arithmetic import BFLOAT16, FLOAT16, FLOAT32, HALF_EVEN
from gpuq.cpu import elementwise
from gpuq.dtypes import REAL, numpy_dtype
from gpuq.layout import Granularity, Runs, read_only
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
    elementwise.dequantize_kernel()(ones, y, parameters, grain.runs(shape), (np.int32(0), FLOAT32))
    owned = [int(numbers.reshape(parameter_shape)[owner(index, grain)]) for index in np.ndindex(shape)]
    assert y.tolist() == [(1 + number) * (number + 0.5) for number in owned]


def test_the_walk_stays_within_its_runs() -> None:
    y = np.full(10, -1.0)
    runs = Runs(outer=1, length=2, inner=3, group=1, outer_step=0, varying=False)
    parameters = read_only(np.array([1.0, 2.0])), read_only(np.zeros(2, np.int32))
    elementwise.dequantize_kernel()(read_only(np.ones(10, np.uint8)), y, parameters, runs, (np.int32(0), FLOAT32))
    assert y.tolist() == [1, 1, 1, 2, 2, 2, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("name", "code"), [("float32", FLOAT32), ("float64", FLOAT32), ("float16", FLOAT16), ("bfloat16", BFLOAT16)]
)
def test_finite_range(name: str, code: int) -> None:
    """Lowest and highest of 0 and the values that are finite as float32."""
    rng = np.random.default_rng(1)
    for length in (0, 1, 2, 5, 30):
        for _ in range(20):
            x = np.concatenate([real_values(rng, name, (length,), 0.1, "int8"), rng.permutation(special_values(name))])
            x = x[-length:] if length % 2 else x[:length]
            with np.errstate(invalid="ignore"):  # widening a signalling NaN
                numbers = [exact.convert(float(value), "float32") for value in x.astype(np.float64)]
            finite = [0.0, *(value for value in numbers if math.isfinite(value))]
            stored = read_only(x.view(REAL[name].storage))
            low, high = elementwise.finite_range(stored, code)
            assert (low, high) == (min(finite), max(finite))


def compiled() -> int:
    kernels = [
        elementwise.quantize_kernel(HALF_EVEN),
        elementwise.fake_quantize_kernel(HALF_EVEN),
        elementwise.dequantize_kernel(),
    ]
    return sum(len(kernel.signatures) for kernel in kernels)


def test_kernels_are_compiled_for_types_alone() -> None:
    """Layout, shape, granularity, writability, sign and parameter shapes change the arguments, not the machine code."""
    rng = np.random.default_rng(2)
    x, q = real_values(rng, "float32", (6, 5), 0.5, "int8"), codes(rng, "int8", (6, 5))
    gpuq.quantize_linear(x, 0.5, dtype="int8")
    gpuq.fake_quantize(x, 0.5, dtype="int8")
    gpuq.dequantize_linear(q, 0.5)
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
