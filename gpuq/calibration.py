"""Calibration: observe batches of real numbers, then choose the range to quantize.

    x ──observe──► observations.py: extremes, histogram ──range──► low … high ──choose_qparams──► scale, zero point

Every observer takes any number of batches of any shape, counts NaN and infinities in `ignored` and passes them over.
With `axis` it keeps each index along that axis apart; batches may then differ in all other axes. What an observer holds
is of bounded size (a channel: two numbers, and for a histogram 32 KB) and does not depend, to the bit, on how the data
was cut into batches, on their order, or on which of them came by `merge`; of a moving average only the bound holds.

Where nothing finite was seen the range is 0 … 0, whose scale is 1. Batches on a GPU are looked at there; what an
observer holds is on the host.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gpuq import validate
from gpuq.arrays import View
from gpuq.bins import BINS
from gpuq.cpu import calibrate
from gpuq.cpu.spread import find_crew
from gpuq.dtypes import QUANTIZED, REAL, QuantizedType
from gpuq.observations import Observation, join, observe
from gpuq.parameters import QParams, choose_qparams

__all__ = ["MSE", "Entropy", "MinMax", "MovingAverageMinMax", "Percentile"]

Array = npt.NDArray[Any]
Range = tuple[Array, Array]
Observer = TypeVar("Observer", bound="_Observer")
Joining = TypeVar("Joining", bound="_Joining")

_lock = threading.Lock()  # held while a batch is joined to what an observer has seen, not while it is looked at


class _Observer:
    """What all observers share: batches in, parameters out."""

    _histogram = False  # whether the range needs one

    def __init__(self, *, axis: int | None = None) -> None:
        self.axis = None if axis is None else validate.integer("axis", axis)
        self._seen: Observation | None = None

    def observe(self: Observer, x: Any) -> Observer:
        """See a batch.

        Parameters
        ----------
        x : array of float32, float16, bfloat16 or float64, any shape

        Returns
        -------
        The observer itself.

        Raises
        ------
        TypeError, ValueError
            x has another type, no such axis, or another length along it than before.
        """
        return self._observe_view(validate.array("x", x, REAL))

    def _observe_view(self: Observer, view: View) -> Observer:
        """The same for an array that was checked already."""
        axis = self.axis
        if axis is not None:
            if not -len(view.shape) <= axis < len(view.shape):
                raise ValueError(f"x: got an array of {len(view.shape)} dimensions; accepted: one that has axis {axis}")
            axis %= len(view.shape)
        self._add("x", observe(view, axis, self._histogram))
        return self

    @property
    def ignored(self) -> int:
        """How many NaN and infinities were passed over."""
        return 0 if self._seen is None else self._seen.ignored

    def range(self) -> tuple[Any, Any]:
        """The range chosen: low and high in float64, numbers per tensor, arrays per axis.

        Raises
        ------
        ValueError
            Nothing was observed.
        """
        return self._shaped(self._choose(QUANTIZED["int8"], False, False))

    def qparams(self, dtype: Any = "int8", *, symmetric: bool = False, narrow_range: bool = False) -> QParams:
        """Scale and zero point for that range.

        Parameters
        ----------
        dtype, symmetric, narrow_range
            As in `choose_qparams`.

        Returns
        -------
        QParams

        Raises
        ------
        TypeError, ValueError
            As `choose_qparams`, and a ValueError where nothing was observed.
        """
        kind = QUANTIZED[validate.dtype("dtype", dtype, QUANTIZED)]
        symmetric, narrow_range = validate.flag("symmetric", symmetric), validate.flag("narrow_range", narrow_range)
        low, high = self._shaped(self._choose(kind, symmetric, narrow_range))
        return choose_qparams(low, high, kind.name, symmetric=symmetric, narrow_range=narrow_range)

    def _add(self, argument: str, batch: Observation) -> None:
        with _lock:
            if self._seen is not None:
                self._require_length(argument, self._seen, batch)
                batch = self._join(self._seen, batch)
            self._seen = batch

    def _require_length(self, argument: str, seen: Observation, batch: Observation) -> None:
        if seen.low.size != batch.low.size:
            came, known = batch.low.size, seen.low.size
            raise ValueError(f"{argument}: got length {came} along axis {self.axis}; accepted: {known}, as seen before")

    def _join(self, seen: Observation, batch: Observation) -> Observation:
        return join(seen, batch)

    def _observed(self) -> Observation:
        if self._seen is None:
            raise ValueError("range: got no batch; accepted: an observer that has seen one")
        return self._seen

    def _choose(self, kind: QuantizedType, symmetric: bool, narrow_range: bool) -> Range:
        """The range of each channel; here that of all finite numbers."""
        return _extent(self._observed())

    def _shaped(self, found: Range) -> tuple[Any, Any]:
        low, high = found
        return (low[0], high[0]) if self.axis is None else (low, high)


class MovingAverageMinMax(_Observer):
    """Extremes averaged over batches: momentum · old + (1 − momentum) · new, in float64.

    Parameters
    ----------
    momentum : float
        The weight of the old value, from 0 to below 1; the first batch is taken as it is, and one without finite
        numbers changes nothing.
    axis : int, optional
        Keep each index along it apart.

    Notes
    -----
    It depends on the order of the batches, so it has no `merge`. Jacob et al., arXiv 1712.05877, section 3.1.
    """

    def __init__(self, momentum: float = 0.9, *, axis: int | None = None) -> None:
        super().__init__(axis=axis)
        self.momentum = _number("momentum", momentum, lambda value: 0.0 <= value < 1.0, "a number from 0 to below 1")

    def _join(self, seen: Observation, batch: Observation) -> Observation:
        old, new = self.momentum, 1.0 - self.momentum
        low, high = old * seen.low + new * batch.low, old * seen.high + new * batch.high
        fresh, missing = seen.low > seen.high, batch.low > batch.high
        low, high = np.where(fresh, batch.low, low), np.where(fresh, batch.high, high)
        low, high = np.where(missing, seen.low, low), np.where(missing, seen.high, high)
        return Observation(low, high, seen.ignored + batch.ignored, batch.exponents, None)


class _Joining(_Observer):
    """An observer that two halves of the data can be given to."""

    def merge(self: Joining, other: Any) -> Joining:
        """Take over what another observer has seen, as if this one had seen it too; `other` stays as it is.

        Parameters
        ----------
        other : an observer of the same class and settings

        Returns
        -------
        The observer itself.

        Raises
        ------
        TypeError, ValueError
            `other` is of another class, was made with other settings, or has seen another length along the axis.
        """
        if type(other) is not type(self):
            raise TypeError(
                f"other: got an object of type {type(other).__name__}; accepted: another {type(self).__name__}"
            )
        if other._settings() != self._settings():
            raise ValueError(f"other: got one made with {other._settings()}; accepted: one with {self._settings()}")
        if other._seen is not None:
            self._add("other", other._seen)
        return self

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class MinMax(_Joining):
    """The lowest and the highest finite number.

    Parameters
    ----------
    axis : int, optional
        Keep each index along it apart.
    """


class Percentile(_Joining):
    """The range without the outermost numbers: from the (100 − p)/2 to the (100 + p)/2 percentile, to one bin.

    Parameters
    ----------
    percentile : float
        p, above 0 and at most 100. 100 gives the extremes, exactly.
    axis : int, optional
        Keep each index along it apart.

    Notes
    -----
    Percentiles are interpolated linearly between the numbers at the ranks about (n − 1)·share, as NumPy does by
    default, with the outer edge of its bin, but no more than the extreme, in the place of each number. Bins are 2^e
    wide, the smallest power of two with which 2048 on each side of 0 reach the largest magnitude, and at least 2^-126.
    """

    _histogram = True

    def __init__(self, percentile: float = 99.9, *, axis: int | None = None) -> None:
        super().__init__(axis=axis)
        self.percentile = _number("percentile", percentile, lambda value: 0.0 < value <= 100.0, "above 0, at most 100")

    def _choose(self, kind: QuantizedType, symmetric: bool, narrow_range: bool) -> Range:
        seen = self._observed()
        low, high = _extent(seen)
        ranks = np.cumsum(_counts(seen)[:, :-1], axis=1)
        share = (100.0 - self.percentile) / 200.0
        width = np.ldexp(1.0, seen.exponents)
        lowest = _at_share(ranks, share, lambda place: np.maximum((place - BINS) * width, low))
        highest = _at_share(ranks, 1.0 - share, lambda place: np.minimum((place - BINS + 1) * width, high))
        return lowest, highest


class MSE(_Joining):
    """The share of the range of all numbers that quantizes the histogram with the least squared error.

    Parameters
    ----------
    axis : int, optional
        Keep each index along it apart.

    Notes
    -----
    Of the ranges low·i/100 … high·i/100, i = 1 … 100, low ≤ 0 ≤ high being the extremes widened to hold 0, the one that
    minimizes Σ_b count_b · (r_b − S·(q_b − z))², the largest of several; S and z are those that `choose_qparams` gives
    for the type asked for (`range`: int8), q_b = clamp(rint(r_b/S) + z), r_b the middle of bin b within low … high, all
    in float64, summed in the order of the bins. The histogram is that of `Percentile`, 4096 bins. Choosing the range by
    squared error: Choukroun et al., arXiv 1902.06822; trying hundredths of it: MQBench's MSEObserver.
    """

    _histogram = True

    def _choose(self, kind: QuantizedType, symmetric: bool, narrow_range: bool) -> Range:
        seen = self._observed()
        low, high = _extent(seen)
        low, high, width = np.minimum(low, 0.0), np.maximum(high, 0.0), np.ldexp(1.0, seen.exponents)
        settings = (kind.lowest(narrow_range), kind.qmax, symmetric, _middle(kind))

        given = _counts(seen), low, high, width, *settings
        shares = _each_channel(calibrate.least_squares_of_channels, given, low.size) / calibrate.SHARES
        return low * shares, high * shares


class Entropy(_Joining):
    """The threshold t for which the clipped and quantized histogram tells most about the whole: least KL divergence.

    Parameters
    ----------
    axis : int, optional
        Keep each index along it apart.

    Notes
    -----
    The range is max(low, −t) … min(high, t), t a number of bins of the histogram of `Percentile` (4096 bins). For each
    t the bins inside are cut into as many groups of neighbours as the type asked for has codes (`range`: int8), of
    equal length but the last; a t with fewer bins than codes is passed over, but for the largest. P is the histogram
    inside, the counts outside added to its first and last bin; Q has the counts inside, spread evenly over the bins of
    each group where P is not 0. KL(P ‖ Q) = Σ p·log(p/q), p and q being P and Q over their sums, is infinite where q
    alone is 0; the largest of several best t is taken. With `symmetric` the bins are those of −t … t. Migacz, "8-bit
    inference with TensorRT", GTC 2017, on both sides of 0 as in ONNX Runtime's quantization/calibrate.py. Logarithms
    are those of the machine's C library.
    """

    _histogram = True

    def _choose(self, kind: QuantizedType, symmetric: bool, narrow_range: bool) -> Range:
        seen = self._observed()
        low, high = _extent(seen)
        filled = _counts(seen)[:, :-1] > 0
        begin, end = np.argmax(filled, axis=1), 2 * BINS - np.argmax(filled[:, ::-1], axis=1)
        end = np.where(filled.any(axis=1), end, begin)
        levels = kind.qmax - kind.lowest(narrow_range) + 1

        given = _counts(seen), begin, end, levels, symmetric
        kept = _each_channel(calibrate.least_divergence_of_channels, given, low.size)
        threshold = kept * np.ldexp(1.0, seen.exponents)
        return np.maximum(low, -threshold), np.minimum(high, threshold)


def _extent(seen: Observation) -> Range:
    """The extremes, 0 … 0 where nothing finite was seen."""
    empty = seen.low > seen.high
    return np.where(empty, 0.0, seen.low), np.where(empty, 0.0, seen.high)


def _counts(seen: Observation) -> Array:
    assert seen.counts is not None  # observers that need a histogram keep one
    return seen.counts


def _at_share(ranks: Array, share: float, value_of: Callable[[Array], Array]) -> Array:
    """A percentile of each channel from its cumulated counts; `value_of` gives the numbers that places stand for."""
    count = ranks[:, -1]
    position = np.maximum(count - 1, 0) * share
    before = np.floor(position)
    below, above = (value_of(np.argmax(ranks > rank[:, np.newaxis], axis=1)) for rank in (before, np.ceil(position)))
    return np.where(count > 0, below + (position - before) * (above - below), 0.0)


def _each_channel(search: Callable[..., None], given: tuple[Any, ...], channels: int) -> Array:
    """What a search finds for each channel, on all threads."""
    found = np.empty(channels, np.int64)
    search(find_crew(channels, 1), (*given, found), channels, 1)
    return found


def _middle(kind: QuantizedType) -> int:
    """The zero point of symmetric ranges."""
    return 0 if kind.signed else 1 << (kind.bits - 1)


def _number(argument: str, value: Any, within: Callable[[float], bool], accepted: str) -> float:
    """A setting of an observer."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{argument}: got an object of type {type(value).__name__}; accepted: {accepted}")
    if not within(float(value)):
        raise ValueError(f"{argument}: got {value}; accepted: {accepted}")
    return float(value)


def _forget_lock() -> None:
    """In a forked child the lock may be held for ever."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)
