"""Which parameter belongs to which element of a flat array, inside a kernel: layout.py's runs as numbers.

    element ──÷ (length · inner)──► outer, rest ──÷ (group · inner)──► group     p = outer · outer_step + group
                                           └──÷ inner──► column                  beside a row: p = p · inner + column

Divisions are multiplications by what the host has worked out (indexing.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuq.arithmetic import scalar
from gpuq.cuda.indexing import DIVISOR, Divisor, divide, divisor
from gpuq.cuda.numba_cuda import types
from gpuq.cuda.tiles import MOST_ELEMENTS, QUAD
from gpuq.layout import Runs, count_units, part_of


class Geometry(NamedTuple):
    """Runs as a kernel takes them."""

    outer: Divisor
    group: Divisor
    inner: Divisor
    outer_step: int
    varying: int


GEOMETRY = types.Tuple((DIVISOR, DIVISOR, DIVISOR, types.int32, types.int32))


def geometry(runs: Runs) -> Geometry:
    """What a kernel needs to know of a walk of at most 2^30 elements."""
    row, group = runs.length * runs.inner, min(runs.group, runs.length) * runs.inner
    return Geometry(divisor(row), divisor(group), divisor(runs.inner), runs.outer_step, int(runs.varying))


def keeps_quads_together(runs: Runs) -> bool:
    """Whether the elements of a quad share one parameter, or have four neighbouring ones that begin at a multiple
    of 4.
    """
    if runs.varying:
        return runs.inner % QUAD == 0 or runs.outer * runs.length == 1
    row, group = runs.length * runs.inner, runs.group * runs.inner
    return (runs.outer == 1 or row % QUAD == 0) and (runs.length <= runs.group or group % QUAD == 0)


def launches(runs: Runs, element: int = 0, parameter: int = 0) -> Iterator[tuple[int, int, Runs]]:
    """A walk in parts of at most MOST_ELEMENTS elements: first element, first parameter and runs of each."""
    size = math.prod((runs.outer, runs.length, runs.inner))
    if size <= MOST_ELEMENTS:
        yield element, parameter, runs
        return
    if runs.outer == 1 and 1 < runs.length <= runs.group:  # one group: a row of parameters, or one, for all its rows
        if not runs.varying:
            yield from launches(Runs(1, 1, size, 1, 0, False), element, parameter)
            return
        rows = max(1, MOST_ELEMENTS // runs.inner)
        for first in range(0, runs.length, rows):
            part = runs._replace(length=min(rows, runs.length - first))
            yield from launches(part, element + first * runs.inner, parameter)
        return
    units = count_units(runs)
    step = max(1, MOST_ELEMENTS * units // size)
    for first in range(0, units, step):
        elements, parameters, part_runs = part_of(runs, first, min(first + step, units))
        yield from launches(part_runs, element + elements.start, parameter + (parameters.start or 0))


@scalar
def parameter_index(geometry: Any, element: int) -> Any:
    """The index of an element's parameter."""
    outer_size, group_size, inner_size, outer_step, varying = geometry
    outer, rest = divide(element, outer_size)
    group, _ = divide(rest, group_size)
    p = np.int32(outer * outer_step + group)
    if varying:
        _, column = divide(rest, inner_size)
        p = np.int32(p * inner_size[2] + column)
    return p
