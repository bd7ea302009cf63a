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
from gpuq.cuda.geometry import geometry, keeps_quads_together, launches, parameter_index  # noqa: E402
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


@pytest.mark.parametrize(("shape", "grain"), GRAINS, ids=str)
def test_quads_that_share_parameters(shape: tuple[int, ...], grain: Granularity) -> None:
    """Where it says so, every whole quad has one parameter, or four that begin at a multiple of 4."""
    runs, own = grain.runs(shape), owners(shape, grain)
    quads = own[: own.size // 4 * 4].reshape(-1, 4)
    if runs.varying:
        together = (np.diff(quads, axis=1) == 1).all() and (quads[:, 0] % 4 == 0).all()
    else:
        together = (quads == quads[:, :1]).all()
    assert together or not keeps_quads_together(runs)


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
