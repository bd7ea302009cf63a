"""What calibration sees of real numbers: their extremes, and how many fall into each bin of a grid through 0.

    x as (outer, length, inner)     one channel for each index along `length`; per tensor everything is one channel
                                    of one run, cut into pieces for the threads

The bins are those of bins.py. Extremes are found on the bits of the numbers, as signed integers of their own width:
flipping the magnitude bits of negative ones orders them, and integers are compared in full vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32, int64

from gpuq.arithmetic import widen
from gpuq.bins import BINS, ordered, place_of
from gpuq.cpu.compile import jit
from gpuq.cpu.spread import runner

RUN = 1024  # values whose bins are found together, in vectors, before they are counted one by one
ACROSS = 64  # channels side by side in memory that are counted together: every cache line is read once
PADDED = RUN + 32  # so that the places of one row do not all share a few sets of the cache


@jit
def _extremes_of_channels(arguments: Any, first: int, last: int) -> None:
    """Lowest and highest key of the finite numbers of channels first … last, and how many others there are.

    `infinity`: the bits of +infinity. `lows` starts with the largest integers of the type, `highs` with the lowest; a
    channel without finite numbers keeps them.
    """
    bits, infinity, lows, highs, ignored = arguments
    storage = bits.dtype.type
    shift = 8 * bits.itemsize - 1
    magnitude = storage(~(int64(-1) << shift))
    smallest = storage(~magnitude)
    rows = bits.reshape(bits.shape[0], bits.shape[1] * bits.shape[2])
    for block in range(bits.shape[0]):
        if bits.shape[2] == 1:
            merge_row(rows[block, first:last], infinity, lows[first:last], highs[first:last], ignored[first:last])
        else:
            for c in range(first, last):
                run = bits[block, c]
                for start in range(0, run.shape[0], 1 << 30):  # so that int32 counts them
                    low, high, others = extremes_of(run[start : start + (1 << 30)], infinity, magnitude, smallest)
                    lows[c], highs[c] = min(lows[c], low), max(highs[c], high)
                    ignored[c] += others


@jit
def _extremes_of_pieces(arguments: Any, first: int, last: int) -> None:
    """The same of pieces first … last of a run, of `length` values each."""
    run, infinity, length, lows, highs, ignored = arguments
    for piece in range(first, last):
        values = run[piece * length : (piece + 1) * length]
        lows[piece], highs[piece], ignored[piece] = extremes_of(values, infinity, lows[piece], highs[piece])


@jit
def merge_row(row: Any, infinity: Any, lows: Any, highs: Any, ignored: Any) -> None:
    """The same with one number of each channel; loops of two arrays each, which vectorize."""
    storage = row.dtype.type
    shift = 8 * row.itemsize - 1
    magnitude = storage(~(int64(-1) << shift))
    for c in range(row.shape[0]):
        finite = storage(row[c] & infinity) != infinity
        lows[c] = min(lows[c], ordered(row[c], shift, magnitude, storage) if finite else magnitude)
    for c in range(row.shape[0]):
        finite = storage(row[c] & infinity) != infinity
        highs[c] = max(highs[c], ordered(row[c], shift, magnitude, storage) if finite else storage(~magnitude))
    for c in range(row.shape[0]):
        ignored[c] += 1 if storage(row[c] & infinity) == infinity else 0


@jit
def extremes_of(run: Any, infinity: Any, magnitude: Any, smallest: Any) -> Any:
    """Lowest and highest key of the finite numbers of a run, and how many others there are."""
    storage = run.dtype.type
    shift = 8 * run.itemsize - 1
    low, high, others = magnitude, smallest, int32(0)
    for i in range(run.shape[0]):
        finite = storage(run[i] & infinity) != infinity
        key = ordered(run[i], shift, magnitude, storage)
        low = min(low, key if finite else magnitude)
        high = max(high, key if finite else smallest)
        others = int32(others + (int32(0) if finite else int32(1)))
    return low, high, others


@jit
def _count_channels(arguments: Any, first: int, last: int) -> None:
    """Add the values of channels first … last to their bins; `factors`: 1 / w of each channel, float32 or float64."""
    x, real, factors, counts = arguments
    outer, length, inner = x.shape
    places = np.empty((ACROSS, PADDED), np.uint16)
    if inner == 1:
        table = x.reshape(outer, length)
        for start in range(0, outer, RUN):
            rows = min(RUN, outer - start)
            for c in range(first, last, ACROSS):
                own_factors = factors[c : min(c + ACROSS, last)]
                for row in range(rows):
                    values = table[start + row, c : c + own_factors.shape[0]]
                    for i in range(values.shape[0]):
                        places[i, row] = place_of(widen(values[i], real), own_factors[i])
                for i in range(own_factors.shape[0]):
                    count_places(places[i, :rows], counts[c + i])
    else:
        for block in range(outer):
            for c in range(first, last):
                count_run(x[block, c], real, factors[c], places[0], counts[c])


@jit
def _count_pieces(arguments: Any, first: int, last: int) -> None:
    """The same of pieces first … last of a run, of `length` values each, with counts of their own."""
    run, real, factor, length, counts = arguments
    places = np.empty(RUN, np.uint16)
    for piece in range(first, last):
        count_run(run[piece * length : (piece + 1) * length], real, factor, places, counts[piece])


@jit
def count_run(values: Any, real: int, factor: Any, places: Any, counts: Any) -> None:
    """Add the values of a run to their bins."""
    for start in range(0, values.shape[0], RUN):
        run = values[start : start + RUN]
        for i in range(run.shape[0]):
            places[i] = place_of(widen(run[i], real), factor)
        count_places(places[: run.shape[0]], counts)


@jit
def count_places(places: Any, counts: Any) -> None:
    """Count how often each position occurs."""
    for i in range(places.shape[0]):
        counts[places[i]] += 1


@jit
def join_neighbours(counts: Any, shifts: Any) -> None:
    """Bring the counts of each channel to a grid 2^shift times as wide."""
    for c in range(counts.shape[0]):
        shift = shifts[c]
        for i in range(BINS if shift > 0 else 0):
            above, below = counts[c, BINS + i], counts[c, BINS - 1 - i]
            counts[c, BINS + i] = counts[c, BINS - 1 - i] = 0
            counts[c, BINS + (i >> shift)] += above
            counts[c, BINS - 1 - (i >> shift)] += below


extremes_of_channels, extremes_of_pieces = runner(_extremes_of_channels), runner(_extremes_of_pieces)
count_channels, count_pieces = runner(_count_channels), runner(_count_pieces)
