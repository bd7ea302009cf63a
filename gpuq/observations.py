"""What an observer keeps of the numbers it has seen: a function of their multiset alone, of bounded size.

    batch ──observe──► Observation ─┐
    batch ──observe──► Observation ─┴─join──► Observation      as if both batches had come as one

Joining is commutative and associative to the bit: extremes are exact, counts are integers, and the width of the bins
is the smallest power of two that holds the largest magnitude, which counts of a finer grid reach by joining
neighbours (cpu/observe.py). So it does not matter how the data was split, nor in which order it came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import arrays
from gpuq.arithmetic import FLOAT32
from gpuq.arrays import View
from gpuq.bins import BINS, PLACES
from gpuq.cpu import observe as cpu
from gpuq.cpu.operators import HALF_CODES
from gpuq.cpu.spread import PIECES_PER_THREAD, find_crew
from gpuq.cpu.threads import num_threads
from gpuq.layout import read_only

Array = npt.NDArray[Any]
SMALLEST_EXPONENT = -126  # a scale is no smaller: finer bins would tell nothing, and 1 / w is a float32
PIECE = 1 << 15  # values of the smallest piece for a thread: 5 µs and more
LONGEST = 1 << 30  # of a piece: its values are counted in int32


@dataclass(frozen=True)
class Observation:
    """Of each channel (one, per tensor): extremes, and counts in the bins of a grid of width 2^exponent.

    `low` and `high` (float64) are +inf and −inf where nothing finite was seen. `ignored` counts NaN and infinities of
    all channels. `counts` (channels, 2·BINS + 1): bin j lies at j + BINS, the last place counts what is not finite;
    None where no histogram is kept.
    """

    low: Array
    high: Array
    ignored: int
    exponents: Array
    counts: Array | None


def observe(view: View, axis: int | None, histogram: bool) -> Observation:
    """What there is to see in one batch, found where it lies."""
    if view.device == "cpu" or view.array.size == 0:
        return _observe(arrays.on_host(view), axis, histogram)
    from gpuq.cuda import observations as cuda

    return cuda.observe(view.array, view.type, arrays.device_index(view.device), axis, histogram)


def join(one: Observation, other: Observation) -> Observation:
    """Both together."""
    low, high = np.minimum(one.low, other.low), np.maximum(one.high, other.high)
    exponents = np.maximum(one.exponents, other.exponents)
    counts = None
    if one.counts is not None and other.counts is not None:
        counts = _widened(one, exponents)
        counts += _widened(other, exponents)
    return Observation(low, high, one.ignored + other.ignored, exponents, counts)


def beside_each_other(groups: list[Observation]) -> Observation:
    """One observation of all channels of several."""
    if len(groups) == 1:
        return groups[0]
    low, high = (np.concatenate([getattr(each, name) for each in groups]) for name in ("low", "high"))
    exponents = np.concatenate([each.exponents for each in groups])
    counts = [each.counts for each in groups if each.counts is not None]
    ignored = sum(each.ignored for each in groups)
    return Observation(low, high, ignored, exponents, np.concatenate(counts) if counts else None)


def exponents_of(low: Array, high: Array) -> Array:
    """Of each channel the smallest e ≥ −126 with max(|low|, |high|) < BINS · 2^e; −126 where there is nothing."""
    largest = np.maximum(np.abs(low), np.abs(high))
    something = np.isfinite(largest) & (largest > 0)
    exponents = np.frexp(np.where(something, largest, 0.0))[1] - int(math.log2(BINS))
    return np.where(something, np.maximum(exponents, SMALLEST_EXPONENT), SMALLEST_EXPONENT)


def _observe(view: View, axis: int | None, histogram: bool) -> Observation:
    x = _channels(arrays.readable(view), axis)
    low, high, ignored = _extremes(x, view.type)
    exponents = exponents_of(low, high)
    counts = _count(x, view.type, exponents) if histogram else None
    return Observation(low, high, ignored, exponents, counts)


def _channels(x: Array, axis: int | None) -> Array:
    """x as (outer, length, inner), contiguous and aligned, a channel for each index along `length`."""
    if axis is None or x.shape[axis] == 1:
        x = x.T if x.flags.f_contiguous else x
        shape = (1, 1, x.size)
    else:
        shape = (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
    if not (x.flags.c_contiguous and x.flags.aligned):
        x = x.copy(order="C")
    return read_only(x.reshape(shape))


def _smallest(x: Array) -> int:
    """How many channels are worth a thread."""
    return -(-PIECE * x.shape[1] // max(1, x.size))


def _cut(x: Array) -> tuple[int, int]:
    """The pieces in which threads take the values of a single channel: how many, and how long."""
    length = min(max(PIECE, -(-x.size // (num_threads() * PIECES_PER_THREAD))), LONGEST)
    return -(-x.size // length), length


def _extremes(x: Array, type: str) -> tuple[Array, Array, int]:
    """Extremes of each channel, and how many numbers are not finite."""
    bits = x.view(f"i{x.itemsize}")
    limits = np.iinfo(bits.dtype)
    infinity = _bits_of_infinity(type, bits.dtype)

    count, length = (x.shape[1], 0) if x.shape[1] != 1 else _cut(x)
    lows, highs = np.full(count, limits.max, bits.dtype), np.full(count, limits.min, bits.dtype)
    ignored = np.zeros(count, np.int64)
    if length:
        crew = find_crew(count, 1)
        cpu.extremes_of_pieces(crew, (bits.reshape(-1), infinity, length, lows, highs, ignored), count, 1)
        lows, highs = lows.min(initial=limits.max, keepdims=True), highs.max(initial=limits.min, keepdims=True)
    elif x.size:
        crew = find_crew(count, _smallest(x))
        cpu.extremes_of_channels(crew, (bits, infinity, lows, highs, ignored), count, _smallest(x))
    return extent_of(lows, highs, ignored, type)


def extent_of(lows: Array, highs: Array, ignored: Array, type: str) -> tuple[Array, Array, int]:
    """Extremes of each channel from their order keys, and how many numbers are not finite in all."""
    empty, magnitude = lows > highs, np.iinfo(lows.dtype).max
    low, high = (_values(keys, type, magnitude) for keys in (lows, highs))
    return np.where(empty, np.inf, low) + 0.0, np.where(empty, -np.inf, high) + 0.0, int(ignored.sum())


def factors_of(exponents: Array, type: str) -> Array:
    """1 / w of each channel, as numbers of that type are multiplied by it."""
    return np.ldexp(1.0, -exponents).astype(np.float64 if type == "float64" else np.float32)


def _bits_of_infinity(type: str, integer: Any) -> Any:
    patterns = {"float32": 0x7F800000, "float64": 0x7FF0000000000000, "float16": 0x7C00, "bfloat16": 0x7F80}
    return integer.type(patterns[type])


def _values(keys: Array, type: str, magnitude: int) -> Array:
    """The real numbers, as float64, of order keys."""
    bits = keys ^ ((keys >> (8 * keys.itemsize - 1)) & keys.dtype.type(magnitude))
    storage = bits.view(f"f{bits.itemsize}") if type in ("float32", "float64") else bits.view(np.uint16)
    with np.errstate(invalid="ignore"):  # keys of channels without finite numbers are those of NaN
        return arrays.real_numbers(View(storage, type, "cpu", False, None)).astype(np.float64)


def _count(x: Array, type: str, exponents: Array) -> Array:
    """Counts of each channel on its grid."""
    factors = factors_of(exponents, type)
    real, channels = HALF_CODES.get(type, FLOAT32), x.shape[1]
    if channels != 1:
        counts = np.zeros((channels, PLACES), np.int64)
        if x.size:
            crew = find_crew(channels, _smallest(x))
            cpu.count_channels(crew, (x, real, factors, counts), channels, _smallest(x))
        return counts
    pieces, length = _cut(x)
    counts = np.zeros((pieces, PLACES), np.int64)
    cpu.count_pieces(find_crew(pieces, 1), (x.reshape(-1), real, factors[0], length, counts), pieces, 1)
    return counts.sum(axis=0, keepdims=True)


def _widened(observation: Observation, exponents: Array) -> Array:
    """A copy of the counts, on wider grids."""
    assert observation.counts is not None
    counts = np.array(observation.counts)
    shifts = np.minimum(exponents - observation.exponents, 63)
    if shifts.any():
        cpu.join_neighbours(counts, shifts)
    return counts
