"""CUDA's side of every elementwise operator: arrays and checked parameters in, kernels launched on contiguous memory.

An array that is not contiguous, or whose elements are not aligned, is copied first, a result for such an array copied
back, all on the device. Arrays in Fortran order are walked as the transposed arrays they are, without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.arithmetic import HALF_EVEN, HALF_UP
from gpuq.cuda import reduce
from gpuq.cuda.elementwise import Walk
from gpuq.cuda.geometry import BY_COLUMNS, ONE_BY_ONE, columns, geometry, launches, way_of
from gpuq.cuda.launch import Work
from gpuq.cuda.ptx import VECTOR_BYTES
from gpuq.cuda.quantizers import dequantize_walk, fake_quantize_walk, is_wide, quantize_walk
from gpuq.cuda.requantizers import MULTIPLIERS, requantize_walk
from gpuq.cuda.strided import contiguous, copy
from gpuq.cuda.tiles import BLOCKS_PER_MULTIPROCESSOR, MOST_ELEMENTS, QUAD, THREADS, TILE
from gpuq.cuda.vectors import Vector, vector
from gpuq.device_array import DeviceArray, address_of
from gpuq.division import reciprocal_of
from gpuq.dtypes import QUANTIZED, QuantizedType
from gpuq.layout import Granularity, Shape
from gpuq.quantizer import Quantizer
from gpuq.validate import Integers, Reals

Array = npt.NDArray[Any]
Given = tuple[Reals | Integers, Any]  # a parameter and the type its kernel takes it in
Vectors = Callable[[Shape, bool], list[Vector]]  # of parameters of a shape, whose axes are reversed or not


def quantize(work: Work, x: Array, x_type: str, q: Array, quantizer: Quantizer) -> None:
    """q = saturate(round(x / S) + z)."""
    size, rounding = q.dtype.itemsize, quantizer.rounding
    vectors, settings = _divisors(work, x_type, quantizer)

    def walk(uniform: bool) -> Walk:
        return quantize_walk(x_type, size, rounding, uniform)

    _walk(work, walk, x, q, quantizer.grain, vectors, settings)


def fake_quantize(work: Work, x: Array, x_type: str, y: Array, quantizer: Quantizer) -> None:
    """y = S·(saturate(round(x / S) + z) − z) in x's type."""
    size, rounding = quantizer.kind.storage.itemsize, quantizer.rounding
    vectors, settings = _divisors(work, x_type, quantizer)

    def walk(uniform: bool) -> Walk:
        return fake_quantize_walk(x_type, size, rounding, uniform)

    _walk(work, walk, x, y, quantizer.grain, vectors, settings)


def dequantize(
    work: Work,
    q: Array,
    kind: QuantizedType,
    y: Array,
    y_type: str,
    scale: Reals,
    zero_point: Integers,
    grain: Granularity,
) -> None:
    """y = S·(q − z), rounded to y's type."""
    size = q.dtype.itemsize
    sign = 1 << (8 * size - 1) if kind.signed else 0
    vectors = _vectors(work, [(scale, np.float32), (zero_point, np.int64 if size == 4 else np.int32)])

    def walk(uniform: bool) -> Walk:
        return dequantize_walk(size, y_type, uniform)

    _walk(work, walk, q, y, grain, vectors, (sign,))


def requantize(
    work: Work,
    accumulator: Array,
    q: Array,
    kind: QuantizedType,
    lowest: int,
    parameters: tuple[Reals | Integers, ...],
    grain: Granularity,
    mode: str,
    activation: int,
) -> None:
    """q from int32 accumulators; parameters: multiplier, shift, bias, zero point, y_scale."""
    types = (str(MULTIPLIERS[mode]), np.int32, np.int32, np.int32, np.float32)
    vectors = _vectors(work, list(zip(parameters, types, strict=True)))
    size = q.dtype.itemsize

    def walk(uniform: bool) -> Walk:
        return requantize_walk(mode, size, uniform)

    _walk(work, walk, accumulator, q, grain, vectors, (lowest, kind.qmax, activation))


def dynamic_quantize(work: Work, x: Array, x_type: str, y: Array, scale: Array, zero_point: Array) -> None:
    """ONNX's DynamicQuantizeLinear: uint8 codes, and the scale (float32) and zero point (uint8), each of shape (), of
    x's range.
    """
    given = work.input(x)
    source = given if given.flags.f_contiguous and given.flags.aligned else contiguous(work, given)
    state = work.empty(reduce.STATE_BYTES, np.uint8)
    work.fill(state)
    most = work.device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR
    counts = [min(MOST_ELEMENTS, source.size - first) for first in range(0, source.size, MOST_ELEMENTS)] or [0]
    grids = [max(1, min(-(-count // TILE), most)) for count in counts]
    results = work.result(scale), work.result(zero_point)
    for i, (count, blocks) in enumerate(zip(counts, grids, strict=True)):
        address = address_of(source) + i * MOST_ELEMENTS * source.dtype.itemsize
        work.launch(reduce.range_kernel(x_type), blocks, address, count, state, *results, sum(grids))
    base, uint8 = address_of(state) + reduce.PARAMETERS, QUANTIZED["uint8"]
    vectors = [Vector(base, 0, 0.0), Vector(base + 4, 0, 0.0), Vector(base + 8, 0, 0)]
    walk, settings = quantize_walk(x_type, 1, HALF_EVEN, False), (float(uint8.qmin), float(uint8.qmax), HALF_EVEN)
    _walk(work, lambda uniform: walk, source, y, Granularity("tensor"), lambda *_: vectors, settings)


def _vectors(work: Work, given: list[Given]) -> Vectors:
    def make(shape: Shape, reversed_axes: bool) -> list[Vector]:
        return [
            vector(work, values.T if reversed_axes and isinstance(values, np.ndarray) else values, kind, shape)
            for values, kind in given
        ]

    return make


def _divisors(work: Work, x_type: str, quantizer: Quantizer) -> tuple[Vectors, tuple[Any, ...]]:
    """The vectors (scale, reciprocal, zero point) and the settings of a kernel that quantizes."""
    wide = is_wide(x_type, quantizer.kind.storage.itemsize)
    plain = quantizer.rounding > HALF_UP  # torch's formulas multiply by 1 / S itself
    given = _vectors(work, [(quantizer.scale, np.float32), (quantizer.zero_point, np.int64 if wide else np.int32)])

    def make(shape: Shape, reversed_axes: bool) -> list[Vector]:
        scale, zero_point = given(shape, reversed_axes)
        return [scale, _reciprocals(work, scale, math.prod(shape), plain), zero_point]

    return make, (float(quantizer.lowest), float(quantizer.kind.qmax), quantizer.rounding)


def _reciprocals(work: Work, scale: Vector, count: int, plain: bool) -> Vector:
    """The vector of the reciprocals of scales, one for each."""
    if scale.address == 0:
        with np.errstate(over="ignore"):
            number = np.float32(scale.value)
            return Vector(0, 0, float(np.float32(1) / number if plain else reciprocal_of(number)))
    size = count if scale.step else 1
    results = Vector(address_of(work.empty(size, np.float32)), scale.step, 0.0)
    for first in range(0, size, MOST_ELEMENTS):
        part, given, target = min(MOST_ELEMENTS, size - first), scale.advanced(first), results.advanced(first)
        blocks = -(-part // THREADS)
        work.launch(reduce.reciprocal_kernel(), blocks, given.address, target.address, part, int(plain))
    return results


def _walk(
    work: Work,
    walk_of: Callable[[bool], Walk],
    source: Array,
    target: Array,
    grain: Granularity,
    vectors: Vectors,
    settings: tuple[Any, ...],
) -> None:
    """Launch the walk that `walk_of(uniform)` gives."""
    x, y = work.input(source), work.result(target)
    if x.size == 0:
        return
    reverse = x.flags.f_contiguous and not x.flags.c_contiguous
    if reverse:
        grain, x, y = grain.transposed(x.ndim), x.T, y.T
    x, staged = contiguous(work, x), _staged(work, y)
    found = vectors(grain.parameter_shape(x.shape), reverse)
    chosen = walk_of(all(each.address == 0 for each in found))
    for element, parameter, runs in launches(grain.runs(x.shape)):
        addresses = [address_of(array) + element * array.dtype.itemsize for array in (x, staged)]
        aligned = all(address % VECTOR_BYTES == 0 for address in addresses) and parameter % QUAD == 0
        way = way_of(runs) if aligned else ONE_BY_ONE
        known, count = columns(runs) if way == BY_COLUMNS else (geometry(runs), math.prod(runs[:3]))
        blocks = -(-count // (THREADS if way == BY_COLUMNS else TILE))
        parameters = chosen.parameters(known, [each.advanced(parameter) for each in found])
        work.launch(chosen.kernel, blocks, *addresses, count, way, parameters, settings)
    if staged is not y:
        copy(work, staged, y)


def _staged(work: Work, y: DeviceArray) -> DeviceArray:
    """Where kernels write: the result itself, or memory in C order in its place."""
    return y if y.flags.c_contiguous and y.flags.aligned else work.empty(y.shape, y.dtype)
