"""Elementwise kernels of the CPU: one loop over a contiguous array, parameters by runs (layout.py).

    x:  ├── run 0 ──┤├── run 1 ──┤ …      a run shares one parameter, or has a row of parameters beside it (`varying`)
    p:       p[0]         p[1]            p is gathered once per run; the inner loop is plain and vectorizes
    threads:  ├ piece ┤├ piece ┤ …        pieces of any elements, whichever run they lie in (spread.py)

The walk is written once; each operator is a pair of functions: `gather` takes one element's parameters out of the
arrays, `element` (elements.py) turns one stored value into another. Kernels begin with `control, workers, smallest`: a
crew, and the fewest elements worth a thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuq import elements
from gpuq.arithmetic import (
    GRID32,
    GRID64,
    HALF_EVEN,
    as_type_of,
    dynamic_scale,
    dynamic_zero_point,
    from_order_key,
    order_key,
    scalar,
    widen,
)
from gpuq.cpu import quantizing, requantizing
from gpuq.cpu.compile import jit
from gpuq.cpu.spread import spread
from gpuq.cpu.streaming import fence, make_chunk, make_run

RANGE_UNIT = 1 << 14  # elements whose range is found together, in the caches


def make_walk(gather: Callable[..., Any], element: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel of one operator: y[i] = element(x[i], gather(parameters, p, settings), settings, y's type).

    `streamed`: results go around the caches, where a run is long enough.
    """
    walk_part = _make_walk_part(gather, element)

    @jit
    def walk(
        control: int, workers: int, smallest: int, x: Any, y: Any, streamed: bool,
        parameters: Any, runs: Any, settings: Any,
    ) -> None:  # fmt: skip
        count = runs.outer * runs.length * runs.inner
        spread((control, workers), walk_part, (x, y, parameters, runs, settings, streamed), count, smallest)

    return walk


def _make_walk_part(gather: Callable[..., Any], element: Callable[..., Any]) -> Callable[..., Any]:
    """The walk over elements first … last − 1."""
    run = make_run(element)

    @jit
    def walk_part(arguments: Any, first: int, last: int) -> None:
        x, y, parameters, runs, settings, streamed = arguments
        storage, chunk = y.dtype.type, make_chunk(y, streamed)
        row, step = runs.length * runs.inner, runs.group * runs.inner
        outer = first // row
        group = (first - outer * row) // step
        position = first
        while position < last:
            start = outer * row + group * step
            end = min(start + step, (outer + 1) * row)
            stop = min(end, last)
            p = outer * runs.outer_step + group
            if runs.varying:
                while position < stop:
                    column = (position - start) % runs.inner
                    length = min(runs.inner - column, stop - position)
                    source, target = x[position : position + length], y[position : position + length]
                    for i in range(length):
                        own = gather(parameters, np.uint64(p * runs.inner + column + i), settings)
                        target[i] = element(source[i], own, settings, storage)
                    position += length
            else:
                own = gather(parameters, np.uint64(p), settings)
                run(x[position:stop], y[position:stop], own, settings, storage, chunk)
                position = stop
            outer, group = (outer + 1, 0) if end == (outer + 1) * row else (outer, group + 1)
        if streamed:
            fence()

    return walk_part


# Where all elements share their parameters, these come as numbers: two arrays and a few numbers are all that a call has
# to hand over, which is what counts for a small array.


def _make_over_all(element: Callable[..., Any]) -> Callable[..., Any]:
    """All elements of an array with the same parameters."""
    run = make_run(element)

    @jit
    def over_part(arguments: Any, first: int, last: int) -> None:
        x, y, own, settings, streamed = arguments
        run(x[first:last], y[first:last], own, settings, y.dtype.type, make_chunk(y, streamed))
        if streamed:
            fence()

    @scalar
    def over_all(crew: Any, smallest: int, x: Any, y: Any, own: Any, settings: Any, streamed: bool) -> None:
        spread(crew, over_part, (x, y, own, settings, streamed), x.shape[0], smallest)

    return over_all


@functools.cache
def uniform_quantize_kernel(fake: bool, rounding: int, wide: bool, double: bool) -> Callable[..., Any]:
    """The kernel of quantize_linear (or of fake_quantize) with one scale and zero point. `wide`: rounding in float64;
    `double`: x is float64.
    """
    make = functools.partial(elements.make_fake_quantize, scale_of=_scale_of) if fake else elements.make_quantize
    element = make(divide=_divide, invert=_invert, rounding=rounding)
    grid, real_type = (GRID64 if wide else GRID32), (np.float64 if double else np.float32)

    over_all = _make_over_all(element)

    @jit
    def uniform_quantize(
        control: int, workers: int, smallest: int, x: Any, y: Any, streamed: bool,
        scale: float, zero_point: int, lowest: int, highest: int, real: int,
    ) -> None:  # fmt: skip
        own = real_type(scale), as_type_of(grid, zero_point)
        settings = as_type_of(grid, lowest), as_type_of(grid, highest), grid, real, rounding
        over_all((control, workers), smallest, x, y, own, settings, streamed)

    return uniform_quantize


@functools.cache
def undivided_quantize_kernel(fake: bool) -> Callable[..., Any]:
    """The same without a division, with ties to even in float32, where quantizing.py has it."""
    over_all = _make_over_all(quantizing.element(fake))

    @jit
    def undivided_quantize(
        control: int, workers: int, smallest: int, x: Any, y: Any, streamed: bool,
        scale: float, zero_point: int, lowest: int, highest: int, real: int,
    ) -> None:  # fmt: skip
        low, high = np.float32(lowest), np.float32(highest)
        own = quantizing.bind(np.float32(scale), np.float32(zero_point), low, high)
        over_all((control, workers), smallest, x, y, own, (low, high, GRID32, real, HALF_EVEN), streamed)

    return undivided_quantize


@functools.cache
def uniform_dequantize_kernel(wide: bool, double: bool) -> Callable[..., Any]:
    """The kernel of dequantize_linear with one scale and zero point. `wide`: codes of 32 bit; `double`: y float64."""
    integer, real_type = (np.int64 if wide else np.int32), (np.float64 if double else np.float32)
    over_all = _make_over_all(elements.dequantize_code)

    @jit
    def uniform_dequantize(
        control: int, workers: int, smallest: int, x: Any, y: Any, streamed: bool,
        scale: float, zero_point: int, sign: int, real: int,
    ) -> None:  # fmt: skip
        own = real_type(scale), integer(zero_point + sign)
        over_all((control, workers), smallest, x, y, own, (integer(sign), real), streamed)

    return uniform_dequantize


@functools.cache
def uniform_requantize_kernel(mode: str) -> Callable[..., Any]:
    """The kernel of requantize in one mode, with one of each parameter."""
    over_all, bind = _make_over_all(requantizing.ELEMENTS[mode]), requantizing.BINDS[mode]

    @jit
    def uniform_requantize(
        control: int, workers: int, smallest: int, x: Any, y: Any, streamed: bool,
        multiplier: float, shift: int, bias: int, zero_point: int, y_scale: float,
        lowest: int, highest: int, activation: int,
    ) -> None:  # fmt: skip
        settings = (lowest, highest, activation)
        own = bind((multiplier, shift, bias, zero_point, np.float32(y_scale)), settings)
        over_all((control, workers), smallest, x, y, own, settings, streamed)

    return uniform_requantize


@scalar
def _scale_and_zero_point(parameters: Any, p: Any, settings: Any) -> Any:
    return parameters[0][p], parameters[1][p]


@scalar
def _divide(x: Any, scale: Any) -> Any:
    return x / scale


@scalar
def _invert(scale: Any) -> Any:
    return np.float32(1.0) / np.float32(scale)


@scalar
def _scale_of(scale: Any) -> Any:
    return scale


@functools.cache
def quantize_kernel(rounding: int) -> Callable[..., Any]:
    """The kernel of quantize_linear for one way of rounding."""
    return make_walk(_scale_and_zero_point, elements.make_quantize(_divide, _invert, rounding))


@functools.cache
def fake_quantize_kernel(rounding: int) -> Callable[..., Any]:
    """The kernel of fake_quantize for one way of rounding."""
    return make_walk(_scale_and_zero_point, elements.make_fake_quantize(_divide, _invert, _scale_of, rounding))


@functools.cache
def dequantize_kernel() -> Callable[..., Any]:
    """The kernel of dequantize_linear."""
    return make_walk(_scale_and_zero_point, elements.dequantize_code)


@functools.cache
def requantize_kernel(mode: str) -> Callable[..., Any]:
    """The kernel of requantize in one mode."""
    bind = requantizing.BINDS[mode]

    @scalar
    def gather(parameters: Any, p: Any, settings: Any) -> Any:
        multiplier, shift, bias, zero_point, y_scale = parameters
        return bind((multiplier[p], shift[p], bias[p], zero_point[p], y_scale[p]), settings)

    return make_walk(gather, requantizing.ELEMENTS[mode])


@jit
def finite_range(x: Any, real: int) -> Any:
    """Lowest and highest of 0 and the finite values of a flat array, as order keys."""
    low = high = np.int32(0)
    for i in range(x.shape[0]):
        key = order_key(np.float32(widen(x[i], real)))
        low, high = min(low, key), max(high, key)
    return low, high


@jit
def _find_ranges(arguments: Any, first: int, last: int) -> None:
    """The ranges of units in an order that ends at both ends of x: there threads begin to quantize, on what the last
    cache still holds.
    """
    x, real, lows, highs = arguments
    middle = lows.shape[0] // 2
    for place in range(first, last):
        unit = middle - 1 - place if place < middle else lows.shape[0] - 1 - (place - middle)
        lows[unit], highs[unit] = finite_range(x[unit * RANGE_UNIT : (unit + 1) * RANGE_UNIT], real)


@functools.cache
def dynamic_quantize_kernel(double: bool) -> Callable[..., Any]:
    """The kernel of dynamic_quantize_linear: the range, scale and zero point of it, and the codes. `double`: x is
    float64.
    """
    quantize = uniform_quantize_kernel(False, HALF_EVEN, double, double)

    @jit
    def dynamic_quantize(control: int, workers: int, smallest: int, x: Any, y: Any, streamed: bool, real: int) -> Any:
        units = (x.shape[0] + RANGE_UNIT - 1) // RANGE_UNIT
        lows, highs = np.empty(units, np.int32), np.empty(units, np.int32)
        spread((control, workers), _find_ranges, (x, real, lows, highs), units, smallest // RANGE_UNIT)
        low = high = np.int32(0)
        for unit in range(units):
            low, high = min(low, lows[unit]), max(high, highs[unit])
        scale = dynamic_scale(from_order_key(low), from_order_key(high))
        zero_point = dynamic_zero_point(from_order_key(low), scale)
        quantize(control, workers, smallest, x, y, streamed, np.float64(scale), zero_point, 0, 255, real)
        return scale, zero_point

    return dynamic_quantize
