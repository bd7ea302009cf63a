"""Indices inside kernels against plain Python: division by a known number, an element's parameter, the lanes' quads."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gpuq.layout import Granularity
from shapes import BLOCKED, GRANULARITIES_FEW, PER_AXIS

pytest.importorskip("numba_cuda", reason="needs the package numba-cuda")

from gpuq.cuda import geometry as module  # noqa: E402
from gpuq.cuda.geometry import (  # noqa: E402
    BY_COLUMNS,
    BY_PAIRS,
    BY_QUADS,
    ONE_BY_ONE,
    columns,
    geometry,
    launches,
    parameter_index,
    way_of,
)
from gpuq.cuda.indexing import divide, divisor  # noqa: E402
from gpuq.cuda.lanes import quad_of, quads_per_access  # noqa: E402

GRAINS = [
    (shape, Granularity("tensor" if axis is None else "block" if block else "axis", (axis or 0) % len(shape), block))
    for shape, axis, block in [
        *GRANULARITIES_FEW, *((shape, axis, 0) for shape, axis in PER_AXIS), *BLOCKED,
        ((4, 10, 8), 1, 3), ((4, 12, 8), 1, 4), ((3, 5, 12), 1, 7), ((6, 20), 1, 8), ((6, 20), 0, 4),
    ]
    if math.prod(shape)
]  # fmt: skip

LARGER = [
    (shape, Granularity(kind, axis, block))
    for shape, kind, axis, block in [
        ((9, 64), "axis", 0, 0), ((3, 96), "block", 1, 32), ((5, 8), "axis", 1, 0), ((37, 12), "axis", 1, 0),
        ((37, 8), "block", 0, 5), ((2, 37, 4), "block", 1, 16), ((3, 2, 64), "axis", 1, 0),
        ((2, 3, 4, 4), "axis", 1, 0), ((3, 1, 8), "block", 1, 2), ((2, 6, 4), "block", 0, 1),
    ]
]  # fmt: skip


def owners(shape: tuple[int, ...], grain: Granularity) -> np.ndarray:
    """The index of every element's parameter, in C order."""
    indices = np.arange(math.prod(grain.parameter_shape(shape))).reshape(grain.parameter_shape(shape))
    if grain.kind == "axis":
        indices = indices.reshape([-1 if axis == grain.axis else 1 for axis in range(len(shape))])
    elif grain.kind == "block":
        indices = np.take(indices, np.arange(shape[grain.axis]) // grain.block_size, grain.axis)
    return np.broadcast_to(indices, shape).reshape(-1)


def test_division() -> None:
    rng = np.random.default_rng(0)
    divisors = [
        *range(1, 70),
        2**15 - 1,
        2**15,
        2**30 - 1,
        2**30,
        2**30 + 1,
        2**31 - 1,
        *map(int, rng.integers(1, 2**31, 30)),
    ]
    for value in divisors:
        by = divisor(value)
        numbers = {
            0,
            1,
            value - 1,
            value,
            value + 1,
            2 * value - 1,
            2 * value,
            2**31 - 1,
            *map(int, rng.integers(0, 2**31, 20)),
        }
        for n in (number for number in numbers if number < 2**31):
            assert tuple(map(int, divide(n, by))) == divmod(n, value), (n, value)


@pytest.mark.parametrize(("shape", "grain"), GRAINS, ids=str)
def test_the_parameter_of_every_element(shape: tuple[int, ...], grain: Granularity) -> None:
    known = geometry(grain.runs(shape))
    assert [int(parameter_index(known, element)) for element in range(math.prod(shape))] == owners(
        shape, grain
    ).tolist()


@pytest.mark.parametrize(("shape", "grain"), [*GRAINS, *LARGER], ids=str)
def test_the_way_of_a_walk(shape: tuple[int, ...], grain: Granularity) -> None:
    """Where it says so, every whole quad, or pair of lanes, has one parameter; quads of columns have four that begin at
    a multiple of 4.
    """
    own, way = owners(shape, grain), way_of(grain.runs(shape))
    size = {ONE_BY_ONE: 1, BY_QUADS: 4, BY_PAIRS: 32, BY_COLUMNS: 4}[way]
    pieces = own[: own.size // size * size].reshape(-1, size)
    if way == BY_COLUMNS:
        assert (np.diff(pieces, axis=1) == 1).all()
        assert (pieces[:, 0] % 4 == 0).all()
    else:
        assert (pieces == pieces[:, :1]).all()


def test_rows_blocks_and_columns_go_their_ways() -> None:
    """What users have most: no parameter is fetched more often than once for 16 elements."""
    weights = (128, 256)
    for grain, way in (
        (Granularity("tensor"), BY_PAIRS),
        (Granularity("axis", 0), BY_PAIRS),
        (Granularity("block", 1, 32), BY_PAIRS),
        (Granularity("block", 1, 128), BY_PAIRS),
        (Granularity("axis", 1), BY_COLUMNS),
        (Granularity("block", 0, 32), BY_COLUMNS),
    ):
        assert way_of(grain.runs(weights)) == way, grain
    assert way_of(Granularity("axis", 1).runs((2, 3, 14, 14))) == BY_QUADS
    assert way_of(Granularity("axis", 1).runs((2, 3, 7, 7))) == ONE_BY_ONE


@pytest.mark.parametrize(("shape", "grain"), [*GRAINS, *LARGER], ids=str)
def test_lanes_of_a_walk_by_columns(shape: tuple[int, ...], grain: Granularity) -> None:
    """They have every element once, all with the four parameters of the lane; neighbours lie beside each other."""
    runs = grain.runs(shape)
    if way_of(runs) != BY_COLUMNS:
        return
    (quads, turn, groups, group, length), lanes = columns(runs)
    own, seen, previous = owners(shape, grain), list[int](), None
    for lane in range(lanes):
        line, quad = (int(each) for each in divide(lane, quads))
        unit, row = (int(each) for each in divide(line, turn))
        outer, before = (int(each) for each in divide(unit, groups))
        inside = range(row, min(length - before * group, group), turn.value)[:4]
        firsts = [((outer * length + before * group + each) * quads.value + quad) * 4 for each in inside]
        for first in firsts:
            assert own[first : first + 4].tolist() == [(unit * quads.value + quad) * 4 + i for i in range(4)]
            seen += range(first, first + 4)
        if previous is not None and previous[0] == unit and firsts:
            assert firsts[0] == previous[1] + 4
        previous = (unit, firsts[0]) if firsts else None
    assert sorted(seen) == list(range(own.size))


@pytest.mark.parametrize("most", [1, 3, 8, 50])
def test_launches_of_a_few_elements(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts cover all elements in order, none larger than allowed, each element with its own parameter."""
    monkeypatch.setattr(module, "MOST_ELEMENTS", most)
    for shape, grain in GRAINS:
        found: list[int] = []
        for element, parameter, runs in launches(grain.runs(shape)):
            size = math.prod(runs[:3])
            assert 0 < size <= most
            assert element == len(found)
            found += [parameter + int(parameter_index(geometry(runs), index)) for index in range(size)]
        assert found == owners(shape, grain).tolist()


def test_launches_of_huge_arrays() -> None:
    """Beyond 2^32 elements and bytes: first elements and parameters of the parts are right."""
    huge = 5 * 2**31
    for shape, grain in [
        ((huge,), Granularity("tensor")),
        ((huge,), Granularity("axis", 0)),
        ((3, huge), Granularity("axis", 0)),
        ((huge, 3), Granularity("axis", 1)),
        ((2, huge), Granularity("block", 1, 2**30)),
        ((huge, 2), Granularity("block", 0, huge)),
        ((2**20, 3, 2**14), Granularity("axis", 1)),
    ]:
        end = 0
        for element, parameter, runs in launches(grain.runs(shape)):
            size = math.prod(runs[:3])
            assert (element, 0 < size <= 2**30) == (end, True)
            end += size
            index = np.unravel_index(element, shape)
            own = {"tensor": 0, "axis": int(index[grain.axis]) if grain.kind == "axis" else 0}.get(grain.kind)
            if own is None:
                blocks = tuple(
                    int(i) // grain.block_size if axis == grain.axis else int(i) for axis, i in enumerate(index)
                )
                own = int(np.ravel_multi_index(blocks, grain.parameter_shape(shape)))
            assert parameter + int(parameter_index(geometry(runs), 0)) == own
        assert end == math.prod(shape)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_pair_of_lanes_has_every_quad_once_and_whole_sectors(size: int) -> None:
    per_access = quads_per_access(size)
    held = [[quad_of(position, odd, per_access) for position in range(4)] for odd in range(2)]
    assert sorted(itertools.chain(*held)) == list(range(8))
    for first in range(0, 4, per_access):  # an access of each lane: together whole sectors of 32 bytes
        places = sorted(quad * 4 * size for lane in held for quad in lane[first : first + per_access])
        whole = max(4 * size * per_access * 2, 32)
        assert places[0] % 32 == 0
        assert [place - places[0] for place in places] == list(range(0, whole, 4 * size))
