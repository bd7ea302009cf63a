"""How a product is cut: blocks of rows and columns, each by one thread, and passes along k. Pure functions.

           columns                one pass: a block of b, `columns` × `depth` codes, lies in L2, and each strip of a, a
          ┌───────┬───────┐       tile's rows × `depth` codes, in L1 beside the panel of b that it meets
     rows │ block │       │
          ├───────┼───────┤       passes: k is cut into equal depths of at most DEPTH
          │       │       │
          └───────┴───────┘

Few blocks would leave threads without work, so they shrink until all threads have some, first in rows, which only
costs reading b again, then in columns, for each of which a's strips are filled anew.
"""

from __future__ import annotations

from typing import NamedTuple

from gpuq.cpu.isa import InstructionSet
from gpuq.cpu.tiles import DEPTH, group_length

BLOCK_CODES = 1 << 17  # of b in a block and pass: a quarter of L2 where that is small, and read once for each strip
MOST_COLUMNS = 512  # the sums of a strip, 12 or 24 KB, stay in L1 while they are finished
MOST_ROWS = 192  # the sums of a block of several passes, 192 KB, stay in L2 too
PIECES = 4  # blocks for each thread, where there is work for them: a slow one then keeps nobody waiting
SMALLEST = 1 << 19  # multiply-adds of a block: some 10 µs


class Blocks(NamedTuple):
    """Rows and columns of a block, whole tiles of them, and steps of a pass along k."""

    rows: int
    columns: int
    steps: int


def choose_blocks(m: int, k: int, n: int, isa: InstructionSet, products: int, threads: int) -> Blocks:
    """The blocks of `products` products of m × k by k × n codes."""
    group = group_length(isa, k)
    steps = max(1, -(-k // group))
    passes = -(-steps * group // max(DEPTH, group))
    depth = -(-steps // passes)
    strips, panels = max(1, -(-m // isa.rows)), max(1, -(-n // isa.columns))
    own_panels = _equal(panels, max(1, min(MOST_COLUMNS, BLOCK_CODES // (depth * group)) // isa.columns))
    own_strips = _equal(strips, MOST_ROWS // isa.rows)
    wanted = min(PIECES * threads, products * m * k * n // SMALLEST) if threads > 1 else 1
    while products * -(-strips // own_strips) * -(-panels // own_panels) < wanted and own_strips * own_panels > 1:
        if own_strips > 4 or own_panels == 1:
            own_strips = -(-own_strips // 2)
        else:
            own_panels = -(-own_panels // 2)
    return Blocks(_equal(strips, own_strips) * isa.rows, _equal(panels, own_panels) * isa.columns, depth)


def count_blocks(shape: tuple[int, ...], blocks: Blocks) -> int:
    """Blocks of a result of shape (products, m, n)."""
    return shape[0] * -(-shape[1] // blocks.rows) * -(-shape[2] // blocks.columns)


def _equal(count: int, most: int) -> int:
    """The size of the largest piece where `count` is cut into as few nearly equal pieces of at most `most` as it can
    be.
    """
    return -(-count // -(-count // most))
