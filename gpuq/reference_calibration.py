"""What the observers of `gpuq.calibration` choose, in NumPy, from all the data at once: one channel, per tensor.

Like `gpuq.reference` written to be read, and what the library's results are compared with: extremes, bins, percentiles
and squared errors bit for bit, the entropy to the rounding of its sums.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import reference

Array = npt.NDArray[Any]
BINS = 2048


def finite(x: Any) -> Array:
    """The finite numbers of x in float64, flat."""
    values = np.asarray(x).astype(np.float64).reshape(-1)
    return values[np.isfinite(values)]


def extremes(x: Any) -> tuple[float, float]:
    """Lowest and highest finite number; 0 … 0 where there is none."""
    values = finite(x)
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def histogram(x: Any) -> tuple[int, Array]:
    """The exponent e of the width of a bin, and the counts of the bins −BINS … BINS − 1.

    (1) e: the smallest integer ≥ −126 with |v| < BINS·2^e for all v
    (2) v ≥ 0 falls into bin trunc(v / 2^e), v < 0 into −1 − trunc(−v / 2^e)
    """
    values = finite(x)
    e, largest = -126, float(np.abs(values).max(initial=0.0))
    while e < 1013 and largest >= math.ldexp(BINS, e):
        e += 1  # (1)
    steps = np.trunc(np.ldexp(np.abs(values), -e)).astype(np.int64)
    bins = np.where(values < 0, -1 - steps, steps)  # (2)
    return e, np.bincount(bins + BINS, minlength=2 * BINS)


def percentile(x: Any, p: float) -> tuple[float, float]:
    """The (100 − p)/2 and (100 + p)/2 percentiles, with the outer edge of its bin for each number.

    (1) position = (n − 1)·share; linear between the numbers at floor(position) and ceil(position)
    (2) a number's edge: the bin's lower one for low, its upper one for high, not beyond the extremes
    """
    (low, high), (e, counts) = extremes(x), histogram(x)
    bins = np.repeat(np.arange(-BINS, BINS), counts)  # of all numbers, in order
    if bins.size == 0:
        return 0.0, 0.0
    share = (100.0 - p) / 200.0
    result = []
    edges = (np.maximum(np.ldexp(bins * 1.0, e), low), np.minimum(np.ldexp(bins + 1.0, e), high))  # (2)
    for numbers, part in zip(edges, (share, 1.0 - share), strict=True):
        position = (bins.size - 1) * part
        below, above = numbers[math.floor(position)], numbers[math.ceil(position)]
        result.append(float(below + (position - math.floor(position)) * (above - below)))  # (1)
    return result[0], result[1]


def squared_error(x: Any, share: float, dtype: str, symmetric: bool, narrow_range: bool) -> float:
    """Σ count · (r − S·(q − z))² over the bins in order, for that share of the range.

    r is the middle of a bin within low … high; q = clamp(rint(r / S) + z).
    """
    (low, high), (e, counts) = extremes(x), histogram(x)
    low, high = min(low, 0.0), max(high, 0.0)
    scale, z, qmin, qmax = reference.choose_qparams(
        low * share, high * share, dtype, symmetric=symmetric, narrow_range=narrow_range
    )
    r = np.clip(np.ldexp(np.arange(-BINS, BINS) + 0.5, e), low, high)
    offset = np.clip(np.rint(r / np.float64(scale)), qmin - int(z), qmax - int(z))
    terms = counts * np.square(r - np.float64(scale) * offset)
    return float(np.cumsum(terms)[-1])  # one after the other, as np.sum does not


def mse(x: Any, dtype: str = "int8", symmetric: bool = False, narrow_range: bool = False) -> tuple[float, float]:
    """The range low·i/100 … high·i/100 with the least squared error, the largest of several."""
    low, high = extremes(x)
    shares = [i / 100 for i in range(100, 0, -1)]
    with np.errstate(over="ignore", invalid="ignore"):
        errors = [squared_error(x, share, dtype, symmetric, narrow_range) for share in shares]
        best = shares[int(np.argmin(np.where(np.isnan(errors), np.inf, errors)))]
        return min(low, 0.0) * best, max(high, 0.0) * best


def divergence(x: Any, kept: int, levels: int, symmetric: bool) -> float:
    """KL(P ‖ Q) of the bins −kept … kept − 1 (not symmetric: of those within the data); infinite with too few bins.

    (1) P: the counts, those left out added to the ends; Q: the counts inside, each group's spread evenly over its bins
        where P is not 0
    (2) Σ p·log(p / q) over P's bins, p = P / ΣP, q = Q / ΣQ; infinite where q = 0
    """
    _, counts = histogram(x)
    filled = np.flatnonzero(counts)
    first, last = BINS - kept, BINS + kept
    if not symmetric:
        first, last = max(first, filled[0]), min(last, filled[-1] + 1)
    if last - first < levels:
        return math.inf
    inside, group = counts[first:last].astype(np.float64), (last - first) // levels
    p, q = inside.copy(), np.zeros_like(inside)
    p[0] += counts[:first].sum()
    p[-1] += counts[last:].sum()
    for level in range(levels):
        part = slice(level * group, (level + 1) * group if level < levels - 1 else None)
        q[part] = inside[part].sum() / max(1, np.count_nonzero(p[part]))
    q[p == 0] = 0  # (1)
    if np.any((p > 0) & (q == 0)):
        return math.inf
    p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
    return float(np.sum(p * np.log(p / q)))  # (2)
