"""Which parameter belongs to which element of a flat array, inside a kernel: layout.py's runs as numbers.

    element ──÷ (length · inner)──► outer, rest ──÷ (group · inner)──► group     p = outer · outer_step + group
                                           └──÷ inner──► column                  beside a row: p = p · inner + column

Where every element of a row has a parameter of its own, a lane takes four neighbouring columns of four rows of a group,
whose parameters are the same; a turn is the fourth part of a group's rows:

    lane ──÷ quads of a row──► line, quad ──÷ turn──► unit, row ──÷ groups──► outer, group        rows: row + k · turn

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
from gpuq.cuda.tiles import MOST_ELEMENTS, PAIR_ELEMENTS, QUAD, QUADS
from gpuq.layout import Runs, count_units, part_of

# how a walk goes: neither of what follows; a quad's elements share a parameter; so do those of a pair of lanes; rows
# that have a parameter for every column
ONE_BY_ONE, BY_QUADS, BY_PAIRS, BY_COLUMNS = range(4)


class Geometry(NamedTuple):
    """Runs as a kernel takes them."""

    outer: Divisor
    group: Divisor
    inner: Divisor
    outer_step: int
    varying: int


class Columns(NamedTuple):
    """The same for a walk by columns."""

    quads: Divisor
    turn: Divisor
    groups: Divisor
    group: int
    length: int


GEOMETRY = types.Tuple((DIVISOR, DIVISOR, DIVISOR, types.int32, types.int32))  # either of them


def geometry(runs: Runs) -> Geometry:
    """What a kernel needs to know of a walk of at most 2^30 elements."""
    row, group = runs.length * runs.inner, min(runs.group, runs.length) * runs.inner
    return Geometry(divisor(row), divisor(group), divisor(runs.inner), runs.outer_step, int(runs.varying))


def columns(runs: Runs) -> tuple[Columns, int]:
    """The same for a walk by columns, and how many lanes it takes."""
    outer, length, group = runs.outer, runs.length, min(runs.group, runs.length)
    if length == 1 and runs.outer_step == 0:  # one row of parameters for all
        outer, length, group = 1, outer, outer
    quads, turn, groups = runs.inner // QUAD, -(-group // QUADS), -(-length // group)
    known = Columns(divisor(quads), divisor(turn), divisor(groups), group, length)
    return known, outer * groups * turn * quads


def way_of(runs: Runs) -> int:
    """How a walk over aligned arrays goes."""
    if runs.varying:
        return BY_COLUMNS if runs.inner % QUAD == 0 else ONE_BY_ONE
    if _shares(runs, PAIR_ELEMENTS):
        return BY_PAIRS
    return BY_QUADS if _shares(runs, QUAD) else ONE_BY_ONE


def _shares(runs: Runs, count: int) -> bool:
    """Whether so many elements share a parameter, from every multiple of that number on."""
    row, group = runs.length * runs.inner, runs.group * runs.inner
    return (runs.outer == 1 or row % count == 0) and (runs.length <= runs.group or group % count == 0)


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
