"""A large array in pieces that lie in one go in a file, and which parameters belong to each.

    shape (4, 6, 100), pieces of at most 250 elements:  [0, 0:2, :] [0, 2:4, :] [0, 4:6, :] [1, 0:2, :] …

Axes are cut from the first one on, each only where one index of it is too large for a piece. Blocks along an axis stay
whole: that axis is cut between blocks, and none behind it, so that a block may make a piece larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from gpuq.layout import Granularity, Shape


class Slab(NamedTuple):
    """A piece: where it begins and ends along each axis, and its elements' place in C order."""

    starts: Shape
    stops: Shape
    first: int

    @property
    def shape(self) -> Shape:
        """The piece's shape, of as many axes as the array's."""
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    def parameters(self, grain: Granularity) -> tuple[slice, ...]:
        """Which of the parameters, of the shape that granularity gives them, are the piece's."""
        if grain.kind == "tensor":
            return ()
        pairs = list(zip(self.starts, self.stops, strict=True))
        if grain.kind == "axis":
            return (slice(*pairs[grain.axis]),)
        start, stop = pairs[grain.axis]
        pairs[grain.axis] = start // grain.block_size, -(-stop // grain.block_size)
        return tuple(slice(*pair) for pair in pairs)


def slabs(shape: Shape, elements: int, grain: Granularity) -> Iterator[Slab]:
    """The pieces, in C order, each of at most so many elements where blocks allow it; none of an empty array."""
    if math.prod(shape) == 0:
        return
    axis, last = 0, grain.axis if grain.kind == "block" else len(shape) - 1
    while axis < last and math.prod(shape[axis + 1 :]) > elements:
        axis += 1
    if not shape:
        yield Slab((), (), 0)
        return
    inner, unit = math.prod(shape[axis + 1 :]), grain.block_size if grain.kind == "block" and axis == last else 1
    step = max(1, elements // (inner * unit)) * unit
    rest = len(shape) - axis - 1
    for row in range(math.prod(shape[:axis])):
        outer = _place(row, shape[:axis])
        for start in range(0, shape[axis], step):
            stop = min(start + step, shape[axis])
            ends = tuple(index + 1 for index in outer)
            first = (row * shape[axis] + start) * inner
            yield Slab((*outer, start, *[0] * rest), (*ends, stop, *shape[axis + 1 :]), first)


def _place(row: int, shape: Shape) -> Shape:
    """The indices of an element by its place in C order."""
    indices: list[int] = []
    for length in reversed(shape):
        row, index = divmod(row, length)
        indices.insert(0, index)
    return tuple(indices)
