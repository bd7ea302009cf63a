"""Searches for the range that loses least, over the histogram of one channel (observe.py): by squared error, by
entropy. calibration.py states what is minimized.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpuq.arithmetic import (
    GRID64,
    HALF_EVEN,
    asymmetric_parameters,
    round_between,
    scalar,
    symmetric_parameters,
)
from gpuq.bins import BINS
from gpuq.cpu.compile import jit
from gpuq.cpu.spread import runner

SHARES = 100  # candidates of the squared error: so many parts of the range


@scalar
def parameters_of(low: Any, high: Any, qmin: int, qmax: int, symmetric: bool, middle: int) -> Any:
    """Scale, as the float32 it becomes, and zero point of a range."""
    if symmetric:
        scale, zero_point = symmetric_parameters(low, high, qmin, qmax, middle)
    else:
        scale, zero_point = asymmetric_parameters(low, high, qmin, qmax)
    return np.float64(np.float32(scale)), zero_point


@jit
def squared_error(
    counts: Any, low: Any, high: Any, width: Any, share: int, qmin: int, qmax: int, symmetric: bool, middle: int
) -> Any:
    """Σ count · (r − S·(q − z))² over the bins, in order, with the parameters of share/100 of the range low … high."""
    part = share / SHARES
    scale, zero_point = parameters_of(low * part, high * part, qmin, qmax, symmetric, middle)
    least, most = np.float64(qmin - zero_point), np.float64(qmax - zero_point)
    total = 0.0
    for i in range(2 * BINS):
        if counts[i] > 0:
            r = min(max((i - BINS + 0.5) * width, low), high)
            difference = r - scale * round_between(r / scale, least, most, GRID64, HALF_EVEN)
            total += counts[i] * (difference * difference)
    return total


@jit
def least_squares(
    counts: Any, low: Any, high: Any, width: Any, qmin: int, qmax: int, symmetric: bool, middle: int
) -> int:
    """The share of the range, in hundredths, with the least squared error; the largest of several."""
    best, least = SHARES, math.inf
    for share in range(SHARES, 0, -1):
        error = squared_error(counts, low, high, width, share, qmin, qmax, symmetric, middle)
        if error < least:
            best, least = share, error
    return best


@jit
def divergence(counts: Any, first: int, last: int, levels: int, sums: Any, filled: Any, entropies: Any) -> Any:
    """n · KL(P ‖ Q) of the bins first … last (calibration.py: Entropy); infinite where P has what Q has not.

    sums, filled, entropies: over all bins before each, Σ count, how many are not empty, Σ count · log(count).
    """
    total, inside = sums[2 * BINS], sums[last] - sums[first]
    below, above = sums[first], total - sums[last]
    at_first, at_last = counts[first], counts[last - 1]
    own = entropies[last] - entropies[first]
    own += times_log(at_first + below) - times_log(at_first) + times_log(at_last + above) - times_log(at_last)
    group, cross = (last - first) // levels, 0.0
    for level in range(levels):
        start = first + level * group
        stop = last if level == levels - 1 else start + group
        here, places = sums[stop] - sums[start], filled[stop] - filled[start]
        mass = here
        if level == 0 and below > 0:
            mass, places = mass + below, places + (1 if at_first == 0 else 0)
        if level == levels - 1 and above > 0:
            mass, places = mass + above, places + (1 if at_last == 0 else 0)
        if mass > 0:
            cross += mass * math.log(here / places) if here > 0 else -math.inf
    return own - cross - total * (math.log(total) - math.log(inside)) if inside > 0 else math.inf


@scalar
def times_log(count: int) -> Any:
    """count · log(count); 0 of 0."""
    return count * math.log(count) if count > 0 else 0.0


@jit
def least_divergence(counts: Any, begin: int, end: int, levels: int, symmetric: bool) -> int:
    """How many bins on each side of 0 to keep of the bins begin … end, of which the outermost are not empty."""
    sums, filled = np.zeros(2 * BINS + 1, np.int64), np.zeros(2 * BINS + 1, np.int64)
    entropies = np.zeros(2 * BINS + 1, np.float64)
    for i in range(2 * BINS):
        sums[i + 1] = sums[i] + counts[i]
        filled[i + 1] = filled[i] + (1 if counts[i] > 0 else 0)
        entropies[i + 1] = entropies[i] + times_log(counts[i])
    widest = max(BINS - begin, end - BINS)
    best, least = widest, math.inf
    for kept in range(widest, 0, -1):
        first = BINS - kept if symmetric else max(BINS - kept, begin)
        last = BINS + kept if symmetric else min(BINS + kept, end)
        if last - first >= levels:
            loss = divergence(counts, first, last, levels, sums, filled, entropies)
            if loss < least:
                best, least = kept, loss
    return best


@jit
def _least_squares_of_channels(arguments: Any, first: int, last: int) -> None:
    counts, low, high, width, qmin, qmax, symmetric, middle, found = arguments
    for c in range(first, last):
        found[c] = least_squares(counts[c], low[c], high[c], width[c], qmin, qmax, symmetric, middle)


@jit
def _least_divergence_of_channels(arguments: Any, first: int, last: int) -> None:
    """A channel of which nothing was seen, begin = end, keeps all."""
    counts, begin, end, levels, symmetric, found = arguments
    for c in range(first, last):
        found[c] = least_divergence(counts[c], begin[c], end[c], levels, symmetric) if begin[c] < end[c] else BINS


least_squares_of_channels = runner(_least_squares_of_channels)
least_divergence_of_channels = runner(_least_divergence_of_channels)
