"""CUDA's side of calibration: what observers keep of a batch on a GPU, found there; few numbers come to the host.

    x, channels first ── extremes ──► low, high of each ── host: width of bins ──► counts ──► observations.py

A batch whose channels are runs of memory is read where it lies, twice; of any other one a slab at a time is copied on
the device first. Observations of parts are joined, which gives the bits of the whole.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.bins import PLACES
from gpuq.cuda import driver
from gpuq.cuda.launch import Work
from gpuq.cuda.observe import counts_kernel, extremes_kernel
from gpuq.cuda.strided import contiguous
from gpuq.cuda.tiles import BLOCKS_PER_MULTIPROCESSOR, MOST_ELEMENTS, TILE
from gpuq.device_array import address_of, device_array
from gpuq.observations import Observation, beside_each_other, exponents_of, extent_of, factors_of, join

Array = npt.NDArray[Any]
SLAB = 1 << 25  # values that are copied at a time
MOST_CHANNELS = 4096  # of one launch: 64 MB of counts


def observe(x: Any, type: str, index: int, axis: int | None, histogram: bool) -> Observation:
    """What there is to see in an array on a device that is not empty, once the device has done all it was asked."""
    if axis is None:
        x = x.T if x.flags.f_contiguous else x
        rows = x.reshape(1, -1) if x.flags.c_contiguous else x[np.newaxis]
    else:
        rows = x.transpose(axis, *(other for other in range(x.ndim) if other != axis))[..., np.newaxis]
    groups = []
    for first in range(0, rows.shape[0], MOST_CHANNELS):
        parts = _parts(_as_runs(rows[first : first + MOST_CHANNELS]))
        groups.append(functools.reduce(join, (_observe(part, type, index, histogram) for part in parts)))
    return beside_each_other(groups)


def _as_runs(rows: Any) -> Any:
    """(channels, …) as (channels, run) where each channel is a run of memory; else as it is."""
    if not (rows[:1].flags.c_contiguous and rows.flags.aligned):
        return rows
    steps, shape = (rows.strides[0], rows.itemsize), (rows.shape[0], rows[:1].size)
    return device_array(address_of(rows), shape, rows.dtype, steps, rows.owner)


def _is_runs(rows: Any) -> bool:
    return rows.ndim == 2 and rows.strides[1] == rows.itemsize and bool(rows.flags.aligned)


def _parts(rows: Any) -> Iterator[Any]:
    """Runs of which int32 counts the values; or slabs, along the longest axis but that of the channels."""
    axis = 1 + int(np.argmax(rows.shape[1:]))
    most = MOST_ELEMENTS if _is_runs(rows) else max(1, SLAB * rows.shape[axis] // rows.size)
    for first in range(0, rows.shape[axis], most):
        yield rows[(slice(None),) * axis + (slice(first, first + most),)]


def _observe(part: Any, type: str, index: int, histogram: bool) -> Observation:
    with Work(driver.device(index), stream=0) as work:
        work.refuse_capture("calibration, which waits for it")
        driver.call("cuCtxSynchronize")
        runs = part if _is_runs(part) else contiguous(work, part)
        step, channels = runs.strides[0], runs.shape[0]
        run = runs.size // channels
        pieces = min(-(-run // TILE), max(1, work.device.multiprocessors * BLOCKS_PER_MULTIPROCESSOR // channels))
        key = "float64" if type == "float64" else "float32"
        low, high, ignored = _extremes(work, type, key, (runs, step, run), (pieces, channels))
        exponents = exponents_of(low, high)
        counts = None
        if histogram:
            device_counts = work.empty((channels, PLACES), np.int32)
            work.fill(device_counts)
            factors = work.input(factors_of(exponents, key))
            work.launch(counts_kernel(type), (pieces, channels), runs, step, run, factors, device_counts)
            counts = work.read(device_counts).astype(np.int64)
        return Observation(low, high, ignored, exponents, counts)


def _extremes(
    work: Work, type: str, key: str, given: tuple[Any, int, int], grid: tuple[int, int]
) -> tuple[Array, Array, int]:
    """Extremes of each channel, of what each of its blocks has found."""
    pieces, channels = grid
    integer = np.int64 if key == "float64" else np.int32
    lows, highs = (work.empty((channels, pieces), integer) for _ in range(2))
    others = work.empty((channels, pieces), np.int32)
    work.launch(extremes_kernel(type), grid, *given, lows, highs, others)
    found: list[Array] = [work.read(array) for array in (lows, highs, others)]
    return extent_of(found[0].min(axis=1), found[1].max(axis=1), found[2], key)
